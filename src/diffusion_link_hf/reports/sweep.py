"""The sweep report: similarity and recall by s*, number of steps and input noise, beside the paper's Table 2."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.evaluation import EvaluationSettings, FittedBridge, MethodResult
from ..errors import InputError
from .gap import LEVEL, figure_of, intervals_line, table, times_section, with_interval
from .published import TABLE_2

FORMAT = "diffusion-link sweep report 1"
FIGURES = ("matched_audio", "matched_text", "unmatched_audio", "source_to_target_r1", "target_to_source_r1")


@dataclass(frozen=True)
class SweepPoint:
    """One setting of one bridge.

    Attributes:
        method: name of the bridge.
        timestep: s*.
        steps: DDIM steps from there.
        noised: whether the input is noised to s* first.
    """

    method: str
    timestep: int
    steps: int
    noised: bool

    @property
    def name(self) -> str:
        noise = "noised" if self.noised else "not noised"
        return f"{self.method}, s* = {self.timestep}, {self.steps} step{'s' * (self.steps > 1)}, {noise}"


def grid(
    methods: Sequence[str], timesteps: Sequence[int], steps: Sequence[int], noised: Sequence[bool]
) -> list[SweepPoint]:
    """Every combination that exists: from s* no more than s* steps lead back.

    Raises:
        InputError: s* outside of 1 … 1000, fewer than one step, or no combination left.
    """
    for name, values, top in (("timesteps", timesteps, 1000), ("steps", steps, 1000)):
        for value in values:
            if not 1 <= value <= top:
                raise InputError(name, f"has {value}", f"Use 1 to {top}")
    points = [
        SweepPoint(method, timestep, count, noise)
        for method in dict.fromkeys(methods)
        for noise in dict.fromkeys(noised)
        for count in sorted(set(steps))
        for timestep in sorted(set(timesteps))
        if count <= timestep
    ]
    if not points:
        raise InputError("steps", f"are {list(steps)}, more than any of the timesteps", "Use steps up to s*")
    return points


def sweep_bridges(points: Iterable[SweepPoint], bridges: Sequence[FittedBridge]) -> list[FittedBridge]:
    """The bridges to evaluate: those of each point's method, with the point's options and name.

    Raises:
        InputError: a bridge that does not start from a timestep.
    """
    for fitted in bridges:
        if "noise_timestep" not in fitted.bridge.config:
            raise InputError(
                fitted.method, f"is a {type(fitted.bridge).__name__}, which has no s*", "Sweep a diffusion bridge"
            )
    return [
        FittedBridge(
            point.name,
            fitted.bridge,
            fitted.seed,
            fitted.steps,
            fitted.seconds,
            {
                "noise_timestep": point.timestep,
                "num_inference_steps": point.steps,
                "add_noise": point.noised,
            },
        )
        for point in points
        for fitted in bridges
        if fitted.method == point.method
    ]


def sweep_document(
    points: Sequence[SweepPoint],
    results: Sequence[MethodResult],
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """A sweep as plain numbers and strings; figures as in `report.gap_document`.

    Args:
        results: of the points, by name, and of any baselines.
    """
    by_name = {result.method: result for result in results}
    swept = {point.name for point in points}

    def figures(name: str) -> dict[str, Any]:
        return {key: figure_of(by_name[name], key) for key in FIGURES}

    return {
        "format": FORMAT,
        "data": dict(data),
        "training": dict(training),
        "settings": {"level": LEVEL, "resamples": settings.resamples, "seed": settings.seed},
        "baselines": {name: {"figures": figures(name)} for name in by_name if name not in swept},
        "points": [
            {
                "method": point.method,
                "timestep": point.timestep,
                "steps": point.steps,
                "noised": point.noised,
                "seeds": [fitted.seed for fitted, _ in by_name[point.name].runs],
                "figures": figures(point.name),
            }
            for point in points
        ],
        "times": {
            name: {
                "fit_seconds": [fitted.seconds for fitted, _ in result.runs],
                "bridge_seconds_per_1000_rows": [round(measured.seconds, 4) for _, measured in result.runs],
            }
            for name, result in by_name.items()
        },
    }


def sweep_markdown(document: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """report.md of a sweep, from the document alone."""
    data, points, settings = document["data"], document["points"], document["settings"]
    header = ["matched, audio", "matched, text", "not matched", "R@1 audio → text", "R@1 text → audio"]

    def cells(row: Mapping[str, Any]) -> list[str]:
        return [with_interval(row["figures"][key]) for key in FIGURES]

    def label(point: Mapping[str, Any]) -> str:
        return SweepPoint(**{key: point[key] for key in ("method", "timestep", "steps", "noised")}).name

    best = max(points, key=lambda point: point["figures"]["matched_audio"]["value"])
    found = max(points, key=lambda point: point["figures"]["source_to_target_r1"]["value"])
    training = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in document["training"].items())
    return "\n".join(
        [
            "# Sweep of the starting timestep\n",
            f"{data['held_out_rows']:,} held-out rows of {data['held_out_recordings']:,} recordings from "
            f"{data['name']} "
            f"(width {data['embedding_dim']}, {data['fingerprint']}). {intervals_line(settings)}\n",
            *([f"Training: {training}.\n"] if training else []),
            f"Highest matched cosine: **{label(best)}**, {with_interval(best['figures']['matched_audio'])}. "
            f"Highest recall@1, audio → text: **{label(found)}**, "
            f"{with_interval(found['figures']['source_to_target_r1'])}.\n",
            "## Baselines\n",
            table(["method", *header], ([name, *cells(row)] for name, row in document["baselines"].items())),
            "## Grid\n",
            "The paper's Table 2 is of LAION-CLAP on AudioCaps, noised, five steps.\n",
            table(
                ["method", "s*", "steps", "noised", *header, "the paper's"],
                (
                    [
                        point["method"],
                        str(point["timestep"]),
                        str(point["steps"]),
                        "yes" if point["noised"] else "no",
                        *cells(point),
                        _paper_cell(point),
                    ]
                    for point in points
                ),
            ),
            *[f"![{picture.rsplit('.', 1)[0]}]({picture})\n" for picture in pictures],
            times_section(document["times"]),
        ]
    )


def _paper_cell(point: Mapping[str, Any]) -> str:
    same = point["method"] == "diffusion-link" and point["noised"] and point["steps"] == 5
    return f"{TABLE_2[point['timestep']]:.3f}" if same and point["timestep"] in TABLE_2 else "–"
