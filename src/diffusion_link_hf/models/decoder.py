"""The caption decoder: a causal language model, with a LoRA adapter where wanted, that reads a soft prefix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..errors import InputError, ModelFolderError
from ..loading import (
    LoadPath,
    check_finite,
    check_vocabulary,
    load_tokenizer,
    read_json,
    refuse_pickles,
)
from ..loading_options import LoadingOptions, refuse_unknown
from .adapters import ADAPTER_FILE, load_adapter, plain_state
from .decoder_folder import BASE_FOLDER, Reference, fetch_base, read_decoder_config, write_decoder
from .generation_options import (
    MAX_NEW_TOKENS,
    SEARCH_ERRORS,
    check_counts,
    make_generation_config,
    raise_option_error,
)
from .language_model import check_positions, load_causal_lm
from .sampling import own_generator


class CaptionDecoder(nn.Module):
    """Writes captions after [BOS + instruction] + soft prefix (paper §5).

    The model's own generation_config is emptied: captions follow from the arguments of `generate` alone.

    Args:
        model: a causal LM, or a `peft.PeftModel` over one.
        tokenizer: of that model.
        instruction: optional hard prompt in front of the prefix.
        source: what the base model can be referenced by, such as its repository on the Hub; None where only local
            weights exist.

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
        source: Reference | None = None,
    ):
        super().__init__()
        if hasattr(model, "peft_config") and not hasattr(model, "get_base_model"):
            raise InputError("model", "has an injected adapter", "Make it with peft.get_peft_model, which can be saved")
        self.model = model
        # transformers takes whatever a call leaves open from the model, such as a chat model's repetition penalty.
        for part in (model, self.base_model):
            part.generation_config = GenerationConfig()
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
        """Raises InputError, naming ``name``, if so long a caption has no positions behind instruction and prefix."""
        check_positions(self.base_model, len(self._instruction_ids()), prefix_tokens, caption_tokens, name)

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
        # Only the positions that predict a caption token: the vocabulary product is the dearest one. By index, because
        # a slice would leave rows that are not contiguous, for which torch copies the vocabulary's matrix once a row.
        before = prompt.shape[1] - 1
        predicting = torch.arange(before, before + input_ids.shape[1], device=self.device)
        logits = self.model(
            inputs_embeds=hidden, attention_mask=mask, logits_to_keep=predicting, use_cache=False
        ).logits
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
        max_new_tokens: int = MAX_NEW_TOKENS,
        num_beams: int = 1,
        do_sample: bool = False,
        **options,
    ) -> list[list[str]]:
        """Write captions; greedy by default.

        Args:
            prefix: (B, m, h).
            num_return_sequences: captions per row; more than one needs beams or sampling.
            generator: what sampling draws from, so that it can be repeated, whatever other threads do. None draws
                from torch's global state.
            options: further fields of `transformers.GenerationConfig`, such as ``temperature``: those of
                `generation_options.OPTIONS`. Refused are total lengths (``max_length``, ``min_length``: use
                ``max_new_tokens``, ``min_new_tokens``), special token ids, output options, and what a soft prefix,
                having no token ids, cannot serve: assisted decoding, early exit, prompt lookup, guidance, token
                healing, encoder penalties, prefill in chunks.

        Returns:
            B lists of ``num_return_sequences`` captions, stripped.

        Raises:
            InputError: see `generation_config`; a prefix of another shape; captions for which the base model has too
                few positions; something that is no generator; or an option that fails only in the search, with its
                error chained.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError("generator", f"is a {type(generator).__name__}", "Pass one torch.Generator")
        config = self.generation_config(num_return_sequences, max_new_tokens, num_beams, do_sample, **options)
        if not len(prefix):
            return []
        prompt = self._prompt(prefix)
        self.check_length(prefix.shape[1], max_new_tokens)
        with own_generator(generator if do_sample else None, self.device):
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
        max_new_tokens: int = MAX_NEW_TOKENS,
        num_beams: int = 1,
        do_sample: bool = False,
        **options,
    ) -> GenerationConfig:
        """The arguments of `generate`, checked before anything is computed.

        Raises:
            InputError: an unknown or refused option, a value of a wrong type or out of range, or several sequences
                from greedy search.
        """
        counts = check_counts(num_return_sequences, max_new_tokens, num_beams, do_sample)
        return make_generation_config(self._checked_tokenizer(), counts, do_sample, options)

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
        write_decoder(self, Path(save_directory), include_base, dtype)

    def base_state(self) -> dict[str, torch.Tensor]:
        """The base model's weights under their own names, without the adapter's.

        Raises:
            InputError: see `plain_state`.
        """
        return plain_state(self.model) if self.has_adapter else self.base_model.state_dict()

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
        """Load a decoder folder, strictly: the base model, then the adapter.

        The base is inside the folder, or comes from the Hub at its pinned revision, or from an installed package at
        its pinned checksum.

        Args:
            trainable: whether the adapter's weights take gradients.
            options: ``dtype`` (float32 by default), ``device_map``, ``quantization_config`` and the others of
                `LoadingOptions`, of the base model.

        Raises:
            ModelFolderError: something missing, additional, misshapen, not finite, or pickled; a base outside of the
                folder, or of a package that is not installed; a tokenizer larger than the model's vocabulary.
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
        base, source = fetch_base(base, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        model, tokenizer = load_causal_lm(base, **how.for_model()), load_tokenizer(folder)
        check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
        model = load_adapter(model, folder, trainable)
        check_finite(model, folder)
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
        return cls(model, tokenizer, instruction, None if isinstance(base, Path) else base).eval()
