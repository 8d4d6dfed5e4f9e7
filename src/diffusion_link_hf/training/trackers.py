"""Trackers by name, through Accelerate: opened with the recipe, and given figures and sample captions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator

from ..errors import RecipeError
from .arguments import TrainingArguments

# Of trackers that have names of runs: the argument that takes it.
RUN_NAME = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}


def available_tracker(arguments: TrainingArguments) -> str | None:
    """The tracker for `Accelerator(log_with=)`, which itself would drop one that is not installed without a word.

    Raises:
        RecipeError: ``report_to`` is unknown or not installed, or has no names of runs although the recipe gives one.
    """
    from accelerate.tracking import LoggerType, get_available_trackers

    if arguments.report_to == "none":
        return None
    available = [str(tracker) for tracker in get_available_trackers()]
    choices = " or ".join([*available, "none"])
    known = [str(tracker) for tracker in LoggerType if tracker != "all"]
    if arguments.report_to not in known:
        raise RecipeError("report_to", f"is {arguments.report_to!r}", f"Use one of {', '.join([*known, 'none'])}")
    if arguments.report_to not in available:
        raise RecipeError(
            "report_to",
            f"is {arguments.report_to!r}, which is not installed",
            f"Install it (tensorboard: pip install 'diffusion-link-hf[train]'), or use report_to={choices}",
        )
    if arguments.run_name is not None and arguments.report_to not in ("tensorboard", *RUN_NAME):
        raise RecipeError(
            "run_name",
            f"is {arguments.run_name!r}, which {arguments.report_to} is not told here",
            f"Leave it out, or use report_to={' or '.join(('tensorboard', *RUN_NAME))}",
        )
    return arguments.report_to


def start_tracker(accelerator: Accelerator, args: TrainingArguments) -> None:
    """Opens the recipe's tracker, its project and run, with the recipe's plain fields as its hyper-parameters.

    A run of TensorBoard is a folder in that of its project.
    """
    if args.report_to == "none":
        return
    project, options = args.project or args.stage, {}
    if args.run_name is not None and args.report_to == "tensorboard":
        project = f"{project}/{args.run_name}"
    elif args.run_name is not None:
        options = {args.report_to: {RUN_NAME[args.report_to]: args.run_name}}
    accelerator.init_trackers(project, plain_fields(args), init_kwargs=options)


def plain_fields(args: TrainingArguments) -> dict[str, Any]:
    """The recipe's fields as one level of numbers and strings, ``model.width`` of a mapping: what trackers take."""
    flat = {}
    for name, value in asdict(args).items():
        inside = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        flat.update({key: each for key, each in inside.items() if isinstance(each, (int, float, str, bool))})
    return flat


def log_captions(accelerator: Accelerator, rows: Sequence[tuple[str, str]], step: int) -> None:
    """Rows of (reference, written caption) to whatever tracker is open."""
    columns = ["reference", "caption"]
    for tracker in accelerator.trackers if accelerator.is_main_process else ():
        if tracker.name == "tensorboard":
            lines = [f"| {' | '.join(cells)} |" for cells in (columns, ["---", "---"], *rows)]
            tracker.writer.add_text("captions", "\n".join(lines), step)
        elif hasattr(tracker, "log_table"):
            tracker.log_table("captions", columns=columns, data=[list(row) for row in rows], step=step)
        else:
            tracker.log({f"captions/{k}": f"{' → '.join(row)}" for k, row in enumerate(rows)}, step=step)


def flat_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested metrics as one level: ``{"s_star": {"100": 0.7}}`` → ``{"s_star/100": 0.7}``."""
    flat = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": each for inner, each in flat_figures(value).items()})
        elif isinstance(value, (int, float)):
            flat[name] = value
    return flat
