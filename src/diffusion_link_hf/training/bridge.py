"""Fits any bridge on matched embeddings: in closed form, or by one training loop that all trained bridges share."""

import inspect
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch.nn import functional as F

from ..bridges.base import BridgeModel
from ..bridges.centering import IdentityBridge, MeanCentering
from ..bridges.diffgap import DiffGapModel
from ..bridges.diffusion_bridge import DiffusionBridgeModel
from ..bridges.diffusion_link import DiffusionLinkModel
from ..bridges.linear import LinearBridge
from ..bridges.losses import DiffusionLinkLoss, diffusion_link_loss, share_of_loss
from ..bridges.memory_projection import MemoryProjection
from ..bridges.regression import RegressionBridge
from ..bridges.sampling import make_scheduler
from ..bridges.seed import seed_bridge_config
from ..bridges.text_subspace import TextSubspaceBridge
from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..errors import RecipeError
from ..pipelines.embedding_bridge import DiffusionLinkPipeline
from .checkpoints import identity
from .optimize import BridgeOptimization, optimize
from .preparation import check_fields, construct, make_accelerator
from .recipe_record import write_recipe
from .recipes import BridgeTrainingArguments, TrainedBridgeArguments
from .trackers import flat_figures, start_tracker

# (bridge, source (P, D), target (B, D), scheduler, generator, max_train_timestep, share, **options) → () or its parts
Loss = Callable[..., torch.Tensor | DiffusionLinkLoss]


@dataclass(frozen=True)
class Method:
    """How a bridging method is made.

    Attributes:
        bridge: its class.
        how: "closed form" (fitted at once) or "trained" (by the shared loop, after its statistics are fitted).
        config: arguments of the class that make it this method, given D; the user's come on top.
        uses_unpaired: whether training batches also hold targets without a partner.
        max_train_timestep: training timesteps are 0 to this, exclusive.
        loss: of a training batch; `share_of_loss` by default.
        loss_options: its defaults.
    """

    bridge: type[BridgeModel]
    how: str = "closed form"
    config: Callable[[int], dict[str, Any]] = lambda width: {"embedding_dim": width}
    uses_unpaired: bool = False
    max_train_timestep: int = 1000
    loss: Loss = share_of_loss
    loss_options: dict[str, Any] = field(default_factory=dict)


def _with(**config) -> Callable[[int], dict[str, Any]]:
    return lambda width: {"embedding_dim": width, **config}


METHODS: dict[str, Method] = {
    "identity": Method(IdentityBridge),
    "centering": Method(MeanCentering),
    "c3": Method(MeanCentering, config=_with(add_noise=True)),
    "ridge": Method(LinearBridge),
    "procrustes": Method(LinearBridge, config=_with(kind="procrustes")),
    "text-subspace": Method(TextSubspaceBridge),
    "memory": Method(MemoryProjection),
    "mlp": Method(RegressionBridge, "trained"),
    "mlp-residual": Method(RegressionBridge, "trained", _with(residual_over_ridge=True)),
    "diffusion-bridge": Method(DiffusionBridgeModel, "trained", uses_unpaired=True),
    "diffusion-bridge-unet": Method(
        DiffusionBridgeModel, "trained", _with(network="unet", time_embed_dim=512), uses_unpaired=True
    ),
    "diffgap": Method(DiffGapModel, "trained"),
    "seed": Method(
        DiffusionLinkModel,
        "trained",
        seed_bridge_config,
        uses_unpaired=True,
        loss=diffusion_link_loss,
        loss_options={"topology_weight": 0.0},
    ),
    # As the paper has it …
    "diffusion-link": Method(DiffusionLinkModel, "trained", uses_unpaired=True, loss=diffusion_link_loss),
    # … and with the changes that helped most: shallow training timesteps, one step from the input as it is.
    "diffusion-link-shallow": Method(
        DiffusionLinkModel,
        "trained",
        _with(add_noise=False, num_inference_steps=1),
        uses_unpaired=True,
        max_train_timestep=150,
        loss=diffusion_link_loss,
    ),
}


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
    """Fit one bridge and save it as a pipeline that `DiffusionLinkPipeline` reads.

    Writes ``output/link``, ``output/scheduler``, ``output/model_index.json``, ``output/metrics.json`` and
    ``output/recipe.yaml`` (its ``cache`` is "in memory" where the pairs were passed as such); any pipeline takes the
    first for its link. Bridges of a closed form are fitted at once; the others share one loop, in which batch,
    timesteps and noise of a step are a function of (seed, step) alone: with equal arguments they have equal budgets,
    and a run that was killed ends with the same bits as one that was not.

    Args:
        method: a name of `METHODS`.
        data: pairs, a cache, or the path of either; see `EmbeddingPairs.load`.
        output: folder of results; checkpoints go below it.
        steps, batch_size, learning_rate, lr_decay, lr_decay_every, ema_decay: of Adam with step decay and averaged
            weights, which are what is saved. Without effect on a closed form.
        max_grad_norm: gradient clipping, 0 for none.
        max_train_timestep: timesteps are drawn below this, 1 to 1000; by default what the method says.
        validation_fraction: share of groups held out, on which the metrics are measured.
        seed: of the split, the weights, data order and noise.
        model: arguments of the bridge's class, such as ``{"width": 256}``.
        loss: options of the method's loss; see `diffusion_link_loss`.
        mixed_precision: "no", "bf16", or, not on a CPU, "fp16".
        checkpoint_every: steps.
        resume: go on from the newest checkpoint in ``output``, if there is one.
        progress: whether to show a progress bar.

    Returns:
        The fitted bridge, in evaluation mode.

    Raises:
        RecipeError: an unknown method or option, an argument out of range, or a checkpoint of another recipe.
        DataError: data that cannot be read, or lack the pairs that the method needs; a damaged checkpoint.
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
    return run_stage(args, method, args.loss, data, bridge_metrics, progress)[0]


def train_bridge_stage(args: BridgeTrainingArguments) -> dict[str, Any]:
    """Run the bridge stage of a recipe: `train_bridge` with a tracker. Returns what metrics.json holds."""
    return run_stage(args, args.method, args.loss, args.cache, bridge_metrics)[1]


# (bridge, training part, validation part or None) → figures
Metrics = Callable[[BridgeModel, EmbeddingPairs, EmbeddingPairs | None], dict[str, float]]


def run_stage(
    args: TrainedBridgeArguments,
    method: str,
    loss: dict[str, Any],
    data: EmbeddingPairs | EmbeddingCache | str | Path,
    measure: Metrics,
    progress: bool = True,
) -> tuple[BridgeModel, dict[str, Any]]:
    """Fit a method, write the results, and return the bridge and what metrics.json holds.

    Args:
        args: of the link or the bridge stage.
        loss: options of the method's loss.
        measure: the figures of the finished bridge.

    Returns:
        ``steps`` of the metrics is the step whose weights the bridge has, ``processes`` how many trained it.
    """
    how = _method(method)
    options = {**how.loss_options, **loss}
    check_fields("loss", loss, _loss_options(how))
    accelerator = make_accelerator(args)
    pairs = _pairs(data)
    train, validation = pairs.split(args.validation_fraction, args.seed)
    if args.keep == "best" and validation is None:
        raise RecipeError("keep", "is best, but no recording is held out", "Use a larger validation_fraction, or last")
    started = time.monotonic()
    set_seed(args.seed)
    bridge = build_bridge(method, pairs.embedding_dim, **args.model)
    home = rows_device(args, accelerator.device, train)
    bridge.to(home).fit(
        *(rows.to(home) for rows in (train.source, train.target, train.group)),
        unpaired_source=train.unpaired_source.to(home),
        unpaired_target=train.unpaired_target.to(home),
        seed=args.seed,
    )
    scheduler = make_scheduler()
    start_tracker(accelerator, args)
    metrics = {"method": method, "seed": args.seed, "steps": 0, "parameters": bridge.num_parameters()}
    metrics["processes"] = accelerator.num_processes
    if how.how == "trained":
        max_train_timestep = args.max_train_timestep or how.max_train_timestep
        # Normalized once: the statistics do not change while training.
        source, target = (
            bridge.normalize(train.source.to(home), "audio"),
            bridge.normalize(train.target.to(home), "text"),
        )
        text_to_text = options.get("text_to_text", True)
        if how.uses_unpaired and text_to_text:
            target = torch.cat([target, bridge.normalize(train.unpaired_target.to(home), "text")])
        elif not len(source):
            raise RecipeError(
                "text_to_text", "is false, but the data hold no pairs", "There would be nothing to learn from"
            )
        recipe = {
            **{name: value for name, value in asdict(args).items() if name not in loss},
            "model": {name: value for name, value in bridge.config.items() if not name.startswith("_")},
            "loss": options,
            "max_train_timestep": max_train_timestep,
        }
        run = BridgeOptimization(
            bridge.to(accelerator.device),
            lambda source, target, generator, share: how.loss(
                bridge, source, target, scheduler, generator, max_train_timestep, share, **options
            ),
            source,
            target,
            args,
            accelerator,
            (lambda: validation_cosines(bridge, validation)) if validation is not None else None,
        )
        metrics["steps"] = optimize(run, identity(recipe, data=pairs.fingerprint), progress)
    bridge.to(accelerator.device).eval()
    metrics |= {"clap": pairs.clap, **measure(bridge, train, validation)}
    metrics["seconds"] = round(time.monotonic() - started, 2)
    accelerator.log({f"result/{name}": value for name, value in flat_figures(metrics).items()}, metrics["steps"])
    if accelerator.is_main_process:
        DiffusionLinkPipeline(bridge, scheduler).save_pretrained(args.output)
        (Path(args.output) / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        write_recipe(args, Path(args.output), data=pairs.fingerprint)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return bridge, metrics


def rows_device(args: TrainedBridgeArguments, device: torch.device, train: EmbeddingPairs) -> torch.device:
    """Where the rows lie while training: on ``device``, or on the host, from which each batch is copied."""
    if args.rows_on == "auto" and device.type == "cuda":
        rows = (train.source, train.target, train.unpaired_source, train.unpaired_target)
        free = torch.cuda.mem_get_info(device)[0]
        return device if sum(part.numel() * 4 for part in rows) < free / 2 else torch.device("cpu")
    return torch.device("cpu") if args.rows_on == "host" else device


def build_bridge(method: str, embedding_dim: int, /, **config) -> BridgeModel:
    """An unfitted bridge of a method of `METHODS`, with ``config`` over the method's own.

    Raises:
        RecipeError: an unknown method or field, or an ``embedding_dim`` in ``config`` that differs.
    """
    how = _method(method)
    return construct("model", how.bridge, {**how.config(embedding_dim), **config}, embedding_dim=embedding_dim)


def matched_cosine(generated: torch.Tensor, text: torch.Tensor) -> float:
    """Mean cosine of matched rows. (K, D), (K, D)."""
    return F.cosine_similarity(generated.float(), text.float(), dim=-1).mean().item()


@torch.no_grad()
def validation_cosines(bridge: BridgeModel, pairs: EmbeddingPairs) -> dict[str, float]:
    """Mean cosine of bridged source and bridged target with the target, each in the space that the bridge leads to."""
    source, target = pairs.source.to(bridge.device), pairs.target.to(bridge.device)
    goal = bridge.target(target)
    return {
        "matched_audio": matched_cosine(bridge.bridge(source, "audio"), goal),
        "matched_text": matched_cosine(bridge.bridge(target, "text"), goal),
    }


def bridge_metrics(bridge: BridgeModel, train: EmbeddingPairs, validation: EmbeddingPairs | None) -> dict[str, float]:
    """`validation_cosines` of the validation part, where there is one."""
    return {} if validation is None else validation_cosines(bridge, validation)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise RecipeError("method", f"is {name!r}", f"Use one of {', '.join(METHODS)}")
    return METHODS[name]


def _loss_options(how: Method) -> list[str]:
    """Names of the options of the method's loss; every loss takes its batch without naming it."""
    if how.how != "trained":
        return []
    loss = how.bridge.training_loss if how.loss is share_of_loss else how.loss
    batch = {"self", "bridge", "source", "target", "scheduler", "generator", "max_train_timestep", "share", "rows"}
    return [name for name in inspect.signature(loss).parameters if name not in batch]


def _pairs(data: EmbeddingPairs | EmbeddingCache | str | Path) -> EmbeddingPairs:
    if isinstance(data, EmbeddingPairs):
        return data
    return EmbeddingPairs.from_cache(data) if isinstance(data, EmbeddingCache) else EmbeddingPairs.load(data)
