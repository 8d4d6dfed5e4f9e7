"""What a recipe can say: one class of typed fields for bridges and one for the decoder, checked when they are made."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import RecipeError


@dataclass
class TrainingArguments:
    """The fields that all stages share.

    Attributes:
        stage (`str`): "bridge" or "decoder"; a recipe file must name it.
        cache (`str`): path of the training data, a folder with an embedding cache. Required.
        output (`str`): folder that receives the results, checkpoints and logs. Required.
        seed (`int`, default 0): seed of the weights, the data order and the noise; 0 to 2³² − 1.
        batch_size (`int`, default 128; the decoder: 4): number of rows in one optimization step, added up over all
            processes. A recipe therefore means the same training on any number of processes.
        gradient_accumulation_steps (`int`, default 1): number of micro-batches per optimization step and process. More
            of them need less memory and change the result only by rounding.
        max_steps (`int`, default 2000; the decoder: 0): number of optimization steps. The decoder may give ``epochs``
            instead.
        learning_rate (`float`, default 5e-4; the decoder: 5e-6): the highest learning rate of the schedule.
        max_grad_norm (`float`, default 0.0): gradients with a larger norm are scaled down to it; 0 turns clipping off.
        validation_fraction (`float`, default 0.05): share of the recordings that is held out for validation, 0 to below
            1.
        validation_cache (`str | null`, default null): path of other data to validate on, such as the cache of the data
            set's own validation split. Nothing is held out then.
        validate_every (`int`, default 500): number of steps between two validations.
        checkpoint_every (`int`, default 1000): number of steps between two checkpoints.
        log_every (`int`, default 50): number of steps between two entries in the log.
        keep (`"last" | "best"`, default "last"): which weights become the result, those of the last step or of
            the best validation.
        keep_checkpoints (`int`, default 2): how many checkpoints are kept; older ones are removed.
        resume (`bool`, default true): whether to continue from the newest checkpoint in ``output``. If false, the
            checkpoints there are removed and training starts from the beginning. A finished run goes on if it is given
            more steps; see `optimize`.
        init_from (`str | null`, default null): folder of a training's result, whose trained weights are the start
            instead of random ones. The models must have the same sizes.
        mixed_precision (`"no" | "bf16" | "fp16"`, default "no"): number format of the forward pass; "fp16" needs a GPU.
        torch_compile (`bool`, default false): whether the model is compiled with `torch.compile`. The first steps then
            take a minute or more. Not with FSDP.
        report_to (`str`, default "tensorboard"): name of a tracker that Accelerate knows, or "none".
        project (`str | null`, default null): name of the tracker's project; the stage's name by default.
        run_name (`str | null`, default null): name of the run in the tracker, which chooses one by default.
        push_to_hub (`str | null`, default null): repository, ``owner/name``, to which the result is pushed; see `push`.
        push_every_checkpoint (`bool`, default false): whether it is also pushed, as it would be then, after each
            checkpoint. A push that fails there is reported, and training goes on.
        hub_private (`bool`, default false): whether the repository is created as a private one.

    Raises:
        RecipeError: a value is out of range. The same holds for the arguments of every stage.
    """

    stage: str = ""
    cache: str = ""
    output: str = ""
    seed: int = 0
    batch_size: int = 128
    gradient_accumulation_steps: int = 1
    max_steps: int = 0
    learning_rate: float = 1e-4
    max_grad_norm: float = 0.0
    validation_fraction: float = 0.05
    validation_cache: str | None = None
    validate_every: int = 500
    checkpoint_every: int = 1000
    log_every: int = 50
    keep: Literal["last", "best"] = "last"
    keep_checkpoints: int = 2
    resume: bool = True
    init_from: str | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    torch_compile: bool = False
    report_to: str = "tensorboard"
    project: str | None = None
    run_name: str | None = None
    push_to_hub: str | None = None
    push_every_checkpoint: bool = False
    hub_private: bool = False

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                choices = get_args(hint)
                _require(getattr(self, name) in choices, name, getattr(self, name), f"Use one of {', '.join(choices)}")
        for name in ("cache", "output"):
            _require(bool(getattr(self, name)), name, "", "Name a folder")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "Use 0 to 4294967295")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "Use a positive number")
        _require(0 <= self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "Use 0 to below 1")
        self._at_least(1, "batch_size", "validate_every", "checkpoint_every", "log_every", "keep_checkpoints")
        self._at_least(1, "gradient_accumulation_steps")
        held_out = self.validation_fraction > 0 or self.validation_cache is not None
        remedy = "Hold out a validation_fraction, or name a validation_cache"
        _require(self.keep == "last" or held_out, "keep", self.keep, remedy)
        self._at_least(0, "max_steps", "max_grad_norm")
        for name in ("project", "run_name"):
            tracked = getattr(self, name) is None or self.report_to != "none"
            _require(tracked, name, getattr(self, name), "Name a tracker in report_to, or leave it out")
        for name in ("push_every_checkpoint", "hub_private"):
            pushed = not getattr(self, name) or self.push_to_hub is not None
            _require(pushed, name, True, "Name a repository in push_to_hub")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            remedy = f"Use a finite number of at least {least}"
            _require(least <= getattr(self, name) < math.inf, name, getattr(self, name), remedy)


@dataclass
class BridgeTrainingArguments(TrainingArguments):
    """The fields of the bridge stage: any method of `METHODS`; see `train_bridge`.

    Attributes:
        cache (`str`): folder of an embedding cache, or a safetensors file of pairs (see `EmbeddingPairs.load`).
        max_steps (`int`, default 2000): number of optimization steps. A method in closed form takes none.
        keep: "best" is the highest mean cosine between bridged audio and its text, on the held-out recordings.
        model (`dict`, default {}): arguments of the bridge's class, such as ``width: 512``. ``embedding_dim`` follows
            the data.
        max_train_timestep (`int`, default: that of the method): the highest diffusion timestep that is trained, 1 to
            1000. The paper trains on all 1000. A bridge that starts from a small timestep gains from 150 to 300.
        lr_schedule (`"step" | "cosine"`, default "step"): how the learning rate falls, in steps or along half a cosine
            that reaches zero at ``max_steps``.
        lr_decay (`float`, default 0.97): factor of the learning rate in the "step" schedule, above 0 and at most 1.
        lr_decay_every (`int`, default 200): number of optimization steps after which ``lr_decay`` applies again.
        ema_decay (`float`, default 0.995): decay of the exponential moving average of the weights, 0 to below 1. The
            averaged weights are the result; 0 turns averaging off.
        rows_on (`"auto" | "device" | "host"`, default "auto"): where the embeddings are kept while training, on the
            accelerator or in main memory. "auto" uses the accelerator if they fill less than half of its free memory.
        method (`str`): name of a bridging method, such as "diffusion-link" or "ridge". Required.
        loss (`dict`, default {}): options of the method's training loss. Diffusion-Link knows ``dim_reduction``,
            ``batch_reduction``, ``topology_reduction``, ``topology_weight``, ``topology_source`` and ``text_to_text``;
            see `diffusion_link_loss`. ``preset`` stands for the first four: "paper" (the default: both terms are means
            over their elements), "literal" (squared norms as they are written) or "none" (no topology loss).

    Examples:
        >>> args = BridgeTrainingArguments(method="ridge", cache="runs/cache", output="runs/ridge")
        >>> args.stage, args.max_steps
        ('bridge', 2000)
    """

    stage: str = "bridge"
    max_steps: int = 2000
    learning_rate: float = 5e-4
    model: dict[str, Any] = field(default_factory=dict)
    max_train_timestep: int | None = None
    lr_schedule: Literal["step", "cosine"] = "step"
    lr_decay: float = 0.97
    lr_decay_every: int = 200
    ema_decay: float = 0.995
    rows_on: Literal["auto", "device", "host"] = "auto"
    method: str = ""
    loss: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        _require(bool(self.method), "method", "", "Name a bridging method, such as ridge or diffusion-link")
        self._at_least(1, "max_steps", "lr_decay_every")
        timestep = self.max_train_timestep
        _require(timestep is None or 1 <= timestep <= 1000, "max_train_timestep", timestep, "Use 1 to 1000")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "Use 0 to below 1")
        _require(0 < self.lr_decay <= 1, "lr_decay", self.lr_decay, "Use a number above 0, at most 1")
        weight = self.loss.get("topology_weight", 0.0)
        positive = isinstance(weight, (int, float)) and 0 <= weight < math.inf
        _require(positive, "loss.topology_weight", weight, "Use a finite number of at least 0")


@dataclass
class DecoderTrainingArguments(TrainingArguments):
    """The fields of the decoder stage, which trains projector and decoder; the defaults are the paper's.

    Attributes:
        mode (`"zeroshot" | "supervised"`, default "zeroshot"): what the decoder learns from. "zeroshot" uses text
            embeddings alone, each with its own caption. "supervised" uses audio embeddings.
        link (`str | null`, default null): folder ``link`` of a trained bridge of any kind, with its ``scheduler``
            beside it. The bridge is frozen. null trains without a bridge, which is the paper's baseline.
        clap (`str | null`, default null): folder or Hub id of the CLAP that made the cache. With it, the result is a
            complete pipeline.
        clap_revision (`str | null`, default null): branch, tag or commit of a CLAP from the Hub.
        base_model (`str`): folder or Hub id of a causal language model. A pipeline, such as "tiny", stands for its own
            base model. Required.
        base_revision (`str | null`, default null): branch, tag or commit of a base model from the Hub.
        instruction (`str | null`, default null): text in front of the prefix, such as "Describe the sound: ".
        projector (`dict`, default {}): arguments of `PrefixProjector`. Its widths follow the cache and the base model.
        lora (`dict | null`, default {}): arguments of `peft.LoraConfig`. null trains all weights of the base model.
        batch_size (`int`, default 4): number of captions in one optimization step, added up over all processes.
        max_steps (`int`, default 0): number of optimization steps; 0 trains for ``epochs``.
        epochs (`float`, default 50): number of passes over the captions, unless ``max_steps`` is given.
        warmup_epochs (`float`, default 2): number of epochs in which the learning rate rises linearly; after them it
            falls along a cosine to zero. Without effect where ``max_steps`` is given.
        warmup_steps (`int`, default 0): the same as a number of steps.
        weight_decay (`float`, default 0.01): weight decay of the optimizer, AdamW.
        bucket_batches (`int`, default 50): so many batches of a shuffled epoch are sorted by length together, so that
            captions of similar length share a batch. 1 keeps the order random and pads more.
        gradient_checkpointing (`bool`, default false): whether activations are computed again in the backward pass
            instead of being kept. It saves memory and takes more time.
        base_dtype (`"float32" | "bfloat16"`, default "float32"): number format of the base model's weights while
            training. Use "bfloat16" with ``mixed_precision: bf16`` for a frozen base. Adapter and projector are always
            float32.
        load_in_4bit (`bool`, default false): whether the frozen base model is loaded in 4 bits (NF4, bitsandbytes), for
            LoRA on top of it (QLoRA).
        validate_metric (`"loss" | "cider_d"`, default "loss"): what ``keep: best`` and ``patience`` look at, the loss
            per caption token or CIDEr-D of generated captions.
        validation_captions (`int`, default 200): number of held-out recordings that are captioned for CIDEr-D.
        patience (`int`, default 0): training ends after this many validations in a row without a better
            ``validate_metric``; 0 never ends it early.
        bridge_noise (`"fresh" | "fixed"`, default "fresh"): noise of the bridge while training, drawn for each batch or
            the same as at inference. A `MeanCentering` bridge with noise (C3) adds fresh noise to each row in the
            "zeroshot" mode, and none if "fixed".
        include_base (`bool | null`, default null): whether the base model's weights are copied into the result. null
            copies them only if the base model is not on the Hub.
        weights_dtype (`"float32" | "float16" | "bfloat16"`, default "float32"): number format of the saved weights.

    Examples:
        >>> args = DecoderTrainingArguments(cache="runs/cache", output="runs/decoder", base_model="tiny")
        >>> args.mode, args.epochs
        ('zeroshot', 50)
    """

    stage: str = "decoder"
    mode: Literal["zeroshot", "supervised"] = "zeroshot"
    link: str | None = None
    clap: str | None = None
    clap_revision: str | None = None
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
        pipeline = self.push_to_hub is None or self.clap is not None
        _require(pipeline, "push_to_hub", self.push_to_hub, "Name clap, too: without it the result is no pipeline")
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
            self.validation_fraction > 0 or self.validation_cache is not None or not needs_rows,
            "validation_fraction",
            self.validation_fraction,
            "Hold out recordings for validate_metric and patience",
        )


STAGES = {"bridge": BridgeTrainingArguments, "decoder": DecoderTrainingArguments}


def _require(condition: bool, name: str, value: Any, remedy: str) -> None:
    if not condition:
        raise RecipeError(name, f"is {value!r}", remedy)
