"""Typed training arguments, and the recipe files (YAML) that hold them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ..errors import RecipeError


@dataclass
class TrainingArguments:
    """What all stages share.

    Attributes:
        stage: "link", "bridge" or "decoder".
        cache: folder of the embedding cache.
        output: folder of results; checkpoints and logs go below it.
        seed: of weights, data order and noise, 0 to 2³² − 1.
        batch_size: rows of an optimization step, over all processes and micro-batches, so that a recipe means the same
            training on any number of processes.
        gradient_accumulation_steps: micro-batches that each process's rows of a step are worked off in. They cost less
            memory and change the result by rounding alone.
        max_steps: optimization steps; the decoder may give ``epochs`` instead.
        learning_rate: peak.
        max_grad_norm: gradient clipping, 0 for none.
        validation_fraction: share of recordings held out.
        validate_every, checkpoint_every, log_every: steps.
        keep: which weights the stage ends with: "last", or the "best" of all validations (and of the end).
        keep_checkpoints: older ones are removed.
        resume: go on from the newest checkpoint in ``output``, if there is one; otherwise those that are there are
            removed.
        mixed_precision: "no", "bf16", or, not on a CPU, "fp16".
        report_to: tracker that Accelerate knows, or "none".

    Raises:
        RecipeError: a value out of range; so for the arguments of every stage.
    """

    stage: str = "link"
    cache: str = ""
    output: str = ""
    seed: int = 0
    batch_size: int = 128
    gradient_accumulation_steps: int = 1
    max_steps: int = 0
    learning_rate: float = 1e-4
    max_grad_norm: float = 0.0
    validation_fraction: float = 0.05
    validate_every: int = 500
    checkpoint_every: int = 1000
    log_every: int = 50
    keep: Literal["last", "best"] = "last"
    keep_checkpoints: int = 2
    resume: bool = True
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    report_to: str = "tensorboard"

    def __post_init__(self):
        for name in ("cache", "output"):
            _require(bool(getattr(self, name)), name, "", "Name a folder")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "Use 0 to 4294967295")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "Use a positive number")
        _require(0 <= self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "Use 0 to below 1")
        self._at_least(1, "batch_size", "validate_every", "checkpoint_every", "log_every", "keep_checkpoints")
        self._at_least(1, "gradient_accumulation_steps")
        _require(
            self.keep == "last" or self.validation_fraction > 0, "keep", self.keep, "Hold out a validation_fraction"
        )
        self._at_least(0, "max_steps", "max_grad_norm")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            remedy = f"Use a finite number of at least {least}"
            _require(least <= getattr(self, name) < math.inf, name, getattr(self, name), remedy)


@dataclass
class TrainedBridgeArguments(TrainingArguments):
    """What the link and the bridge stage share: Adam and averaged weights.

    Attributes:
        model: arguments of the bridge's class; ``embedding_dim`` follows the cache.
        max_train_timestep: s is drawn from 1 … this, at most 1000.
        lr_schedule: "step", or "cosine": half a cosine to zero over ``max_steps``.
        lr_decay, lr_decay_every: of "step": the learning rate is multiplied by ``lr_decay`` every so many steps.
        ema_decay: of the averaged weights, which are what is saved; 0 for none.
        keep: "best" is by the matched cosine of bridged source and target.
        rows_on: where the normalized embeddings lie: on the "device", on the "host" (each batch is copied), or "auto":
            on the device if they take less than half of its free memory.
    """

    model: dict[str, Any] = field(default_factory=dict)
    max_train_timestep: int | None = None
    lr_schedule: Literal["step", "cosine"] = "step"
    lr_decay: float = 0.97
    lr_decay_every: int = 200
    ema_decay: float = 0.995
    rows_on: Literal["auto", "device", "host"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        self._at_least(1, "max_steps", "lr_decay_every")
        timestep = self.max_train_timestep
        _require(timestep is None or 1 <= timestep <= 1000, "max_train_timestep", timestep, "Use 1 to 1000")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "Use 0 to below 1")
        _require(0 < self.lr_decay <= 1, "lr_decay", self.lr_decay, "Use a number above 0, at most 1")


@dataclass
class BridgeTrainingArguments(TrainedBridgeArguments):
    """Fitting of any bridge of `training.bridge.METHODS`; see `train_bridge`.

    Attributes:
        cache: folder of the embedding cache, or a safetensors file of pairs (`EmbeddingPairs.load`).
        method: its name.
        max_steps: of a method that is trained; one of a closed form takes none.
        max_train_timestep: by default what the method says.
        loss: options of the method's loss.
    """

    stage: str = "bridge"
    method: str = ""
    max_steps: int = 2000
    learning_rate: float = 5e-4
    loss: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        _require(bool(self.method), "method", "", "Name a bridging method, such as ridge or diffusion-link")


@dataclass
class LinkTrainingArguments(TrainedBridgeArguments):
    """Training of Diffusion-Link on cached pairs; the defaults are the paper's.

    Attributes:
        model: arguments of `DiffusionLinkModel`.
        max_train_timestep: the paper trains on all 1000, a link that is only used shallowly does better with 150 to
            300.
        topology_weight, topology_source, topology_reduction: see `bridges.losses.diffusion_link_loss`.
        text_to_text: whether the text→text branch is trained, as the paper does.
    """

    max_steps: int = 20_000
    max_train_timestep: int = 1000
    topology_weight: float = 1.0
    topology_source: Literal["audio", "text", "both"] = "audio"
    topology_reduction: Literal["sum", "mean"] = "mean"
    text_to_text: bool = True

    def __post_init__(self):
        super().__post_init__()
        self._at_least(0, "topology_weight")


@dataclass
class DecoderTrainingArguments(TrainingArguments):
    """Training of projector and decoder through a frozen link; the defaults are the paper's.

    Attributes:
        mode: "text_only" (captions from their own text embeddings: zero-shot captioning) or "supervised" (from audio).
        link: folder ``link`` of a trained bridge of any kind, with its ``scheduler`` beside it, or null for the
            paper's baseline.
        clap: CLAP folder or Hub id, the one that made the cache; with it the result is a complete pipeline folder.
        base_model: causal LM, a folder or a Hub id; or a pipeline, such as "tiny", whose base model is meant.
        base_revision: of a Hub id.
        instruction: hard prompt in front of the prefix, or null.
        projector: arguments of `PrefixProjector`; its widths follow cache and base model.
        lora: arguments of `peft.LoraConfig`, or null to train all weights of the base model.
        epochs: passes over the captions, unless ``max_steps`` is given.
        warmup_epochs: of linear warm-up, before a cosine decay to zero.
        warmup_steps: instead of ``warmup_epochs``, with ``max_steps``.
        weight_decay: of AdamW.
        bucket_batches: captions of similar length share a batch: this many batches of each shuffled epoch are sorted by
            length together. 1 leaves the order random, with more padding.
        gradient_checkpointing: compute activations again in the backward pass rather than keep them.
        base_dtype: of the base model's weights while training. A frozen base is best kept in "bfloat16", with
            ``mixed_precision: bf16``; adapter and projector are float32 in any case.
        load_in_4bit: load the base model in 4 bits (NF4, bitsandbytes), for LoRA on top of it (QLoRA).
        validate_metric: what ``keep: best`` and ``patience`` look at: "loss", or "cider_d" of captions that are
            written from the validation part.
        validation_captions: how many recordings are captioned for it.
        patience: validations in a row without a better ``validate_metric`` before the training ends; 0 for none.
        bridge_noise: noise injected by the link while training: "fixed" as at inference, or "fresh" per batch. The
            noise of a `MeanCentering` link (C3) is part of text-only training alone: fresh for each row, or none if
            "fixed".
        include_base: whether the base model's weights are copied into the result.
        weights_dtype: of the stored weights.
    """

    stage: str = "decoder"
    mode: Literal["text_only", "supervised"] = "text_only"
    link: str | None = None
    clap: str | None = None
    base_model: str = ""
    base_revision: str | None = None
    instruction: str | None = None
    projector: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = field(default_factory=dict)
    batch_size: int = 4
    learning_rate: float = 5e-6
    epochs: float = 50
    warmup_epochs: float = 2
    warmup_steps: int = 0
    weight_decay: float = 0.01
    bucket_batches: int = 50
    gradient_checkpointing: bool = False
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    load_in_4bit: bool = False
    validate_metric: Literal["loss", "cider_d"] = "loss"
    validation_captions: int = 200
    patience: int = 0
    bridge_noise: Literal["fixed", "fresh"] = "fresh"
    include_base: bool | None = None
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        _require(bool(self.base_model), "base_model", "", "Name a causal LM: a folder or a Hub id")
        self._at_least(0, "epochs", "warmup_epochs", "warmup_steps", "weight_decay", "patience")
        _require(self.max_steps >= 1 or self.epochs > 0, "epochs", self.epochs, "Give epochs or max_steps")
        within = not self.max_steps or self.warmup_steps <= self.max_steps
        _require(within, "warmup_steps", self.warmup_steps, f"Use at most max_steps ({self.max_steps})")
        validated = not (self.patience and self.max_steps) or self.validate_every <= self.max_steps
        _require(validated, "validate_every", self.validate_every, "Use at most max_steps: patience counts validations")
        self._at_least(1, "bucket_batches")
        self._at_least(2, "validation_captions")
        _require(
            self.base_dtype == "float32" or self.lora is not None,
            "base_dtype",
            self.base_dtype,
            "Give lora, or float32",
        )
        _require(not self.load_in_4bit or self.lora is not None, "load_in_4bit", True, "Give lora: it trains no base")
        needs_rows = self.patience or self.validate_metric != "loss"
        _require(
            self.validation_fraction > 0 or not needs_rows,
            "validation_fraction",
            self.validation_fraction,
            "Hold out recordings for validate_metric and patience",
        )


STAGES = {"link": LinkTrainingArguments, "bridge": BridgeTrainingArguments, "decoder": DecoderTrainingArguments}


def _require(condition: bool, name: str, value: Any, remedy: str) -> None:
    if not condition:
        raise RecipeError(name, f"is {value!r}", remedy)


def load_recipe(path: str | Path, overrides: list[str] = ()) -> TrainingArguments:
    """Arguments from a YAML file and ``key=value`` overrides (values are YAML; ``model.width=64`` reaches inside).

    Raises:
        RecipeError: unreadable, an unknown field or stage, or a value of a wrong type or out of range.
    """
    path = Path(path)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(path, f"cannot be read ({error})", "Pass a YAML file of training arguments") from error
    if not isinstance(recipe, dict):
        raise RecipeError(path, f"holds a {type(recipe).__name__}", "A recipe maps fields to values")
    for override in overrides:
        _override(recipe, override)
    stage = recipe.get("stage")
    if stage not in STAGES:
        raise RecipeError(f"{path}: stage", f"is {stage!r}", f"Use one of {', '.join(STAGES)}")
    arguments_class = STAGES[stage]
    hints = get_type_hints(arguments_class)
    unknown = sorted(map(str, set(recipe) - set(hints)))
    if unknown:
        raise RecipeError(
            f"{path}: {unknown[0]}", f"is no field of the {stage} stage", f"Fields are {', '.join(sorted(hints))}"
        )
    return arguments_class(**{key: _typed(f"{path}: {key}", value, hints[key]) for key, value in recipe.items()})


def _override(recipe: dict[str, Any], override: str) -> None:
    """Puts ``key=value`` into the recipe; ``a.b=1`` makes ``a`` a mapping where the recipe says null or nothing."""
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not (equals and all((*parents, last))):
        raise RecipeError(override, "is no override", "Write key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(override, f"has no YAML value ({error})", "Write key=value, quoted where needed") from error
    target = recipe
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise RecipeError(override, f"reaches into {parent}, which is {target!r}", f"Write {parent}=value")
    target[last] = value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the field's type; YAML reads 1e-4 as a string, so numbers may come as text."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        if value is False and "no" in options:  # YAML's other trap
            value = "no"
        if value not in options:
            raise RecipeError(name, f"is {value!r}", f"Use one of {', '.join(map(str, options))}")
        return value
    accepted = options if type(None) in options else (hint,)
    if value is None and type(None) in accepted:
        return None
    kind = next(option for option in accepted if option is not type(None))
    kind = get_origin(kind) or kind
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is not float and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise RecipeError(name, f"is {value!r}", f"A {kind.__name__} is expected")
