"""The models of the decoder stage, loaded and checked against each other and the data before the first step."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from diffusers import DDIMScheduler
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ..bridges.base import BridgeModel
from ..bridges.sampling import check_scheduler
from ..embeddings.cache import EmbeddingCache, clap_fingerprint
from ..errors import DataError, ModelFolderError, RecipeError
from ..loading import (
    BaseReference,
    load_tokenizer,
    locate,
    read_json,
)
from ..models.clap import ClapEncoder
from ..models.decoder import CONFIG_FILE, CaptionDecoder, load_causal_lm, read_decoder_config
from ..models.prefix_projector import PrefixProjector
from ..pipelines.audio_caption import AudioCaptionPipeline
from .arguments import DecoderTrainingArguments
from .fingerprints import folder_fingerprint
from .preparation import construct
from .warm_start import start_decoder


@dataclass
class DecoderParts:
    """What the stage works with.

    Attributes:
        projector, decoder: to be trained.
        link, scheduler: frozen, both None where the recipe has no link.
        clap: of the pipeline to be written, or None.
        fingerprints: of the contents of link (with its scheduler), base model and CLAP, by the recipe's field; None
            for what there is not.
    """

    projector: PrefixProjector
    decoder: CaptionDecoder
    link: BridgeModel | None
    scheduler: DDIMScheduler | None
    clap: ClapEncoder | None
    fingerprints: dict[str, str | None]


def build_parts(args: DecoderTrainingArguments, cache: EmbeddingCache) -> DecoderParts:
    """Load what the recipe names and make what is new, seeded with ``args.seed``.

    Raises:
        RecipeError: fields that a model does not have or that contradict the data, a link of another CLAP or width, or
            parts that could not be written in the end.
        DataError: a cache of another CLAP than the recipe's.
        ModelFolderError, HubAccessError: something that cannot be loaded.
    """
    lora = None if args.lora is None else construct("lora", LoraConfig, args.lora, task_type="CAUSAL_LM")
    link, scheduler, link_hash = None, None, None
    if args.link:
        link, scheduler = load_link(Path(args.link), cache)
        link_hash = folder_fingerprint(Path(args.link), Path(args.link).parent / "scheduler")
    clap, clap_hash = None, None
    if args.clap:
        clap = ClapEncoder.from_pretrained(args.clap)
        clap_hash = clap_fingerprint(clap)
        made_by = cache.manifest.get("clap")
        if made_by is not None and made_by != clap_hash:
            raise DataError(
                args.cache, f"was made by CLAP {made_by}, not by {clap_hash}", f"Embed the data with {args.clap}"
            )
    set_seed(args.seed)
    base = locate_base(args.base_model, args.base_revision)
    decoder = build_decoder(args, base, lora)
    projector = construct(
        "projector",
        PrefixProjector,
        args.projector,
        embedding_dim=cache.embedding_dim,
        hidden_size=decoder.hidden_size,
    )
    check_can_be_written(args, decoder, clap)
    if clap is not None:
        AudioCaptionPipeline(clap, projector, decoder, link, scheduler).check_components("recipe")
    start = None if args.init_from is None else start_decoder(projector, decoder, args.init_from)
    hashes = {"link": link_hash, "base_model": base.fingerprint, "clap": clap_hash, "init_from": start}
    return DecoderParts(projector, decoder, link, scheduler, clap, hashes)


@dataclass(frozen=True)
class BaseModel:
    """Where a base model lies.

    Attributes:
        weights, tokenizer: folders, one and the same but in a decoder's folder.
        source: its repository on the Hub, or None.
    """

    weights: Path
    tokenizer: Path
    source: BaseReference | None

    @property
    def fingerprint(self) -> str:
        with PartialState().local_main_process_first():  # the others find the hashes that it remembered
            return folder_fingerprint(*dict.fromkeys((self.weights, self.tokenizer)))


def locate_base(name: str, revision: str | None) -> BaseModel:
    """The base model of a recipe: a folder or a Hub id; of a pipeline or decoder folder, what that is based on.

    Raises:
        ModelFolderError, HubAccessError: see `loading.locate`.
    """
    folder, source = locate(name, "decoder", revision)
    holds_base = source is None and (folder / CONFIG_FILE).is_file()
    return BaseModel(read_decoder_config(folder)[1] if holds_base else folder, folder, source)


def load_link(folder: Path, cache: EmbeddingCache) -> tuple[BridgeModel, DDIMScheduler]:
    """A bridge of any kind, frozen, and the scheduler beside its folder.

    Raises:
        RecipeError: no such folder; a link of another width, or one that was trained on another CLAP, as far as the
            metrics.json beside it says.
        ModelFolderError: link or scheduler is missing or damaged.
        InputError: a scheduler that the sampler cannot use.
    """
    if not folder.is_dir():
        raise RecipeError("link", f"is {folder}, which is no folder", "Name the folder link/ of a trained bridge")
    link = BridgeModel.from_pretrained(folder).eval().requires_grad_(False)
    if link.config.embedding_dim != cache.embedding_dim:
        raise RecipeError(
            "link",
            f"takes embeddings {link.config.embedding_dim} wide, the cache's are {cache.embedding_dim} wide",
            "Train the link on this cache",
        )
    beside = folder.parent / "scheduler"
    read_json(beside / DDIMScheduler.config_name)
    try:
        scheduler = DDIMScheduler.from_pretrained(beside)
    except Exception as error:  # whatever the values make it stumble over
        raise ModelFolderError(beside, f"cannot be loaded ({error})", "Save the link's pipeline again") from error
    check_scheduler(scheduler)
    metrics = folder.parent / "metrics.json"
    trained_on = read_json(metrics).get("clap") if metrics.is_file() else None
    made_by = cache.manifest.get("clap")
    if None not in (trained_on, made_by) and trained_on != made_by:
        raise RecipeError(
            "link", f"was trained on embeddings of CLAP {trained_on}, the cache is of {made_by}", "Train it on this one"
        )
    return link, scheduler


def build_decoder(args: DecoderTrainingArguments, base: BaseModel, lora: LoraConfig | None) -> CaptionDecoder:
    """The base model, with a fresh adapter if the recipe has one."""
    dtype = getattr(torch, args.base_dtype)
    model = load_in_4bit(base.weights, dtype) if args.load_in_4bit else load_causal_lm(base.weights, dtype)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora is not None:
        try:
            model = get_peft_model(model, lora)
        except (TypeError, ValueError) as error:
            raise RecipeError("lora", f"cannot be applied ({error})", "See peft.LoraConfig") from error
    return CaptionDecoder(model, load_tokenizer(base.tokenizer), args.instruction, base.source)


def load_in_4bit(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A frozen causal LM whose linear layers are held in 4-bit NF4 with double quantization, as in QLoRA.

    Args:
        dtype: in which the layers compute, and of what is not quantized.

    Raises:
        RecipeError: bitsandbytes is not installed, or cannot be used on this machine.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "load_in_4bit", "is true, but bitsandbytes is not installed", "Run: pip install bitsandbytes, or use false"
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=quantization,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            device_map={"": PartialState().device},
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise RecipeError("load_in_4bit", f"cannot be used here ({error})", "Use false, or another machine") from error
    del model.config.quantization_config  # of this training, not of the base that the result refers to
    return model.requires_grad_(False)


def check_can_be_written(args: DecoderTrainingArguments, decoder: CaptionDecoder, clap: ClapEncoder | None) -> None:
    """Raises RecipeError for what the `save_pretrained` of either would refuse after the training."""
    if args.load_in_4bit and (decoder.source is None or args.include_base):
        raise RecipeError(
            "load_in_4bit",
            "is true, but the base model's weights are to be copied into the result",
            "Name base_model by its Hub id, and leave include_base out: 4-bit weights are not those of the base",
        )
    for field, part in (("base_model", decoder), ("clap", clap)):
        if part is not None and args.include_base is False and part.source is None:
            raise RecipeError(
                "include_base", f"is false, but {field} is a folder, which cannot be referenced", "Use true or null"
            )
    included = decoder.source is None if args.include_base is None else args.include_base
    if not included and not decoder.has_adapter:
        raise RecipeError(
            "include_base",
            f"is {args.include_base}, but without lora the base model's own weights are trained",
            "Use include_base: true",
        )
    if included and args.base_dtype != "float32" and args.weights_dtype != args.base_dtype:
        raise RecipeError(
            "base_dtype",
            f"is {args.base_dtype}, but the base is to be copied into the result as {args.weights_dtype}",
            f"Use weights_dtype: {args.base_dtype}, base_dtype: float32, or a base from the Hub, which is not copied",
        )
    if included:
        decoder.base_state()
