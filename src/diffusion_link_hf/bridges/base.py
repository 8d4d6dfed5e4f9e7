"""The bridge interface: an embedding of either modality in, a text-like embedding out."""

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import torch
from diffusers import DDIMScheduler
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch.nn import functional as F

from ..errors import DataError, InputError, ModelFolderError
from ..loading import PACKAGE, LoadPath, StrictModel, current_name, read_json, resolve_folder
from ..tensors import check_embeddings, rescale_rows
from .readouts import Readouts
from .sampling import (
    TrainingNoise,
    check_noise,
    check_options,
    check_scheduler,
    ddim_sample,
    make_scheduler,
    shallow_timesteps,
)
from .sampling import add_noise as noised

Modality = Literal["audio", "text"]
MODALITIES = ("audio", "text")
OPTIONS = ("scheduler", "generator", "noise", "num_inference_steps", "noise_timestep", "add_noise")  # of `bridge`


class BridgeModel(StrictModel, ABC):
    """Base of every system that maps audio or text embeddings to text-like ones. It cannot be instantiated itself.

    Owns the normalization (paper §2), which happens here and nowhere else. Its statistics are persistent buffers:
    ``audio_mean`` and ``text_mean``, (D,) float32, means of the L2-normalized *training* embeddings, zero until
    `fit_statistics`.

    A subclass implements `_bridge`, in which a row's result must not depend on the rows beside it. A bridge with a
    closed form also implements `_fit`, and a trained one `_training_loss`. Its configuration has ``embedding_dim`` and
    ``scale``; where something is noised, also ``noise_seed`` and ``add_noise``.

    "audio" and "text" name the two sides of any pair of modalities: "audio" is where a bridge comes from, "text" where
    it leads to. For a bridge of reversed pairs (text → audio), or of image and text, read them as source and target.

    Attributes:
        readouts: `Readouts`, set by `fit_readouts` and saved with the weights; None by default.

    Class attributes:
        needs_pairs: whether fitting or training it takes matched rows.

    Examples:
        A bridge of one's own, which any pipeline takes as its link:

        >>> from diffusers.configuration_utils import register_to_config
        >>> class Negation(BridgeModel):
        ...     @register_to_config
        ...     def __init__(self, embedding_dim: int = 512, scale: float = 1.0):
        ...         super().__init__()
        ...         self._register_statistics(embedding_dim)
        ...
        ...     def _bridge(self, embeds, modality, **options):
        ...         return -self.normalize(embeds, modality)
        >>> bridge = Negation(embedding_dim=2)
        >>> bridge.bridge(torch.tensor([[3.0, 4.0]]))
        tensor([[-0.6000, -0.8000]])
        >>> BridgeModel()
        Traceback (most recent call last):
        ...
        TypeError: Can't instantiate abstract class BridgeModel with abstract method _bridge
    """

    needs_pairs: ClassVar[bool] = False

    def __init__(self):
        super().__init__()
        self.register_module("readouts", None)  # `fit_readouts` sets them

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: LoadPath, **kwargs: Any) -> Self:
        """As `StrictModel.from_pretrained`; on `BridgeModel` itself, a bridge of whatever class the folder names.

        Raises:
            ModelFolderError: the folder holds no bridge of this package; see also `StrictModel.from_pretrained`.
            HubAccessError: a Hub id that cannot be reached.
        """
        if cls is not BridgeModel:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
        folder = resolve_folder(pretrained_model_name_or_path, **hub) / (kwargs.get("subfolder") or "")
        name = read_json(folder / cls.config_name).get("_class_name")
        # Only what the package itself exports: loading a folder must never decide what code runs.
        found = getattr(importlib.import_module(PACKAGE), str(current_name(name)), None)
        if not (isinstance(found, type) and issubclass(found, BridgeModel) and found is not BridgeModel):
            raise ModelFolderError(
                folder, f"holds a {name}, which is not a bridge", "Name the folder of a bridge of this package"
            )
        return found.from_pretrained(pretrained_model_name_or_path, **kwargs)

    def _register_statistics(self, embedding_dim: int) -> None:
        self.register_buffer("audio_mean", torch.zeros(embedding_dim))
        self.register_buffer("text_mean", torch.zeros(embedding_dim))

    @torch.no_grad()
    def fit_statistics(self, audio: torch.Tensor | None, text: torch.Tensor) -> None:
        """Sets the modality means from training embeddings, (N, D) and (M, D); computed in float64.

        Without audio (text-only data) the audio mean stays as it is.
        """
        self.text_mean.copy_(F.normalize(rescale_rows(text.double()), dim=-1).mean(0))
        if audio is not None and len(audio):
            self.audio_mean.copy_(F.normalize(rescale_rows(audio.double()), dim=-1).mean(0))

    @torch.no_grad()
    def fit(
        self,
        source: torch.Tensor | None,
        target: torch.Tensor,
        group: torch.Tensor | None = None,
        *,
        unpaired_source: torch.Tensor | None = None,
        unpaired_target: torch.Tensor | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit what has a closed form: the statistics, and the map of a bridge that has one.

        Args:
            source: (N, D) floats of any norm but zero, on the "audio" side; None where there is none.
            target: (N, D), row i belonging to row i of ``source``; (M, D) without ``source``.
            group: (N,) integers; rows of one item (a recording with several captions, say) share theirs. They are held
                out together when something is chosen on held-out items, and an embedding that is repeated within a
                group counts once in the means. By default each row is its own.
            unpaired_source, unpaired_target: (K, D), (L, D) further rows of either side, for statistics and for
                bridges that learn from one side alone.
            seed: of the choice of held-out items.

        Returns:
            The bridge itself, in the mode that it was in.

        Raises:
            DataError: rows of a wrong width, number or content; no pairs for a bridge that needs them.
        """
        empty = target.new_empty(0, target.shape[-1])
        source, lone_source, lone_target = (
            empty if rows is None else rows for rows in (source, unpaired_source, unpaired_target)
        )
        self._check_rows(source, target, lone_source, lone_target, group)
        source, target = rescale_rows(source), rescale_rows(target)
        lone_source, lone_target = rescale_rows(lone_source), rescale_rows(lone_target)
        group = torch.arange(len(target), device=target.device) if group is None else group
        audio = torch.cat([distinct_rows(source, group), lone_source]) if len(source) else lone_source
        text = torch.cat([distinct_rows(target, group), lone_target])
        self.fit_statistics(audio, text)
        self._fit(source, target, group, text, seed)
        return self

    def _fit(
        self, source: torch.Tensor, target: torch.Tensor, group: torch.Tensor, text: torch.Tensor, seed: int
    ) -> None:
        """Sets the map from pairs (N, D), (N, D), (N,) and all distinct text rows (M, D); statistics are fitted."""

    def training_loss(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        scheduler: DDIMScheduler,
        generator: torch.Generator,
        max_train_timestep: int,
        rows: slice = slice(None),
    ) -> torch.Tensor:
        """The loss of a training batch, for bridges that are trained; `train_bridge` minimizes it.

        It draws timesteps and noise for the whole batch, whatever ``rows`` says, and returns the mean over ``rows``.
        So the losses of parts, weighted by their number of rows, add up to the batch's, and do not depend on how many
        processes share it.

        Args:
            source: (P, D) rows of `normalize`, "audio" side; P ≤ B.
            target: (B, D) rows of `normalize`, "text" side. The first P belong to the sources; the others have no
                partner.
            scheduler: the noise process.
            generator: of timesteps and noise, on the CPU.
            max_train_timestep: timesteps are 0 to this, exclusive.
            rows: the part of the batch that the loss is of: a slice of the targets, and of their sources.

        Returns:
            (), with a gradient.

        Raises:
            NotImplementedError: a bridge of a closed form; `DiffusionLinkModel`, whose loss is `diffusion_link_loss`.
        """
        return self._training_loss(source, target, TrainingNoise(scheduler, generator, max_train_timestep), rows)

    def _training_loss(
        self, source: torch.Tensor, target: torch.Tensor, noise: TrainingNoise, rows: slice
    ) -> torch.Tensor:
        """`training_loss`: noise is added to the whole batch, and the mean over ``rows`` is returned."""
        raise NotImplementedError(f"{type(self).__name__} has no training loss: fit() is all of its training")

    def _check_rows(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        lone_source: torch.Tensor,
        lone_target: torch.Tensor,
        group: torch.Tensor | None,
    ) -> None:
        width = self.config.embedding_dim
        for name, rows in {
            "source": source,
            "target": target,
            "more source": lone_source,
            "more target": lone_target,
        }.items():
            if rows.ndim != 2 or rows.shape[1] != width:
                raise DataError(name, f"has shape {tuple(rows.shape)}", f"This bridge takes (N, {width})")
            if not torch.isfinite(rows).all() or (rows == 0).all(1).any():
                raise DataError(name, "has zero, NaN or infinite rows", "Leave those rows out")
        if len(target) + len(lone_target) == 0:
            raise DataError("target", "is empty", "Pass at least one row")
        if len(source) not in (0, len(target)):
            raise DataError("source", f"has {len(source)} rows, target {len(target)}", "Pass matched rows")
        if group is not None and group.shape != (len(target),):
            raise DataError("group", f"has shape {tuple(group.shape)}", f"Use ({len(target)},), one number per row")
        if self.needs_pairs and len(source) < 2:
            raise DataError("source", f"has {len(source)} rows", f"{type(self).__name__} needs matched pairs")

    def target(self, text: torch.Tensor) -> torch.Tensor:
        """What a perfect bridge would return for the partners of ``text``: the text in the space that it leads to.

        Centered by the statistics here; bridges that stay in the encoder's own space override it.

        Args:
            text: (B, D) floats of any norm but zero.

        Returns:
            (B, D) unit rows, float32 (float64 for float64 input).
        """
        return F.normalize(self.normalize(text, "text"), dim=-1)

    def normalize(self, embeds: torch.Tensor, modality: Modality) -> torch.Tensor:
        """L2-normalize, subtract the modality's mean, L2-normalize, multiply by ``scale`` (paper §2).

        (B, D) of any norm but zero → (B, D) of norm ``config.scale``, float32 (float64 for float64 input).
        """
        return self._normalize(rescale_rows(embeds), modality)

    def _normalize(self, embeds: torch.Tensor, modality: Modality) -> torch.Tensor:
        """`normalize` of rows that were rescaled."""
        dtype = torch.float64 if embeds.dtype == torch.float64 else torch.float32
        mean = self.audio_mean if modality == "audio" else self.text_mean
        centered = F.normalize(embeds.to(dtype), dim=-1) - mean.to(dtype)
        return F.normalize(centered, dim=-1) * self.config.scale

    @apply_forward_hook
    @torch.no_grad()
    def bridge(
        self,
        embeds: torch.Tensor,
        modality: Modality = "audio",
        *,
        scheduler: DDIMScheduler | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        noise_timestep: int | None = None,
        add_noise: bool | None = None,
    ) -> torch.Tensor:
        """Map embeddings to text-like ones.

        Every bridge takes every option, so that it can stand in for any other: it checks them all and uses those that
        concern it. Dropout is off meanwhile, in whatever mode the bridge is. Where `fit_readouts` found a stack,
        "audio" goes through the stack too; text does not.

        Args:
            embeds: (B, D) dense floats of 16 to 64 bits, of any norm but zero.
            modality: where they come from.
            scheduler: noise process of the diffusion bridges; `bridges.sampling.make_scheduler()` by default.
            generator, noise: see `draw_noise`; at most one of them. Unused where nothing is noised.
            num_inference_steps, noise_timestep, add_noise: override the configuration of the same names.

        Returns:
            (B, D) unit rows, in the dtype of ``embeds``; row i depends on row i alone.

        Raises:
            InputError: a wrong shape, width, dtype or modality; NaN, infinite or all-zero rows; an option of a wrong
                type or out of range; see also `draw_noise`, `bridges.sampling.shallow_timesteps` and
                `bridges.sampling.check_scheduler`.
        """
        options = {
            "scheduler": scheduler,
            "generator": generator,
            "noise": noise,
            "num_inference_steps": num_inference_steps,
            "noise_timestep": noise_timestep,
            "add_noise": add_noise,
        }
        check_call(embeds, modality, self.config.embedding_dim, **options)
        rows = rescale_rows(embeds)
        bridged = self._unit_bridged(rows, modality, options)
        if modality == "audio" and self.readouts is not None and self.readouts.stack is not None:
            source = self._normalize(rows, "audio")
            stacked = self.readouts.stacked(bridged.to(source.dtype) * self.config.scale, source)
            bridged = F.normalize(stacked, dim=-1)
        return bridged.to(embeds.dtype)

    @apply_forward_hook
    @torch.no_grad()
    def retrieval_source(self, embeds: torch.Tensor, **options: Any) -> torch.Tensor:
        """Vectors of the "audio" side whose inner product with those of `retrieval_target` is the retrieval score.

        The score is log p(x, y) / p(x) p(y) up to a constant: see `Readouts`. Use an index of inner products, such as
        ``faiss.IndexFlatIP``. Their norms carry the score's biases, so an index of cosines is wrong.

        Args:
            embeds: (B, D) as for `bridge`.
            options: of `bridge`. They matter where the score reads the bridge's output, and then should be those of
                the fit.

        Returns:
            (B, D + 2) float32 (float64 for float64 input); row i depends on row i alone.

        Raises:
            InputError: no read-outs were fitted; see also `bridge`.
            TypeError: an option that `bridge` does not have.

        Examples:
            >>> from diffusion_link_hf import EmbeddingPairs, LinearBridge, fit_readouts
            >>> text = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
            >>> audio = text.roll(1, dims=1) + 1
            >>> bridge = LinearBridge(embedding_dim=4).fit(audio[:150], text[:150])
            >>> pairs = EmbeddingPairs(audio[:150], text[:150])
            >>> _ = fit_readouts(bridge, pairs, EmbeddingPairs(audio[150:], text[150:]), steps=0)
            >>> scores = bridge.retrieval_source(audio[150:]) @ bridge.retrieval_target(text[150:]).T
            >>> bool((scores.argmax(1) == torch.arange(50)).float().mean() > 0.8)
            True
        """
        readouts = self._fitted_readouts()
        options = {**dict.fromkeys(OPTIONS), **options}
        check_call(embeds, "audio", self.config.embedding_dim, **options)
        rows = rescale_rows(embeds)
        source, bridged = self._normalize(rows, "audio"), None
        if readouts.score_needs_bridge:
            bridged = self._unit_bridged(rows, "audio", options).to(source.dtype) * self.config.scale
        return readouts.source_vectors(bridged, source)

    @apply_forward_hook
    @torch.no_grad()
    def retrieval_target(self, embeds: torch.Tensor) -> torch.Tensor:
        """Vectors of the "text" side, for `retrieval_source`.

        Args:
            embeds: (B, D) as for `bridge`.

        Returns:
            (B, D + 2) float32 (float64 for float64 input); row i depends on row i alone.

        Raises:
            InputError: no read-outs were fitted, or rows that `bridge` would not take.
        """
        readouts = self._fitted_readouts()
        check_embeddings(embeds, self.config.embedding_dim)
        return readouts.target_vectors(self.normalize(embeds, "text"))

    def _unit_bridged(self, rows: torch.Tensor, modality: Modality, options: dict[str, Any]) -> torch.Tensor:
        """(B, D) → (B, D) of norm 1: the bridge's own output, without a stack."""
        with evaluating(self):
            return F.normalize(self._bridge(rows, modality, **options), dim=-1)

    def _fitted_readouts(self) -> Readouts:
        if self.readouts is None:
            raise InputError("bridge", "has no read-outs", "Fit them with fit_readouts(bridge, pairs, validation)")
        return self.readouts

    def _fix_state_dict_keys_on_load(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Called by `from_pretrained` with what the file holds: makes room for read-outs that are in it."""
        super()._fix_state_dict_keys_on_load(state_dict)
        self._make_room(state_dict, "")

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Called by `load_state_dict`, before the children's."""
        self._make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_room(self, state_dict: dict[str, torch.Tensor], prefix: str) -> None:
        found = Readouts.in_state(state_dict, prefix)
        if found is not None:
            # On meta while `from_pretrained` reads the file, as everything else is.
            self.readouts = torch.nn.Module.to(found, self.audio_mean.device, self.audio_mean.dtype)

    @abstractmethod
    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        """(B, D) checked embeddings → (B, D) text-like ones of any norm.

        Args:
            embeds: rows of any norm but zero, whose largest absolute value is in [1, 2).
            options: all those of `bridge`, by name, checked; those that do not concern a bridge it leaves alone.
        """

    def _denoise(
        self,
        predict: Callable[[torch.Tensor, int], torch.Tensor],
        embeds: torch.Tensor,
        modality: Modality,
        *,
        before_step: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """`_bridge` of the shallow diffusion bridges: `_noised`, then DDIM to the clean sample.

        Args:
            predict, before_step: see `bridges.sampling.ddim_sample`.
        """
        state, scheduler, timesteps = self._noised(embeds, modality, **options)
        return ddim_sample(predict, state, scheduler, timesteps, before_step)

    def _noised(
        self,
        embeds: torch.Tensor,
        modality: Modality,
        *,
        noise_timestep: int,
        scheduler: DDIMScheduler | None,
        generator: torch.Generator | list[torch.Generator] | None,
        noise: torch.Tensor | None,
        num_inference_steps: int | None,
        add_noise: bool | None,
    ) -> tuple[torch.Tensor, DDIMScheduler, list[int]]:
        """Where the shallow diffusion bridges start: rows normalized, and noised to s* where wanted.

        The state stays in float32 whatever the network's dtype: some roundings of it would show.

        Args:
            noise_timestep: s*; the other options are those of `bridge`, by default the configuration's.

        Returns:
            The state (B, D), the scheduler and the grid of timesteps.
        """
        scheduler = scheduler or _default_scheduler()
        check_scheduler(scheduler)
        timesteps = shallow_timesteps(
            noise_timestep,
            self.config.num_inference_steps if num_inference_steps is None else num_inference_steps,
            scheduler.config.num_train_timesteps,
        )
        state = self._normalize(embeds, modality)
        if self.config.add_noise if add_noise is None else add_noise:
            epsilon = self.draw_noise(len(embeds), generator, noise).to(state.device, state.dtype)
            state = noised(state, epsilon, timesteps[0], scheduler)
        return state, scheduler, timesteps

    def draw_noise(
        self,
        rows: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Standard normal noise for ``rows`` rows, always drawn on the generator's device in float32.

        Args:
            generator: one generator gives *one* (1, D) draw that all rows share: with a draw per row, an embedding's
                result would depend on its place in the batch. A list gives each row its own. None uses a fresh one
                seeded with ``config.noise_seed``.
            noise: explicit ε, (B, D) or (1, D) finite floats, instead of a generator.

        Raises:
            InputError: ``noise`` of another shape, a list of another length; see also `bridges.sampling.check_noise`.
        """
        check_noise(generator, noise)
        width = self.config.embedding_dim
        if noise is not None:
            if noise.shape not in ((rows, width), (1, width)):
                raise InputError("noise", f"has shape {tuple(noise.shape)}", f"Use ({rows}, {width}) or (1, {width})")
            return noise

        def draw(generator: torch.Generator) -> torch.Tensor:
            return torch.randn(1, width, generator=generator, device=generator.device)

        if isinstance(generator, (list, tuple)):
            if len(generator) != rows:
                raise InputError(
                    "generator",
                    f"is a list of {len(generator)}",
                    f"Pass one generator per row ({rows}), or a single one",
                )
            return torch.cat([draw(one) for one in generator]) if generator else torch.empty(0, width)
        return draw(generator or torch.Generator().manual_seed(self.config.noise_seed))


def check_call(embeds: torch.Tensor, modality: Modality, embedding_dim: int, **options: Any) -> None:
    """Checks what `BridgeModel.bridge` is given.

    Args:
        embeds: to be (B, ``embedding_dim``).
        options: of `bridges.sampling.check_options`.

    Raises:
        InputError: what `BridgeModel.bridge` cannot take.

    Examples:
        >>> check_call(torch.ones(3, 8), "audio", 8, noise_timestep=100)
        >>> check_call(torch.zeros(3, 8), "audio", 8)
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.InputError: embeds: row 0 is zero, NaN or infinite (3 such rows). Leave those rows out
    """
    check_modality(modality)
    check_embeddings(embeds, embedding_dim)
    check_options(**options)


def check_modality(modality: object) -> None:
    """Raises InputError for what is neither "audio" nor "text".

    Examples:
        >>> check_modality("text")
    """
    if not (isinstance(modality, str) and modality in MODALITIES):
        raise InputError("modality", f"is {modality!r}", "Use 'audio' or 'text'")


def check_noise_is_used(bridge: BridgeModel | None, noise: torch.Tensor | None, add_noise: bool | None) -> None:
    """Raises InputError for explicit noise where ``add_noise``, as given or as configured, says that there is none.

    For pipelines: `BridgeModel.bridge` leaves unused what does not concern a bridge, so that one call serves all.

    Examples:
        >>> check_noise_is_used(None, torch.randn(1, 8), add_noise=True)
    """
    if noise is None or (bridge is not None and "add_noise" not in bridge.config):
        return
    configured = None if bridge is None else bridge.config.add_noise
    if (configured if add_noise is None else add_noise) is False:
        raise InputError("noise", "is given, but add_noise is False", "Leave it out, or use add_noise=True")


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards each submodule is in its own mode again.

    Examples:
        >>> dropout = torch.nn.Dropout()
        >>> with evaluating(dropout):
        ...     dropout.training
        False
        >>> dropout.training
        True
    """
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@functools.cache
def _default_scheduler() -> DDIMScheduler:
    """One for all calls, which only read it: to make one takes longer than to bridge a row."""
    return make_scheduler()


def distinct_rows(rows: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Rows (N, D) without the repetitions of one embedding within a group (N,), sorted by group.

    Examples:
        >>> distinct_rows(torch.tensor([[1.0], [1.0], [2.0], [1.0]]), torch.tensor([0, 0, 0, 1])).flatten()
        tensor([1., 2., 1.])
    """
    order = group.argsort(stable=True)
    rows, group = rows[order], group[order]
    repeated = (group[1:] == group[:-1]) & (rows[1:] == rows[:-1]).all(1)
    return rows[torch.cat([repeated.new_ones(min(len(rows), 1)), ~repeated])]
