"""Pictures of the gap as SVG: maps with the matched pairs joined, similarity heat maps, similarity by s*.

Drawn on nothing (a transparent background) in mid-tones, so that they read in print and on dark pages alike. Equal
input gives equal bytes. Needs the extra ``analysis``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..analysis.gap_measures import BASELINES
from ..analysis.similarity import unit_rows
from ..errors import InputError
from .published import TABLE_2

Projection = Literal["umap", "pca"]
PROJECTIONS = ("umap", "pca")

# Mid-tones: at least 3 : 1 against both white and near-black.
INK = "#808080"
SOURCE, TARGET = "#d1632a", "#2f86c9"
LINES = ("#2f86c9", "#d1632a", "#3d9455", "#a56bc4", "#a88300", "#c9527c", "#808080")
STYLE = {
    "svg.hashsalt": "diffusion-link",  # ids in the file would be random
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def check_libraries(projection: Projection | None = None) -> None:
    """Refuses to start what could not be drawn in the end.

    Args:
        projection: of `draw_map`, if one is to be drawn.

    Raises:
        InputError: matplotlib or umap-learn is not installed, or an unknown projection.
    """
    _matplotlib()
    if projection is not None and projection not in PROJECTIONS:
        raise InputError("projection", f"is {projection!r}", f"Use one of {', '.join(PROJECTIONS)}")
    if projection == "umap":
        _umap()


def project(rows: torch.Tensor, method: Projection = "umap", seed: int = 0) -> np.ndarray:
    """Unit rows (N, D) → a plane (N, 2), float64.

    "umap" keeps neighborhoods by cosine (McInnes et al. 2018; 15 neighbors), not distances: islands may look further
    apart than they are. "pca" is linear, exact and needs no library: the first two principal axes, each with the
    sign that makes its largest entry positive.

    Raises:
        InputError: umap-learn is not installed, an unknown method, or fewer than four rows.
    """
    if method not in PROJECTIONS:
        raise InputError("projection", f"is {method!r}", f"Use one of {', '.join(PROJECTIONS)}")
    if len(rows) < 4:
        raise InputError("rows", f"are {len(rows)}", "Pass at least four")
    rows = unit_rows(rows)
    if method == "pca":
        centered = rows - rows.mean(0)
        _, _, axes = torch.linalg.svd(centered, full_matrices=False)
        axes = axes[:2]
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        return (centered @ axes.T).numpy()
    neighbors = min(15, len(rows) - 1)
    reducer = _umap()(n_neighbors=neighbors, metric="cosine", random_state=seed, n_jobs=1, init="pca")
    return reducer.fit_transform(rows.numpy().astype(np.float32)).astype(np.float64)


def draw_map(
    path: str | Path,
    before: tuple[torch.Tensor, torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
    title: str,
    projection: Projection = "umap",
    seed: int = 0,
    names: tuple[str, str] = ("audio", "text"),
) -> None:
    """Two maps side by side, matched pairs joined by lines: (source, target) before, (generated, target) after.

    Args:
        path: of the SVG.
        before, after: pairs of (N, D), row i belonging to row i. A few hundred read well.
        title: above both.
        projection, seed: see `project`; each panel has its own.
        names: of the two sides.

    Raises:
        InputError: see `project`; a library that is not installed.
    """
    figure, rc = _figure(9, 4.6)
    with rc:
        for column, (pair, sides, head) in enumerate(
            [(before, names, "before"), (after, (f"bridged {names[0]}", names[1]), "after")]
        ):
            plane = project(torch.cat([rows.cpu().double() for rows in pair]), projection, seed)
            first, second = plane[: len(pair[0])], plane[len(pair[0]) :]
            axes = figure.add_subplot(1, 2, column + 1)
            axes.plot(
                np.stack([first[:, 0], second[:, 0]]),
                np.stack([first[:, 1], second[:, 1]]),
                color=INK,
                linewidth=0.4,
                alpha=0.5,
            )
            for points, color, marker, side in ((first, SOURCE, "o", sides[0]), (second, TARGET, "^", sides[1])):
                # Shapes beside colors: for gray prints and color-blind readers.
                axes.scatter(points[:, 0], points[:, 1], s=9, color=color, marker=marker, linewidth=0, label=side)
            axes.set_title(head)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, markerscale=2)
        figure.suptitle(f"{title} ({projection.upper()})")
        _save(figure, path)


def draw_heat_maps(
    path: str | Path,
    before: tuple[torch.Tensor, torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
    title: str,
    names: tuple[str, str] = ("audio", "text"),
) -> None:
    """Cosine of every source with every target, before and after; matched pairs lie on the diagonal.

    Args:
        path: of the SVG.
        before, after: pairs of (N, D), one row per recording, row i belonging to row i; some 40 rows read well.
        title: above both.
        names: of the two sides.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure, rc = _figure(9, 4.4)
    with rc:
        scores = [(unit_rows(left) @ unit_rows(right).T).numpy() for left, right in (before, after)]
        panels = []
        for column, (score, head) in enumerate(zip(scores, ("before", "after"), strict=True)):
            axes = figure.add_subplot(1, 2, column + 1)
            # One scale for both, whose zero is the map's middle.
            shown = axes.imshow(score, cmap="cividis", vmin=min(0, *map(np.min, scores)), vmax=1)
            axes.set_title(head)
            axes.set_xlabel(names[1])
            axes.set_ylabel(names[0] if column == 0 else f"bridged {names[0]}")
            axes.set_xticks([])
            axes.set_yticks([])
            panels.append(axes)
        bar = figure.colorbar(shown, ax=panels, shrink=0.8, label="cosine")
        bar.outline.set_edgecolor(INK)
        figure.suptitle(title)
        _save(figure, path)


def draw_timestep_curve(path: str | Path, document: Mapping[str, Any], figure_name: str = "matched_audio") -> None:
    """A figure of a gap report by s*: a line for each grid, number of steps and input noise, bands for the intervals.

    Args:
        path: of the SVG.
        document: from `gap_document`, with a grid.
        figure_name: a key of its figures. Baselines stand beside it, and the paper's Table 2 beside "matched_audio" of
            a report from audio to text.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure, rc = _figure(7, 4.4)
    methods, (source, target) = document["methods"], document["names"]
    with rc:
        axes = figure.add_subplot()
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for point in document["grid"]:
            noise = "" if point["add_noise"] else ", not noised"
            lines.setdefault(f"{point['variant']}, {point['num_inference_steps']} steps{noise}", []).append(point)
        for index, (label, points) in enumerate(lines.items()):
            color, x = LINES[index % len(LINES)], [point["noise_timestep"] for point in points]
            value, low, high = (
                [methods[point["row"]]["figures"][figure_name][key] for point in points]
                for key in ("value", "low", "high")
            )
            marker = "os^vDPX"[index % 7]
            axes.plot(x, value, color=color, marker=marker, markersize=4, label=label)
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        right = max(point["noise_timestep"] for point in document["grid"])
        for name in BASELINES:
            if name in methods:
                value = methods[name]["figures"][figure_name]["value"]
                axes.axhline(value, color=INK, linewidth=0.8, linestyle="--")
                axes.annotate(name, (right, value), xytext=(3, 2), textcoords="offset points", fontsize=8, color=INK)
        if figure_name == "matched_audio" and (source, target) == ("audio", "text"):
            axes.plot(
                list(TABLE_2), list(TABLE_2.values()), color=INK, linestyle=":", marker="x", label="paper, AudioCaps"
            )
        axes.set_xlabel("s*")
        axes.set_ylabel("matched cosine" if figure_name == "matched_audio" else f"recall@1, {source} → {target}")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        _save(figure, path)


def _matplotlib():
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "figures",
            "need matplotlib, which is not installed",
            "pip install 'diffusion-link-hf[analysis]', or leave them out",
        ) from error
    return matplotlib


def _umap():
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError(
            "projection 'umap'",
            "needs umap-learn, which is not installed",
            "pip install 'diffusion-link-hf[analysis]', or use the projection 'pca'",
        ) from error
    return UMAP


def _figure(width: float, height: float):
    """A figure of its own, in inches, and the context that styles it: nothing global is changed."""
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    rc = matplotlib.rc_context(STYLE)
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained"), rc


def _save(figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
