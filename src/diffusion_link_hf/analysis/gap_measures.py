"""What the gap report measures of fitted bridges on held-out recordings, over methods and seeds."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..bridges.base import BridgeModel, Modality
from ..embeddings.pairs import EmbeddingPairs
from ..errors import DataError, InputError
from .bootstrap import Estimate, GroupBootstrap, average
from .geometry import (
    KL_COMPONENTS,
    centroid_distance,
    effective_dimension,
    kl_divergence,
    linear_separability,
    principal_axes,
)
from .readout_measures import ReadoutFigures, measure_readouts
from .retrieval import CUTOFFS, recall
from .similarity import distinct_items, matched_cosine, unmatched_cosine

# What a bridge has to beat, as far as it was measured.
BASELINES = ("identity", "centering", "ridge", "procrustes", "mlp")


@dataclass(frozen=True)
class FittedBridge:
    """A bridge to be measured.

    Attributes:
        method: its name in the tables; bridges of one name are seeds of one method.
        bridge: fitted, in evaluation mode.
        seed: of its training.
        steps: optimization steps, 0 for a closed form; None where that is not known.
        seconds: that fitting took; None where that is not known.
        options: of `BridgeModel.bridge`, such as ``noise_timestep``.
        recipe: arguments of `train_bridge` in which it differs from the others of its report.
    """

    method: str
    bridge: BridgeModel
    seed: int = 0
    steps: int | None = 0
    seconds: float | None = None
    options: dict[str, int | bool] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GapSettings:
    """How bridges are measured.

    Attributes:
        resamples: of the bootstrap.
        seed: of the bootstrap, of the classifier's held-out recordings, and of the bridges' noise.
        kl_components: principal axes of the text in which the KL divergence is taken.
        batch_size: rows bridged at once; the figures do not depend on it.
        geometry: whether the geometry is measured, too.
    """

    resamples: int = 1000
    seed: int = 0
    kl_components: int = KL_COMPONENTS
    batch_size: int = 512
    geometry: bool = True

    def __post_init__(self):
        for name in ("resamples", "kl_components", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(name, f"is {getattr(self, name)}", "Use at least 1")


@dataclass(frozen=True)
class Measured:
    """The figures of one bridge.

    Attributes:
        estimates: with their resamples: ``matched_audio``, ``matched_text``, ``unmatched_audio``, ``unmatched_text``
            (cosines with the real text; "audio" and "text" say what was bridged) and `recall`'s.
        geometry: without: ``centroid_distance``, ``linear_separability``, ``effective_dimension``, ``kl_divergence`` of
            bridged audio against real text, and ``text_effective_dimension`` of the latter.
        seconds: bridging took, per 1,000 rows.
        readouts: of the bridge, where they were measured.
    """

    estimates: dict[str, Estimate]
    geometry: dict[str, float]
    seconds: float
    readouts: ReadoutFigures | None = None


@dataclass(frozen=True)
class MethodResult:
    """The figures of one method.

    Attributes:
        method: its name.
        runs: the bridges, in the order of their seeds, and what was measured of each, row for row.
    """

    method: str
    runs: tuple[tuple[FittedBridge, Measured], ...]

    def estimate(self, name: str) -> Estimate:
        """The mean over seeds; its interval is that over recordings."""
        return average([measured.estimates[name] for _, measured in self.runs])

    def by_seed(self, name: str) -> list[float]:
        """The figure of each seed."""
        return [
            measured.estimates[name].value if name in measured.estimates else measured.geometry[name]
            for _, measured in self.runs
        ]


def check_data(held_out: EmbeddingPairs, train: EmbeddingPairs, settings: GapSettings) -> None:
    """Refuses data on which some figure could not be had, before time is spent on training.

    Raises:
        DataError: too few held-out recordings, or too little text for the KL divergence.
    """
    recordings = len(held_out.group.unique())
    if recordings < 4:
        raise DataError(held_out.name, f"has {recordings} held-out recordings", "Hold out at least four")
    if settings.geometry:
        real = distinct_items(held_out.target, held_out.group)[0]
        queries = distinct_items(held_out.source, held_out.group)[0]
        axes = principal_axes(train.target, settings.kl_components)
        try:
            _check_components(real, queries, axes)
        except InputError as error:
            raise DataError(
                held_out.name,
                f"cannot be measured in {axes.shape[1]} KL components ({error.item} {error.problem})",
                _remedy(real, queries, axes),
            ) from error


def _check_components(real: torch.Tensor, queries: torch.Tensor, axes: torch.Tensor) -> None:
    kl_divergence(real, real, axes)
    if len(queries) <= axes.shape[1] + 2:
        raise InputError("held-out items", f"are {len(queries)}", f"The KL divergence has {axes.shape[1]} axes")


def _remedy(real: torch.Tensor, queries: torch.Tensor, axes: torch.Tensor) -> str:
    """The most components that can be measured, if there are any."""
    for components in range(axes.shape[1] - 1, 0, -1):
        try:
            _check_components(real, queries, axes[:, :components])
        except InputError:
            continue
        return f"Use kl_components={components}, or hold out more recordings"
    return "Leave the geometry out (geometry=False), or hold out more recordings"


def measure_bridges(
    bridges: Sequence[FittedBridge],
    held_out: EmbeddingPairs,
    train: EmbeddingPairs,
    settings: GapSettings | None = None,
    validation: EmbeddingPairs | None = None,
) -> list[MethodResult]:
    """Measure every bridge on the same held-out rows with the same resamples, so that methods compare as pairs.

    Args:
        bridges: in any order; methods keep that of their first bridge.
        held_out: rows that no bridge was fitted on.
        train: the rest, whose real text gives the axes of the KL divergence.
        settings: `GapSettings()` by default.
        validation: with them, read-outs are fitted to every bridge (see `fit_readouts`), chosen on these pairs, and
            measured too. No bridge was fitted on them.

    Raises:
        DataError: see `check_data`; a bridge of another width.

    Examples:
        >>> from diffusion_link_hf import MeanCentering
        >>> text = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> train = EmbeddingPairs(text[:40] + 1, text[:40])
        >>> held_out = EmbeddingPairs(text[40:] + 1, text[40:])
        >>> bridge = MeanCentering(4).fit(train.source, train.target).eval()
        >>> settings = GapSettings(resamples=20, kl_components=2)
        >>> (result,) = measure_bridges([FittedBridge("centering", bridge)], held_out, train, settings)
        >>> 0.5 < result.estimate("matched_audio").value < 1
        True
    """
    settings = settings or GapSettings()
    check_data(held_out, train, settings)
    boot = GroupBootstrap(held_out.group.numpy(), settings.resamples, settings.seed)
    runs: dict[str, list[tuple[FittedBridge, Measured]]] = {}
    for fitted in bridges:
        measured = measure(fitted, held_out, train, boot, settings)
        if validation is not None:
            measured = replace(
                measured, readouts=_readouts(fitted, runs.get(fitted.method, ()), train, validation, held_out, boot)
            )
        runs.setdefault(fitted.method, []).append((fitted, measured))
    return [MethodResult(method, tuple(sorted(rows, key=lambda row: row[0].seed))) for method, rows in runs.items()]


def _readouts(
    fitted: FittedBridge,
    earlier: Sequence[tuple[FittedBridge, Measured]],
    train: EmbeddingPairs,
    validation: EmbeddingPairs,
    held_out: EmbeddingPairs,
    boot: GroupBootstrap,
) -> ReadoutFigures:
    """Those of an earlier seed where that gave the very same bridge, as a closed form does."""
    state = fitted.bridge.state_dict()
    for other, measured in earlier:
        same = other.bridge.state_dict()
        if other.options == fitted.options and all(torch.equal(state[name], same[name]) for name in state):
            return measured.readouts
    options = {"options": fitted.options, "seed": fitted.seed}
    return measure_readouts(fitted.bridge, train, validation, held_out, boot, **options)


def measure(
    fitted: FittedBridge,
    held_out: EmbeddingPairs,
    train: EmbeddingPairs,
    boot: GroupBootstrap,
    settings: GapSettings,
) -> Measured:
    """All figures of one bridge; see `measure_bridges`."""
    if fitted.bridge.config.embedding_dim != held_out.embedding_dim:
        raise DataError(
            held_out.name,
            f"is {held_out.embedding_dim} wide, the bridge {fitted.method} {fitted.bridge.config.embedding_dim}",
            "Use embeddings of the encoder that the bridge was trained on",
        )
    started = time.monotonic()
    from_audio, audio_rows = bridge_rows(fitted, held_out.source, "audio", settings)
    from_text, text_rows = bridge_rows(fitted, held_out.target, "text", settings)
    seconds = (time.monotonic() - started) / (audio_rows + text_rows) * 1000
    group, real = held_out.group, target_rows(fitted.bridge, held_out.target)
    estimates = {
        "matched_audio": matched_cosine(from_audio, real, group, boot),
        "matched_text": matched_cosine(from_text, real, group, boot),
        "unmatched_audio": unmatched_cosine(from_audio, real, group, boot),
        "unmatched_text": unmatched_cosine(from_text, real, group, boot),
        **recall(from_audio, real, group, boot, CUTOFFS),
    }
    geometry = {}
    if settings.geometry:
        generated, generated_group = distinct_items(from_audio, group)
        text, text_group = distinct_items(real, group)
        axes = principal_axes(target_rows(fitted.bridge, train.target), settings.kl_components)
        geometry = {
            "centroid_distance": centroid_distance(generated, text),
            "linear_separability": linear_separability(generated, text, generated_group, text_group, settings.seed),
            "effective_dimension": effective_dimension(generated),
            "text_effective_dimension": effective_dimension(text),
            "kl_divergence": kl_divergence(generated, text, axes),
        }
    return Measured(estimates, geometry, seconds)


@torch.no_grad()
def target_rows(bridge: BridgeModel, text: torch.Tensor) -> torch.Tensor:
    """`BridgeModel.target` of text (N, D) on the CPU."""
    return bridge.target(text.to(bridge.device)).cpu()


def bridge_rows(
    fitted: FittedBridge, embeds: torch.Tensor, modality: Modality, settings: GapSettings
) -> tuple[torch.Tensor, int]:
    """Bridge rows (N, D) → (N, D), each distinct one once, and how many distinct ones there are.

    Unlike in a pipeline, where one draw serves all rows, each row has its own noise, as in the paper: shared, it would
    be a bias common to all. It follows from the row's content and ``settings.seed``, so order and batch do not matter.
    """
    distinct, place = embeds.cpu().unique(dim=0, return_inverse=True)
    noise = content_noise(distinct, settings.seed)
    device = fitted.bridge.device
    parts = [
        fitted.bridge.bridge(rows.to(device), modality, noise=own.to(device), **fitted.options).cpu()
        for rows, own in zip(distinct.split(settings.batch_size), noise.split(settings.batch_size), strict=True)
    ]
    return torch.cat(parts)[place], len(distinct)


def content_noise(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """ε ~ N(0, I), (N, D) float32, drawn for each row from a hash of its values and ``seed``."""
    noise = torch.empty(rows.shape, dtype=torch.float32)
    for row, out in zip(rows.float().contiguous().numpy(), noise, strict=True):
        digest = hashlib.blake2b(row.tobytes() + seed.to_bytes(8, "little", signed=True), digest_size=8).digest()
        out.normal_(generator=torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1))
    return noise
