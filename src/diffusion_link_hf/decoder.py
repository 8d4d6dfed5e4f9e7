"""The caption decoder: a causal language model, with a LoRA adapter where wanted, that reads a soft prefix."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from .errors import InputError, ModelFolderError
from .hub.loading import (
    LoadPath,
    check_finite,
    check_loading_info,
    download_snapshot,
    drop_local_names,
    read_json,
    refuse_pickles,
    save_tokenizer,
)

CONFIG_FILE = "decoder_config.json"
ADAPTER_FILE = "adapter_config.json"
BASE_FOLDER = "base"
# What the decoder decides itself; everything else of GenerationConfig may be passed to `generate`.
_OWN_OPTIONS = frozenset(
    {"inputs_embeds", "input_ids", "attention_mask", "pad_token_id", "eos_token_id", "bos_token_id", "use_cache"}
)


class CaptionDecoder(nn.Module):
    """Writes captions after [BOS + instruction] + soft prefix (paper §5).

    Args:
        model: a causal LM, or a `peft.PeftModel` over one.
        tokenizer: of that model.
        instruction: optional hard prompt in front of the prefix.
        source: {"id", "revision"} of the base model on the Hub, or None where only local weights exist.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        instruction: str | None = None,
        source: dict[str, Any] | None = None,
    ):
        super().__init__()
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

    def _instruction_ids(self) -> torch.Tensor:
        """(n,) BOS and the tokens of the instruction."""
        if self.tokenizer is None:
            raise InputError("CaptionDecoder", "has no tokenizer", "Load it with from_pretrained, or pass tokenizer=")
        bos = self.tokenizer.bos_token_id
        ids = [] if bos is None else [bos]
        if self.instruction:
            ids += self.tokenizer(self.instruction, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def _prompt(self, prefix: torch.Tensor) -> torch.Tensor:
        """(B, m, h) → (B, n + m, h). Every row has the same length, so nothing is padded and no position shifts."""
        if prefix.ndim != 3 or prefix.shape[2] != self.hidden_size:
            raise InputError(
                "prefix", f"has shape {tuple(prefix.shape)}", f"This decoder takes (B, m, {self.hidden_size})"
            )
        head = self.base_model.get_input_embeddings()(self._instruction_ids())
        return torch.cat([head.expand(len(prefix), -1, -1), prefix.to(head.dtype)], dim=1)

    def tokenize(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions as training targets: ids (B, L) with EOS, right-padded, and their mask (B, L)."""
        if self.tokenizer.eos_token_id is None:
            raise InputError("tokenizer", "has no end-of-sequence token", "Captions need one to end with")
        rows = [
            [*ids, self.tokenizer.eos_token_id]
            for ids in self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        ]
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
            options: any further field of `transformers.GenerationConfig`, such as ``temperature``.

        Returns:
            B lists of ``num_return_sequences`` captions, stripped.

        Raises:
            InputError: an unknown option, or several sequences without beams or sampling.
        """
        known = set(GenerationConfig().to_dict()) - _OWN_OPTIONS
        unknown = sorted(set(options) - known)
        if unknown:
            raise InputError("generation options", f"have no {', '.join(unknown)}", "See transformers.GenerationConfig")
        if num_return_sequences < 1 or (
            num_return_sequences > 1 and not do_sample and num_beams < num_return_sequences
        ):
            raise InputError(
                "num_return_sequences",
                f"is {num_return_sequences} with num_beams={num_beams}, do_sample={do_sample}",
                "Greedy search has one result: sample, or use at least as many beams",
            )
        if not len(prefix):
            return []
        prompt = self._prompt(prefix)
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=do_sample and generator is not None):
            if do_sample and generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
            ids = self.model.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device),
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens,
                    num_beams=num_beams,
                    do_sample=do_sample,
                    num_return_sequences=num_return_sequences,
                    pad_token_id=pad,
                    eos_token_id=self.tokenizer.eos_token_id,
                    bos_token_id=self.tokenizer.bos_token_id,
                    **options,
                ),
            )
        texts = [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return [texts[i : i + num_return_sequences] for i in range(0, len(texts), num_return_sequences)]

    def save_pretrained(
        self, save_directory: LoadPath, include_base: bool | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write adapter, tokenizer and ``decoder_config.json``; the base model as weights or as a reference.

        Args:
            save_directory: created if absent.
            include_base: whether the base's weights are copied; None copies them unless a `source` can be referenced.
            dtype: of the stored weights.
        """
        folder = Path(save_directory)
        include_base = self.source is None if include_base is None else include_base
        if not include_base and self.source is None:
            raise InputError(
                "include_base", "is False, but this decoder's base comes from no repository", "Use include_base=True"
            )
        if not include_base and not self.has_adapter:
            raise InputError(
                "include_base",
                "is False, but this decoder has no adapter",
                "Its own weights would be lost: use include_base=True",
            )
        folder.mkdir(parents=True, exist_ok=True)
        base = folder / BASE_FOLDER
        if include_base:
            self.base_model.save_pretrained(base, state_dict=_cast(self._base_state(), dtype))
        else:
            self.base_model.config.save_pretrained(base)
        drop_local_names(base / "config.json")
        if self.has_adapter:
            from peft import get_peft_model_state_dict

            self.model.save_pretrained(
                folder, state_dict=_cast(get_peft_model_state_dict(self.model), dtype), save_embedding_layers=False
            )
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the pipeline writes its own
            adapter = read_json(folder / ADAPTER_FILE)
            # A path of this machine means nothing elsewhere; the base is found through decoder_config.json.
            adapter["base_model_name_or_path"] = self.source["id"] if self.source else None
            adapter["revision"] = self.source.get("revision") if self.source else None
            (folder / ADAPTER_FILE).write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)
        config = {"instruction": self.instruction, "base": {"path": BASE_FOLDER} if include_base else self.source}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _base_state(self) -> dict[str, torch.Tensor]:
        """The base model's weights under their own names, without the wrappers and adapters that PEFT injects."""
        state = self.base_model.state_dict()
        if self.has_adapter:
            prefix = getattr(self.model, "prefix", None) or self.model.base_model.prefix
            state = {k.replace(".base_layer.", "."): v for k, v in state.items() if prefix not in k}
        return state

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: LoadPath,
        token: str | bool | None = None,
        cache_dir: LoadPath | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | None = None,
        trainable: bool = False,
    ) -> "CaptionDecoder":
        """Load a decoder folder: the base (inside, or from the Hub at its pinned revision), then the adapter, strictly.

        Args:
            dtype: of the loaded weights, float32 by default.
            trainable: whether the adapter's weights take gradients.

        Raises:
            ModelFolderError: something missing, additional, misshapen, not finite, or pickled.
            HubAccessError: the base cannot be had; for a gated one the message says what to accept and where.
        """
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise ModelFolderError(folder, "no such folder", "The component is missing: save or download it again")
        refuse_pickles(folder)
        config = read_json(folder / CONFIG_FILE)
        base = config.get("base")
        if not isinstance(base, dict) or not ("path" in base or "id" in base):
            raise ModelFolderError(
                folder / CONFIG_FILE,
                f"names no base model (base = {base!r})",
                "It needs {'path'} or {'id', 'revision'}",
            )
        if "path" in base:
            base_folder, source = folder / base["path"], None
        else:
            source = {"id": base["id"], "revision": base.get("revision")}
            base_folder = download_snapshot(
                base["id"],
                base.get("revision"),
                token,
                cache_dir,
                local_files_only,
                ["*.json", "*.safetensors", "tokenizer*"],
            )
        model = load_causal_lm(base_folder, dtype)
        if (folder / ADAPTER_FILE).is_file():
            model = _load_adapter(model, folder, trainable)
            check_finite(model, folder)
        elif (folder / "adapter_model.safetensors").is_file():
            raise ModelFolderError(
                folder / ADAPTER_FILE, "is missing", "The adapter's weights are there without their configuration"
            )
        tokenizer = load_tokenizer(folder)
        decoder = cls(model, tokenizer, config.get("instruction"), source)
        return decoder.eval()

    @classmethod
    def from_config(cls, folder: LoadPath, **overrides) -> "CaptionDecoder":
        """The architecture of the folder with random weights; ``overrides`` change the base model's configuration."""
        folder = Path(folder)
        config = read_json(folder / CONFIG_FILE)
        base_config = AutoConfig.for_model(**(read_json(folder / BASE_FOLDER / "config.json") | overrides))
        model = AutoModelForCausalLM.from_config(base_config)
        if (folder / ADAPTER_FILE).is_file():
            from peft import PeftConfig, get_peft_model

            model = get_peft_model(model, PeftConfig.from_pretrained(str(folder)))
        has_tokenizer = (folder / "tokenizer.json").is_file()
        base = config.get("base") or {}
        return cls(
            model,
            load_tokenizer(folder) if has_tokenizer else None,
            config.get("instruction"),
            base if "id" in base else None,
        ).eval()


def load_causal_lm(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A causal LM from a folder, strictly and from safetensors only."""
    if not list(folder.glob("*.safetensors")):
        raise ModelFolderError(
            folder, "holds no safetensors weights", "The base model is incomplete; pickles are not read"
        )
    read_json(folder / "config.json")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
    except Exception as error:
        raise ModelFolderError(
            folder, f"cannot be loaded ({error})", "Weights and config.json must be whole and match"
        ) from error
    check_loading_info(folder, info)
    check_finite(model, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelFolderError(
            folder, f"its tokenizer cannot be loaded ({error})", "Save or download the folder again"
        ) from error


def _load_adapter(model: PreTrainedModel, folder: Path, trainable: bool):
    """PEFT only warns when adapter keys do not match; here the sets of keys have to be equal."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = folder / "adapter_model.safetensors"
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
    expected = set(get_peft_model_state_dict(peft))
    check_loading_info(weights, {"missing_keys": expected - stored, "unexpected_keys": stored - expected})
    return peft.to(dtype)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in state.items()}
