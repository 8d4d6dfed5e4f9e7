"""The gap experiment: fit bridges with equal budgets, measure the modality gap before and after, write a report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..analysis.gap_measures import (
    FittedBridge,
    GapSettings,
    bridge_rows,
    check_data,
    measure_bridges,
    target_rows,
)
from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..errors import InputError
from ..reports.figures import (
    Projection,
    check_libraries,
    draw_heat_maps,
    draw_map,
    draw_timestep_curve,
)
from ..reports.gap import AUDIO_TO_TEXT, gap_document, gap_markdown
from ..reports.markdown import write_document
from .choices import Budget, DataChoice
from .data import split_pairs, split_validation
from .fitting import bridge_folder, fit_bridges, folder_name, load_bridge
from .methods import check_start, chosen_methods
from .progress import say
from .variants import Experiment, Variant, read_experiment

MAP_PAIRS = 300  # of the joined maps: more hide each other
HEAT_MAP_PAIRS = 40
SOURCE_TO_TARGET = ("source", "target")


def gap(
    embeddings: str | Path | EmbeddingPairs | EmbeddingCache,
    output: str | Path,
    *,
    methods: Sequence[str] | None = None,
    variants: str | Path | Experiment | None = None,
    bridges: Mapping[str, str | Path] | None = None,
    model: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 5e-4,
    held_out: float = 0.1,
    test: str | Path | EmbeddingPairs | EmbeddingCache | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    reverse: bool = False,
    names: Sequence[str] = (),
    clap: str | None = None,
    clap_revision: str | None = None,
    split: str | None = None,
    readouts: bool = False,
    validation: str | Path | EmbeddingPairs | EmbeddingCache | None = None,
    resamples: int = 1000,
    kl_components: int = 32,
    geometry: bool = True,
    projection: Projection = "umap",
    figures: bool = True,
    pictures: Sequence[str] = (),
    keep_bridges: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Fit bridges on the same recordings with equal budgets, and measure all on the same held-out recordings.

    Writes ``output/report.md``, ``output/results.json`` and pictures. identity (the raw embeddings), centering and
    ridge are in every report. Equal arguments give equal files, except for times.

    Args:
        embeddings: an embedding cache or pairs, in memory or by path, or recordings with captions, which are embedded
            into ``output/embeddings`` first (see ``clap``).
        output: folder of the report, created if absent.
        methods: names of `METHODS`, "all" (without the slow U-Net) or "none". By default all, or none where variants
            are given.
        variants: also these variants of bridges: a YAML file, see `read_experiment`.
        bridges: also these fitted bridges, name → folder or Hub id. They must not have seen the held-out recordings.
        model: also this pipeline's link, folder or Hub id, in the tables as "model". Its CLAP embeds recordings where
            ``clap`` is not given.
        seeds: of the trainings; figures are means over them.
        steps, batch_size, learning_rate: the budget that all trained bridges share.
        held_out: share of recordings to measure on, between 0 and 1.
        test: embeddings to measure on instead; then all of ``embeddings`` are fitted on.
        split_seed: of the choice of held-out recordings, the bootstrap and the bridges' noise.
        limit: number of recordings to use.
        reverse: whether to bridge target → source instead.
        names: what source and target are called in the report: by default audio and text where recordings, a cache or
            a CLAP are known, and source and target of other pairs. Only a report from audio to text shows the paper's
            figures beside the measured ones.
        clap: folder or Hub id of the CLAP, or of a pipeline, that embeds recordings.
        clap_revision: branch, tag or commit of a CLAP on the Hub.
        split: of the recordings, such as "test".
        readouts: whether to fit read-outs to every bridge (see `fit_readouts`) and compare them, with and without CSLS.
        validation: pairs on which read-outs are chosen; by default a tenth of the recordings to fit on, which no bridge
            is then fitted on either.
        resamples: of the bootstrap over recordings.
        kl_components: principal axes of the real target in which the KL divergence is taken.
        geometry: whether to measure geometry (KL divergence, separability, dimension), which needs more data.
        projection: "umap" or "pca", of the maps.
        figures: whether to draw pictures, which needs the extra ``analysis``.
        pictures: methods to draw maps of; the most similar one by default.
        keep_bridges: whether to keep the fitted bridges, in ``output/bridges``.
        progress: whether to report progress on standard error.

    Returns:
        What results.json holds; see `gap_document`.

    Raises:
        DiffusionLinkError: an unknown method, data that cannot be used, or a library that is not installed; all of
            that before anything is trained.

    Examples:
        >>> import tempfile, torch
        >>> from diffusion_link_hf import EmbeddingPairs, gap
        >>> _ = torch.manual_seed(0)
        >>> text = torch.randn(100, 8)
        >>> pairs = EmbeddingPairs(text + 0.1 * torch.randn(100, 8) + 2, text)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     document = gap(pairs, folder, methods=["none"], held_out=0.4, kl_components=4, figures=False)
        >>> list(document["methods"])
        ['identity', 'centering', 'ridge']
        >>> raw, centered = (document["methods"][name]["figures"] for name in ("identity", "centering"))
        >>> raw["matched_audio"]["value"] < centered["matched_audio"]["value"]
        True
    """
    settings = GapSettings(resamples=resamples, seed=split_seed, kl_components=kl_components, geometry=geometry)
    choice = DataChoice(embeddings, held_out, test, split_seed, limit, reverse, clap, split, clap_revision)
    budget = Budget(steps, batch_size, learning_rate)
    sides = _sides(names or _default_names(embeddings), reverse)
    experiment = _experiment(variants)
    rows = _rows(methods, experiment, bridges or {}, model)
    for name in pictures:
        if name not in [row.name for row in rows]:
            raise InputError(
                "pictures",
                f"there is no method {name!r} in the report",
                f"Use any of {', '.join(row.name for row in rows)}",
            )
    if validation is not None and not readouts:
        raise InputError("validation", "is given, but nothing is chosen on it", "Use readouts=True, or leave it out")
    if figures:
        check_libraries(projection)
    train, measured, data = split_pairs(choice, output, None if model is None else str(model), progress)
    chosen_on = None
    if readouts:
        train, chosen_on, data["validation"] = split_validation(choice, train, validation)
        data |= {"train_rows": len(train.target), "train_recordings": len(train.group.unique())}
    check_data(measured, train, settings)
    given = _load_bridges(rows)
    with bridge_folder(output, keep_bridges) as folder:
        trained = [row for row in rows if row.bridge is None]
        fitted = fit_bridges(trained, train, folder, seeds=seeds, budget=budget, progress=progress)
    fitted += given
    say("measuring", progress)
    document = gap_document(
        measure_bridges(fitted, measured, train, settings, chosen_on),
        data,
        asdict(budget),
        settings,
        title=experiment.title,
        references=[row.name for row in experiment.variants[:1] if row.group is None],
        names=sides,
        grid=[row.point for row in rows if row.group is not None],
    )
    files = []
    if figures:
        chosen = pictures or [_most_similar(document)]
        say(f"drawing {', '.join(chosen)}", progress)
        files = _draw_pairs(Path(output), fitted, chosen, measured, settings, projection, sides)
        files += _draw_curves(Path(output), document)
    write_document(document, gap_markdown(document, files), output)
    return document


def _default_names(embeddings: str | Path | EmbeddingPairs | EmbeddingCache) -> tuple[str, str]:
    """Nothing says what pairs are of, unless a CLAP is known to have made them."""
    if isinstance(embeddings, EmbeddingPairs):
        return SOURCE_TO_TARGET if embeddings.clap is None else AUDIO_TO_TEXT
    is_pairs = not isinstance(embeddings, EmbeddingCache) and Path(embeddings).suffix == ".safetensors"
    return SOURCE_TO_TARGET if is_pairs else AUDIO_TO_TEXT


def _sides(names: Sequence[str], reverse: bool) -> tuple[str, str]:
    if isinstance(names, str) or len(names) != 2 or not all(names) or names[0] == names[1]:
        raise InputError("names", f"are {names!r}", "Name source and target, such as image and text")
    return (names[1], names[0]) if reverse else (names[0], names[1])


def _experiment(variants: str | Path | Experiment | None) -> Experiment:
    if variants is None:
        return Experiment("Modality gap", ())
    return variants if isinstance(variants, Experiment) else read_experiment(variants)


def _rows(
    methods: Sequence[str] | None, experiment: Experiment, bridges: Mapping[str, str | Path], model: str | Path | None
) -> list[Variant]:
    """All rows of the tables: methods, variants, and what was fitted before."""
    if methods is None:
        methods = ["none"] if experiment.variants else ["all"]
    rows = [*(Variant(name, name) for name in chosen_methods(methods)), *experiment.variants]
    rows += [Variant(name, bridge=str(folder)) for name, folder in bridges.items()]
    if model is not None:
        rows.append(Variant("model", bridge=str(model)))
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InputError("the methods", f"name {name!r} twice", "Give each row its own name")
    return rows


def _load_bridges(rows: Sequence[Variant]) -> list[FittedBridge]:
    """The bridges that were fitted before, each folder read once."""
    loaded, fitted = {}, []
    for row in rows:
        if row.bridge is None:
            continue
        if row.bridge not in loaded:
            loaded[row.bridge] = load_bridge(row.bridge)
        if row.group is not None:
            check_start(row.group, loaded[row.bridge])
        fitted.append(FittedBridge(row.name, loaded[row.bridge], steps=None, options=row.sample))
    return fitted


def _most_similar(document: Mapping[str, Any]) -> str:
    cosines = {name: method["figures"]["matched_audio"]["value"] for name, method in document["methods"].items()}
    return max((name for name in cosines if name != "identity"), key=cosines.__getitem__)


def _draw_pairs(
    output: Path,
    fitted: Sequence[FittedBridge],
    chosen: Sequence[str],
    held_out: EmbeddingPairs,
    settings: GapSettings,
    projection: Projection,
    names: tuple[str, str],
) -> list[str]:
    """Maps and heat maps of the chosen methods' first seeds; the file names."""
    groups, place = held_out.group.unique(return_inverse=True)
    order = torch.argsort(place, stable=True)
    # A pair per recording: its first row.
    first_rows = order[torch.cat([torch.tensor([0]), place.bincount().cumsum(0)[:-1]])]
    pairs = held_out.select(first_rows[: min(MAP_PAIRS, len(groups))])
    before, few = (pairs.source, pairs.target), slice(0, HEAT_MAP_PAIRS)
    files = []
    for name in chosen:
        bridge = next(one for one in fitted if one.method == name)
        after = bridge_rows(bridge, pairs.source, "audio", settings)[0], target_rows(bridge.bridge, pairs.target)
        joined, heat = f"map_{folder_name(name)}.svg", f"heat_map_{folder_name(name)}.svg"
        draw_map(output / joined, before, after, name, projection, settings.seed, names)
        draw_heat_maps(
            output / heat, tuple(side[few] for side in before), tuple(side[few] for side in after), name, names
        )
        files += [joined, heat]
    return files


def _draw_curves(output: Path, document: Mapping[str, Any]) -> list[str]:
    """Curves by s* of a report with a grid; the file names."""
    files = []
    if document["grid"]:
        for figure, name in (("matched_audio", "matched_cosine"), ("source_to_target_r1", "recall")):
            files.append(f"{name}_by_timestep.svg")
            draw_timestep_curve(output / files[-1], document, figure)
    return files
