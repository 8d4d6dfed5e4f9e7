"""What every stage checks before its first step, so that nothing fails when the result is to be saved."""

import inspect
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..errors import DiffusionLinkError, RecipeError
from ..files import make_writable
from .arguments import TrainingArguments
from .trackers import available_tracker

Made = TypeVar("Made")
Data = TypeVar("Data", EmbeddingCache, EmbeddingPairs)


def make_accelerator(args: TrainingArguments) -> Accelerator:
    """The `Accelerator` of a stage, once its tracker, its precision and its output folder are known to work.

    Raises:
        RecipeError: ``report_to`` is not installed or takes no ``run_name``; ``mixed_precision`` is fp16 on a CPU;
            processes on CPUs were launched with FSDP; ``torch_compile`` or ``push_every_checkpoint`` with FSDP; or a
            batch has fewer rows than there are processes and micro-batches.
        DataError: ``output`` cannot be written.
    """
    tracker = available_tracker(args)
    # Said in so many words: Accelerate takes processes that were started side by side on a machine without accelerator
    # for strangers, each a main process, unless it is told to use the CPU.
    state = PartialState(cpu=not torch.accelerator.is_available())
    if args.mixed_precision == "fp16" and state.device.type == "cpu":
        raise RecipeError("mixed_precision", "is fp16, which a CPU cannot train in", "Use no or bf16, or a GPU")
    make_writable(Path(args.output))
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != args.mixed_precision:
        # Of an earlier stage in this process; Accelerate refuses another precision until its state is gone.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=args.mixed_precision,
        log_with=tracker,
        project_dir=str(Path(args.output) / "logs"),
    )
    if (
        os.environ.get("ACCELERATE_USE_FSDP") == "true"
        and accelerator.num_processes > 1
        and accelerator.distributed_type != DistributedType.FSDP
    ):
        raise RecipeError(
            "accelerate launch --config_file",
            "asks for FSDP, which Accelerate offers on GPUs only",
            "Use the launch file ddp_cpu.yaml (diffusion-link train --launch-file ddp_cpu prints its path)",
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        if args.torch_compile:
            raise RecipeError("torch_compile", "is true with FSDP, which was not tried", "Use false, or ddp.yaml")
        if args.push_every_checkpoint:
            remedy = "Use false: the result is pushed in the end"
            raise RecipeError("push_every_checkpoint", "is true, but with FSDP no process has all weights", remedy)
    check_rows(args.batch_size, accelerator.num_processes, args.gradient_accumulation_steps)
    return accelerator


def split_data(data: Data, args: TrainingArguments) -> tuple[Data, Data | None]:
    """Training and validation parts of a cache or of pairs: what ``validation_cache`` holds, or a held-out share.

    Raises:
        DataError: the validation data cannot be read.
        RecipeError: they are of another CLAP or width.
    """
    if args.validation_cache is None:
        return data.split(args.validation_fraction, args.seed)
    if not Path(args.validation_cache).exists():
        raise RecipeError(
            "validation_cache",
            f"is {args.validation_cache}, which does not exist",
            "Embed the validation split into it, or hold out a share: validation_cache=null validation_fraction=0.05",
        )
    validation = type(data).load(args.validation_cache)
    if validation.embedding_dim != data.embedding_dim:
        raise RecipeError(
            "validation_cache",
            f"is {validation.embedding_dim} wide, the training data are {data.embedding_dim} wide",
            "Embed both with one CLAP",
        )
    made_by = [each.manifest.get("clap") if hasattr(each, "manifest") else each.clap for each in (data, validation)]
    if None not in made_by and made_by[0] != made_by[1]:
        raise RecipeError(
            "validation_cache", f"was made by CLAP {made_by[1]}, the training data by {made_by[0]}", "Use one CLAP"
        )
    return data, validation


def check_rows(batch_size: int, processes: int, micro_batches: int) -> None:
    """Refuses batches of fewer rows than there are shares to work on.

    Args:
        batch_size: rows of a batch, over all processes.
        processes, micro_batches: number of processes, and of micro-batches in each.

    Raises:
        RecipeError: with what can be done.

    Examples:
        >>> check_rows(8, processes=4, micro_batches=2)
        >>> check_rows(4, processes=8, micro_batches=1)
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.RecipeError: batch_size: is 4 for 8 micro-batches (8 processes with 1 each). \
Use batch_size=8 or more, or launch at most 4 processes (--num_processes 4)
    """
    shares = processes * micro_batches
    if batch_size >= shares:
        return
    fewer = max(1, batch_size // micro_batches)
    remedy = f"Use batch_size={shares} or more"
    if processes > fewer:
        remedy += f", or launch at most {fewer} processes (--num_processes {fewer})"
    if micro_batches > 1:
        remedy += f", or gradient_accumulation_steps={max(1, batch_size // processes)}"
    raise RecipeError(
        "batch_size",
        f"is {batch_size} for {shares} micro-batches ({processes} processes with {micro_batches} each)",
        remedy,
    )


def validation_fingerprint(args: TrainingArguments, validation: EmbeddingCache | EmbeddingPairs | None) -> str | None:
    """Of what a ``validation_cache`` holds, where the validations touch the result; None elsewhere."""
    chooses = args.keep == "best" or getattr(args, "patience", 0) > 0
    return validation.fingerprint if chooses and args.validation_cache is not None else None


def check_options(name: str, given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> None:
    """Refuse options that a function does not take, as far as its signature says.

    Args:
        name: the recipe's field that holds the options.
        known: parameters of the function.

    Raises:
        RecipeError: an unknown name, no number where one is wanted, or a value that is none of the choices. YAML reads
            nan and 1e-4 as text.
    """
    unknown = [option for option in given if option not in known]
    if unknown:
        listed = f"Known are {', '.join(sorted(known))}" if known else f"There are no {name} options here"
        raise RecipeError(f"{name}.{unknown[0]}", "is no known field", listed)
    for option, value in given.items():
        _check_value(f"{name}.{option}", value, known[option].annotation)


def construct(name: str, make: Callable[..., Made], given: dict[str, Any], **fixed: Any) -> Made:
    """``make(**given, **fixed)`` for what the recipe gives in its field ``name``.

    Args:
        fixed: what follows from the data; ``given`` may repeat it.

    Raises:
        RecipeError: ``given`` has a field that ``make`` does not take, contradicts ``fixed``, or cannot be used.
    """
    check_options(name, given, inspect.signature(make).parameters)
    for field, value in fixed.items():
        if given.get(field, value) != value:
            raise RecipeError(f"{name}.{field}", f"is {given[field]!r}, the data say {value!r}", "Leave it out")
    try:
        return make(**{**given, **fixed})
    except DiffusionLinkError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(name, f"cannot be used ({error})", f"See {make.__name__}") from error


def _check_value(name: str, value: Any, annotation: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise RecipeError(name, f"is {value!r}", "A whole number is expected")
    if annotation is float and not (is_number and math.isfinite(value)):
        raise RecipeError(name, f"is {value!r}", "A finite number is expected, with a point: 1.0e-4")
    if annotation is bool and not isinstance(value, bool):
        raise RecipeError(name, f"is {value!r}", "Use true or false")
    if get_origin(annotation) is Literal and value not in get_args(annotation):
        raise RecipeError(name, f"is {value!r}", f"Use one of {', '.join(map(str, get_args(annotation)))}")
