"""The caption decoder: a causal language model, with a LoRA adapter where wanted, that reads a soft prefix."""

import json
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..errors import InputError, ModelFolderError
from ..loading import (
    WEIGHTS_AND_TEXT,
    BaseReference,
    LoadPath,
    check_finite,
    check_loading_info,
    check_vocabulary,
    drop_local_names,
    includes_base,
    load_strict,
    load_tokenizer,
    read_json,
    refuse_pickles,
    save_tokenizer,
)
from ..loading_options import LoadingOptions, as_dtype, refuse_unknown
from ..tensors import cast_floats
from .generation_options import SEARCH_ERRORS, raise_option_error, refuse_options

CONFIG_FILE = "decoder_config.json"
ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER = "default"  # PEFT's name of the one adapter; it writes others to folders of their own
BASE_FOLDER = "base"


class CaptionDecoder(nn.Module):
    """Writes captions after [BOS + instruction] + soft prefix (paper §5).

    Args:
        model: a causal LM, or a `peft.PeftModel` over one.
        tokenizer: of that model.
        instruction: optional hard prompt in front of the prefix.
        source: the base model's repository on the Hub, or None where only local weights exist.

    Raises:
        InputError: adapter layers injected into the model itself, which no file format keeps.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import CaptionDecoder
        >>> from diffusion_link_hf.loading import default_pipeline_folder
        >>> decoder = CaptionDecoder.from_pretrained(default_pipeline_folder() / "decoder")
        >>> captions = decoder.generate(torch.zeros(2, 1, decoder.hidden_size), max_new_tokens=5)
        >>> [len(row) for row in captions]
        [1, 1]
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        instruction: str | None = None,
        source: BaseReference | None = None,
    ):
        super().__init__()
        if hasattr(model, "peft_config") and not hasattr(model, "get_base_model"):
            raise InputError("model", "has an injected adapter", "Make it with peft.get_peft_model, which can be saved")
        self.model = model
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.source = source

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def base_model(self) -> PreTrainedModel:
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def config(self):
        return self.base_model.config

    @property
    def hidden_size(self) -> int:
        """h, width of the token embeddings."""
        return self.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.base_model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.base_model.dtype

    def _checked_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise InputError("CaptionDecoder", "has no tokenizer", "Load it with from_pretrained, or pass tokenizer=")
        return self.tokenizer

    def _instruction_ids(self) -> torch.Tensor:
        """(n,) BOS and the tokens of the instruction."""
        tokenizer = self._checked_tokenizer()
        ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        if self.instruction:
            ids += tokenizer(self.instruction, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def _prompt(self, prefix: torch.Tensor) -> torch.Tensor:
        """(B, m, h) → (B, n + m, h). Every row has the same length, so nothing is padded and no position shifts."""
        if prefix.ndim != 3 or prefix.shape[2] != self.hidden_size:
            raise InputError(
                "prefix", f"has shape {tuple(prefix.shape)}", f"This decoder takes (B, m, {self.hidden_size})"
            )
        head = self.base_model.get_input_embeddings()(self._instruction_ids())
        return torch.cat([head.expand(len(prefix), -1, -1), prefix.to(head)], dim=1)

    def check_length(self, prefix_tokens: int, caption_tokens: int, name: str = "max_new_tokens") -> None:
        """Raises InputError, naming ``name``, if a caption of so many tokens has no room behind the prompt.

        Args:
            prefix_tokens: m, of the soft prefix.
            caption_tokens: EOS among them.
        """
        positions, prompt = getattr(self.config, "max_position_embeddings", None), len(self._instruction_ids())
        if positions is not None and prompt + prefix_tokens + caption_tokens > positions:
            raise InputError(
                name,
                f"needs {caption_tokens} positions behind {prompt} of the instruction and {prefix_tokens} of the "
                f"prefix, but the base model has {positions}",
                "Use shorter captions, a shorter instruction or another base model",
            )

    def tokenize(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions as training targets: ids (B, L) with EOS, right-padded, and their mask (B, L)."""
        tokenizer = self._checked_tokenizer()
        if tokenizer.eos_token_id is None:
            raise InputError("tokenizer", "has no end-of-sequence token", "Captions need one to end with")
        ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [[*row, tokenizer.eos_token_id] for row in ids]
        length = max(map(len, rows))
        input_ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return input_ids, mask

    def forward(self, prefix: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> CausalLMOutput:
        """Teacher-forced loss, cross-entropy on the caption's tokens (EOS among them) only.

        Args:
            prefix: (B, m, h) soft prefix.
            input_ids, attention_mask: (B, L) captions from `tokenize`.

        Returns:
            ``loss``, mean over the caption tokens of the batch, and ``logits`` (B, L, vocabulary), where position k
            predicts caption token k.
        """
        input_ids, attention_mask = input_ids.to(self.device), attention_mask.to(self.device)
        prompt = self._prompt(prefix)
        tokens = self.base_model.get_input_embeddings()(input_ids)
        mask = torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], dim=1)
        hidden = torch.cat([prompt, tokens], dim=1)
        # Keep only the positions that predict a caption token: the vocabulary product is the dearest one.
        keep = input_ids.shape[1] + 1
        logits = self.model(inputs_embeds=hidden, attention_mask=mask, logits_to_keep=keep, use_cache=False).logits[
            :, :-1
        ]
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def log_probabilities(self, prefix: torch.Tensor, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """How probable captions are to this decoder.

        Args:
            prefix: (B, m, h) soft prefix.
            captions: B of them.

        Returns:
            Mean log-probability per token (B,) float32, and the number of tokens (B,), the end of sequence among them.
        """
        ids, mask = self.tokenize(captions)
        ids, mask = ids.to(self.device), mask.to(self.device)
        chosen = self(prefix, ids, mask).logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
        count = mask.sum(1)
        return (chosen * mask).sum(1) / count, count

    @apply_forward_hook  # offloading moves the model in at `forward`; generation is another way in
    @torch.no_grad()
    def generate(
        self,
        prefix: torch.Tensor,
        num_return_sequences: int = 1,
        generator: torch.Generator | None = None,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        do_sample: bool = False,
        **options,
    ) -> list[list[str]]:
        """Write captions; greedy by default.

        Args:
            prefix: (B, m, h).
            num_return_sequences: captions per row; more than one needs beams or sampling.
            generator: makes sampling reproducible; transformers samples from the global state, which is seeded from
                the generator for the call and put back after it.
            options: further fields of `transformers.GenerationConfig`, such as ``temperature``: those of
                `generation_options.OPTIONS`. Refused are total lengths (``max_length``, ``min_length``: use
                ``max_new_tokens``, ``min_new_tokens``), special token ids, output options, and what a soft prefix,
                having no token ids, cannot serve: assisted decoding, early exit, prompt lookup, guidance, token
                healing, encoder penalties, prefill in chunks.

        Returns:
            B lists of ``num_return_sequences`` captions, stripped.

        Raises:
            InputError: see `generation_config`; a prefix of another shape; more tokens than the base model has
                positions; something that is no generator; or an option that fails only in the search, with its error
                chained.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError("generator", f"is a {type(generator).__name__}", "Pass one torch.Generator")
        config = self.generation_config(num_return_sequences, max_new_tokens, num_beams, do_sample, **options)
        if not len(prefix):
            return []
        self.check_length(prefix.shape[1], max_new_tokens)
        prompt = self._prompt(prefix)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=do_sample and generator is not None):
            if do_sample and generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
            try:
                ids = self.model.generate(
                    inputs_embeds=prompt,
                    attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device),
                    generation_config=config,
                    tokenizer=self.tokenizer if options.get("stop_strings") else None,
                )
            except SEARCH_ERRORS as error:  # some values are only checked, or only fail, in the search
                raise_option_error(error, options)
        texts = [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return [texts[i : i + num_return_sequences] for i in range(0, len(texts), num_return_sequences)]

    def generation_config(
        self,
        num_return_sequences: int = 1,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        do_sample: bool = False,
        **options,
    ) -> GenerationConfig:
        """The arguments of `generate`, checked before anything is computed.

        Raises:
            InputError: an unknown or refused option, a value of a wrong type or out of range, or several sequences
                from greedy search.
        """
        refuse_options(options)
        if not isinstance(do_sample, bool):
            raise InputError("do_sample", f"is {do_sample!r}", "Use True or False")
        counts = {
            "num_return_sequences": num_return_sequences,
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
        }
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(name, f"is {value!r}", "Use a whole number of at least 1")
        if num_return_sequences > 1 and not do_sample and num_beams < num_return_sequences:
            raise InputError(
                "num_return_sequences",
                f"is {num_return_sequences} with num_beams={num_beams}, do_sample={do_sample}",
                "Greedy search has one result: sample, or use at least as many beams",
            )
        tokenizer = self._checked_tokenizer()
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        special = {"pad_token_id": pad, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        try:
            return GenerationConfig(do_sample=do_sample, **counts, **special, **options)
        except SEARCH_ERRORS as error:
            raise_option_error(error, options)

    def save_pretrained(
        self, save_directory: LoadPath, include_base: bool | None = None, dtype: torch.dtype | str | None = None
    ) -> None:
        """Write adapter, tokenizer and ``decoder_config.json``; the base model as weights or as a reference.

        Args:
            save_directory: created if absent.
            include_base: whether the base's weights are copied; None copies them unless a `source` can be referenced.
            dtype: of the stored weights.

        Raises:
            InputError: something that the folder could not hold would be lost.
        """
        folder, dtype = Path(save_directory), as_dtype(dtype)
        if self.has_adapter and list(self.model.peft_config) != [ADAPTER]:
            names = ", ".join(self.model.peft_config)
            raise InputError(
                "adapters", f"are {names}", f"A decoder folder holds one, named {ADAPTER!r}: merge or delete"
            )
        include_base = includes_base(include_base, self.source)
        if not include_base and not self.has_adapter:
            raise InputError(
                "include_base",
                "is False, but this decoder has no adapter",
                "Its own weights would be lost: use include_base=True",
            )
        if include_base and getattr(self.base_model, "hf_quantizer", None) is not None:
            raise InputError(
                "include_base",
                f"is {include_base}, but the base model is quantized",
                "Load it without quantization_config, or from the Hub and save with include_base=False",
            )
        folder.mkdir(parents=True, exist_ok=True)
        base = folder / BASE_FOLDER
        if include_base:
            self.base_model.save_pretrained(base, state_dict=cast_floats(self.base_state(), dtype))
        else:
            self.base_model.config.save_pretrained(base)
        drop_local_names(base / "config.json")
        for stale in (ADAPTER_FILE, ADAPTER_WEIGHTS):  # of an earlier decoder: it would be put onto this one
            (folder / stale).unlink(missing_ok=True)
        if self.has_adapter:
            # save_embedding_layers="auto", the default, asks the Hub about the base model.
            self.model.save_pretrained(folder, save_embedding_layers=False)
            if dtype is not None:
                weights = cast_floats(load_file(folder / ADAPTER_WEIGHTS), dtype)
                save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the pipeline writes its own
            adapter = read_json(folder / ADAPTER_FILE)
            # A path of this machine means nothing elsewhere; the base is found through decoder_config.json.
            adapter["base_model_name_or_path"] = self.source.id if self.source else None
            adapter["revision"] = self.source.revision if self.source else None
            (folder / ADAPTER_FILE).write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)
        reference = {"path": BASE_FOLDER} if include_base else self.source.as_json()
        config = {"instruction": self.instruction, "base": reference}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def base_state(self) -> dict[str, torch.Tensor]:
        """The base model's weights under their own names, without the wrappers and adapters that PEFT injects.

        Raises:
            InputError: an adapter of a kind that does not let the base model's weights be told from its own.
        """
        state = self.base_model.state_dict()
        if not self.has_adapter:
            return state
        added = (self.model.base_model.prefix, ".modules_to_save.")
        state = {
            key.replace(".base_layer.", ".").replace(".original_module.", "."): value
            for key, value in state.items()
            if not any(part in key for part in added)
        }
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(self.config).state_dict()
        if set(state) != set(plain):
            odd = ", ".join(sorted(set(state) ^ set(plain))[:3])
            raise InputError(
                "base model", f"cannot be told from its adapter ({odd})", "Merge the adapter before saving"
            )
        return state

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: LoadPath,
        token: str | bool | None = None,
        cache_dir: LoadPath | None = None,
        local_files_only: bool = False,
        trainable: bool = False,
        **options: Any,
    ) -> "CaptionDecoder":
        """Load a decoder folder: the base (inside, or from the Hub at its pinned revision), then the adapter, strictly.

        Args:
            trainable: whether the adapter's weights take gradients.
            options: ``dtype`` (float32 by default), ``device_map``, ``quantization_config`` and the others of
                `LoadingOptions`, of the base model.

        Raises:
            ModelFolderError: something missing, additional, misshapen, not finite, or pickled; a base outside of the
                folder; a tokenizer larger than the model's vocabulary.
            HubAccessError: the base cannot be had; for a gated one the message says what to accept and where.
            InputError: an option that cannot be used.
        """
        how = LoadingOptions.take(options)
        refuse_unknown("CaptionDecoder.from_pretrained", options)
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise ModelFolderError(folder, "no such folder", "The component is missing: save or download it again")
        refuse_pickles(folder)
        instruction, base = read_decoder_config(folder)
        source = None
        if isinstance(base, BaseReference):
            base, source = base.fetch(
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=WEIGHTS_AND_TEXT,
            )
        model, tokenizer = load_causal_lm(base, **how.for_model()), load_tokenizer(folder)
        check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
        if (folder / ADAPTER_FILE).is_file():
            model = _load_adapter(model, folder, trainable)
            check_finite(model, folder)
        elif (folder / ADAPTER_WEIGHTS).is_file():
            raise ModelFolderError(
                folder / ADAPTER_FILE, "is missing", "The adapter's weights are there without their configuration"
            )
        return cls(model, tokenizer, instruction, source).eval()

    @classmethod
    def from_config(cls, folder: LoadPath, **overrides) -> "CaptionDecoder":
        """The architecture of the folder with random weights; ``overrides`` change the base model's configuration."""
        folder = Path(folder)
        instruction, base = read_decoder_config(folder)
        values = read_json(folder / BASE_FOLDER / "config.json") | overrides
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
            if (folder / ADAPTER_FILE).is_file():
                from peft import PeftConfig, get_peft_model

                model = get_peft_model(model, PeftConfig.from_pretrained(str(folder)))
        except Exception as error:
            raise ModelFolderError(
                folder, f"cannot be built ({error})", "Check base/config.json and adapter_config.json"
            ) from error
        tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
        return cls(model, tokenizer, instruction, base if isinstance(base, BaseReference) else None).eval()


def read_decoder_config(folder: Path) -> tuple[str | None, Path | BaseReference]:
    """A decoder folder's instruction, and its base model: a folder inside it, or the repository that it references.

    Raises:
        ModelFolderError: ``decoder_config.json`` is missing or damaged, or the base is outside of the folder.
    """
    item = folder / CONFIG_FILE
    config = read_json(item)
    instruction, base = config.get("instruction"), config.get("base")
    if instruction is not None and not isinstance(instruction, str):
        raise ModelFolderError(item, f"has instruction = {instruction!r}", "It is a string or null")
    if reference := BaseReference.read(folder):
        return instruction, reference
    if not isinstance(base, dict) or not isinstance(base.get("path"), str):
        raise ModelFolderError(
            item, f"names no base model (base = {base!r})", "It needs {'path'} or {'id', 'revision'}"
        )
    path = PureWindowsPath(base["path"])  # which knows the separators of every system
    if path.anchor or ".." in path.parts:
        raise ModelFolderError(
            item, f"has its base model in {base['path']!r}", "It must be a folder in the decoder's own"
        )
    return instruction, folder / base["path"]


def load_causal_lm(folder: Path, dtype: torch.dtype | None = None, **options: Any) -> PreTrainedModel:
    """A causal LM from a folder, strictly and from safetensors only.

    Args:
        options: more of `LoadingOptions.for_model`. A quantized model is frozen.
    """
    # trust_remote_code=None would ask at the terminal whether to run code of the folder.
    model = load_strict(
        AutoModelForCausalLM.from_pretrained, folder, dtype, local_files_only=True, trust_remote_code=False, **options
    )
    if options.get("quantization_config") is not None:
        del model.config.quantization_config  # of this loading, not of the base that a saved folder refers to
        model.requires_grad_(False)
    return model


def _load_adapter(model: PreTrainedModel, folder: Path, trainable: bool):
    """PEFT only warns when adapter keys do not match; here the sets of keys have to be equal."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ModelFolderError(weights, "is missing", "The adapter's configuration is there without its weights")
    try:
        with safe_open(weights, "pt") as file:
            stored = set(file.keys())
        dtype = model.dtype
        peft = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, autocast_adapter_dtype=False)
    except Exception as error:
        raise ModelFolderError(
            weights, f"cannot be loaded ({error})", "Adapter and base model must belong together"
        ) from error
    expected = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    check_loading_info(weights, {"missing_keys": expected - stored, "unexpected_keys": stored - expected})
    for parameter in peft.parameters():  # not `peft.to`: it would round the float32 table of rotary frequencies as well
        if parameter.is_floating_point():  # quantized weights are bytes
            parameter.data = parameter.data.to(dtype)
    return peft
