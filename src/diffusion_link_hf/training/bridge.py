"""Fits a bridge on matched embeddings: in closed form, or by the shared training loop."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDIMScheduler

from ..bridges.base import BridgeModel
from ..bridges.sampling import TrainingNoise, make_scheduler
from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..embeddings.shards import MANIFEST, read_manifest
from ..errors import RecipeError
from ..files import write_json
from ..pipelines.embedding_bridge import DiffusionLinkPipeline
from .arguments import BridgeTrainingArguments
from .bridge_metrics import bridge_metrics, validation_cosines
from .bridge_run import BridgeRun
from .checkpoints import run_identity
from .methods import METHODS, Method, build_bridge, get_method
from .optimize import Publish, optimize
from .preparation import make_accelerator, split_data, validation_fingerprint
from .recipes import FORMER_LOSS, translate_recipe, write_recipe
from .trackers import flat_figures, start_tracker
from .warm_start import start_bridge

__all__ = ["METHODS", "build_bridge", "get_method", "train_bridge"]


def train_bridge(
    method: str,
    data: EmbeddingPairs | EmbeddingCache | str | Path,
    output: str | Path,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 5e-4,
    lr_decay: float = 0.97,
    lr_decay_every: int = 200,
    ema_decay: float = 0.995,
    max_grad_norm: float = 0.0,
    max_train_timestep: int | None = None,
    validation_fraction: float = 0.05,
    seed: int = 0,
    model: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    mixed_precision: str = "no",
    checkpoint_every: int = 1000,
    resume: bool = True,
    progress: bool = True,
) -> BridgeModel:
    """Fit one bridge and save it as a pipeline that `DiffusionLinkPipeline` loads.

    Methods in closed form are fitted at once. The others are trained with Adam by one loop, in which batch, timesteps
    and noise of a step depend on (seed, step) alone. So with equal arguments they have equal budgets, and a run that
    was killed ends with the same bits as one that was not.

    The result is in ``output/link``, which any pipeline takes for its link, ``output/scheduler``,
    ``output/model_index.json``, ``output/metrics.json`` (see `bridge_metrics`) and ``output/recipe.yaml``. The recipe
    says ``cache: in memory`` where pairs or a cache were passed as objects.

    Args:
        method: a name of `METHODS`.
        data: pairs, a cache, or the path of either; see `EmbeddingPairs.load`.
        output: folder that receives the result and the checkpoints.
        steps: number of optimization steps. This and the training arguments below have no effect on a closed form.
        batch_size: rows of an optimization step, added up over all processes.
        learning_rate: learning rate of the first steps.
        lr_decay: factor of the learning rate every ``lr_decay_every`` steps.
        lr_decay_every: number of steps after which ``lr_decay`` applies again.
        ema_decay: decay of the averaged weights, which are the result; 0 to below 1.
        max_grad_norm: gradients with a larger norm are scaled down to it; 0 turns clipping off.
        max_train_timestep: the highest diffusion timestep that is trained, 1 to 1000; by default that of the method.
        validation_fraction: share of the recordings that is held out, on which the metrics are measured.
        seed: of the split, the weights, the data order and the noise.
        model: arguments of the bridge's class, such as ``{"width": 256}``.
        loss: options of the method's loss, such as ``{"topology_weight": 0.5}``.
        mixed_precision: "no", "bf16", or on a GPU "fp16".
        checkpoint_every: number of steps between two checkpoints.
        resume: whether to continue from the newest checkpoint in ``output``.
        progress: whether to show a progress bar.

    Returns:
        The fitted bridge, in evaluation mode.

    Raises:
        RecipeError: an unknown method or option, an argument out of range, or a checkpoint of another recipe.
        DataError: data that cannot be read or lack the pairs that the method needs, a damaged checkpoint, or an
            ``output`` that cannot be written.

    Examples:
        >>> import tempfile, torch
        >>> from diffusion_link_hf import EmbeddingPairs, train_bridge
        >>> audio = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> bridge = train_bridge("ridge", EmbeddingPairs(audio, audio.flip(1) + 1), tempfile.mkdtemp(), progress=False)
        >>> bridge.bridge(audio[:2]).shape
        torch.Size([2, 8])
    """
    args = BridgeTrainingArguments(
        method=method,
        cache=str(data) if isinstance(data, (str, Path)) else "in memory",
        output=str(output),
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lr_decay=lr_decay,
        lr_decay_every=lr_decay_every,
        ema_decay=ema_decay,
        max_grad_norm=max_grad_norm,
        max_train_timestep=max_train_timestep,
        validation_fraction=validation_fraction,
        seed=seed,
        model=model or {},
        loss=loss or {},
        mixed_precision=mixed_precision,
        checkpoint_every=checkpoint_every,
        resume=resume,
        report_to="none",
    )
    return fit(args, data, progress)[0]


def train_bridge_stage(
    args: BridgeTrainingArguments, progress: bool = True, publish: Publish | None = None
) -> dict[str, Any]:
    """Run the bridge stage of a recipe: `train_bridge` with a tracker. Returns what metrics.json holds."""
    return fit(args, args.cache, progress, publish)[1]


def fit(
    args: BridgeTrainingArguments,
    data: EmbeddingPairs | EmbeddingCache | str | Path,
    progress: bool = True,
    publish: Publish | None = None,
) -> tuple[BridgeModel, dict[str, Any]]:
    """Fit the method of ``args``, save the result, and return the bridge and what metrics.json holds.

    In the metrics, ``steps`` is the step whose weights the bridge has, and ``processes`` how many trained it.
    """
    method = get_method(args.method)
    options = method.all_loss_options(args.loss)
    if args.init_from is not None and not method.trained:
        raise RecipeError("init_from", f"is given, but {args.method} is fitted in closed form", "Leave it out")
    accelerator = make_accelerator(args)
    pairs = _pairs(data)
    train, validation = split_data(pairs, args)
    if args.keep == "best" and validation is None:
        raise RecipeError("keep", "is best, but no recording is held out", "Use a larger validation_fraction, or last")
    started = time.monotonic()
    set_seed(args.seed)
    bridge = build_bridge(args.method, pairs.embedding_dim, **args.model)
    home = rows_device(args, accelerator.device, train)
    bridge.to(home).fit(
        *(rows.to(home) for rows in (train.source, train.target, train.group)),
        unpaired_source=train.unpaired_source.to(home),
        unpaired_target=train.unpaired_target.to(home),
        seed=args.seed,
    )
    start = None if args.init_from is None else start_bridge(bridge, args.init_from)
    scheduler = make_scheduler()
    start_tracker(accelerator, args)
    metrics = {"method": args.method, "seed": args.seed, "steps": 0, "parameters": bridge.num_parameters()}
    metrics["processes"] = accelerator.num_processes
    max_train_timestep = args.max_train_timestep or method.max_train_timestep
    if method.trained:
        run = _make_run(args, accelerator, method, options, bridge, scheduler, train, validation, home)
        recipe = asdict(args) | {
            "model": {name: value for name, value in bridge.config.items() if not name.startswith("_")},
            "loss": options,
            "max_train_timestep": max_train_timestep,
        }
        contents = {"data": pairs.fingerprint, "validation": validation_fingerprint(args, validation)}
        identity = run_identity(recipe, **contents, init_from=start)
        metrics["steps"] = optimize(run, identity, progress, lambda saved: _todays_recipe(saved, method), publish)
    bridge.to(accelerator.device).eval()
    metrics |= {"clap": pairs.clap, **bridge_metrics(bridge, train, validation, max_train_timestep)}
    metrics["seconds"] = round(time.monotonic() - started, 2)
    accelerator.log({f"result/{name}": value for name, value in flat_figures(metrics).items()}, metrics["steps"])
    if accelerator.is_main_process:
        DiffusionLinkPipeline(bridge, scheduler).save_pretrained(args.output)
        write_json(Path(args.output) / "metrics.json", metrics)
        write_recipe(replace(args, loss=options), Path(args.output), _data_set(data), data=pairs.fingerprint)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return bridge, metrics


def rows_device(args: BridgeTrainingArguments, device: torch.device, train: EmbeddingPairs) -> torch.device:
    """Where the rows lie while training: on ``device``, or on the host, from which each batch is copied."""
    if args.rows_on == "auto" and device.type == "cuda":
        rows = (train.source, train.target, train.unpaired_source, train.unpaired_target)
        free = torch.cuda.mem_get_info(device)[0]
        return device if sum(part.numel() * 4 for part in rows) < free / 2 else torch.device("cpu")
    return torch.device("cpu") if args.rows_on == "host" else device


def _make_run(
    args: BridgeTrainingArguments,
    accelerator: Accelerator,
    method: Method,
    options: dict[str, Any],
    bridge: BridgeModel,
    scheduler: DDIMScheduler,
    train: EmbeddingPairs,
    validation: EmbeddingPairs | None,
    home: torch.device,
) -> BridgeRun:
    """The training of a bridge whose statistics are fitted."""
    max_train_timestep = args.max_train_timestep or method.max_train_timestep

    def loss(source, target, generator, share):
        noise = TrainingNoise(scheduler, generator, max_train_timestep)
        return method.loss(bridge, source, target, noise, share, **options)

    # Normalized once: the statistics do not change while training.
    source = bridge.normalize(train.source.to(home), "audio")
    target = bridge.normalize(train.target.to(home), "text")
    if method.uses_unpaired and options.get("text_to_text", True):
        target = torch.cat([target, bridge.normalize(train.unpaired_target.to(home), "text")])
    elif not len(source):
        raise RecipeError(
            "loss.text_to_text", "is false, but the data hold no pairs", "There would be nothing to learn from"
        )
    validate = None if validation is None else lambda: validation_cosines(bridge, validation)
    return BridgeRun(args, accelerator, bridge.to(accelerator.device), loss, source, target, validate)


def _todays_recipe(saved: dict[str, Any], method: Method) -> dict[str, Any]:
    """The recipe of a checkpoint with every loss option; earlier versions recorded those that were given.

    Those that were not had the defaults of then, which summed L_diff over the dimensions.
    """
    recipe = translate_recipe(saved)
    defaults = method.all_loss_options({})
    former = {name: value for name, value in FORMER_LOSS.items() if name in defaults}
    return recipe | {"loss": defaults | former | (recipe.get("loss") or {})}


def _pairs(data: EmbeddingPairs | EmbeddingCache | str | Path) -> EmbeddingPairs:
    if isinstance(data, EmbeddingPairs):
        return data
    return EmbeddingPairs.from_cache(data) if isinstance(data, EmbeddingCache) else EmbeddingPairs.load(data)


def _data_set(data: EmbeddingPairs | EmbeddingCache | str | Path) -> str | None:
    """Name of the data set that a cache was made of."""
    if isinstance(data, EmbeddingCache):
        return data.manifest.get("data")
    is_cache = isinstance(data, (str, Path)) and (Path(data) / MANIFEST).is_file()
    return read_manifest(Path(data)).get("data") if is_cache else None
