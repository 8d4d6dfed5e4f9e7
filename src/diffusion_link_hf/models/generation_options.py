"""Which options of `transformers` generation captions take, and what the others and the failing ones become."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from transformers import GenerationConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..errors import InputError

MAX_NEW_TOKENS = 40  # of a caption, where nothing else is said
# Fields of GenerationConfig that work beside a soft prefix. The others are what the decoder decides itself (total
# lengths, special tokens, cache), what would change the type of the result, and what starts from the token ids of a
# prompt, which a soft prefix does not have: assisted decoding, early exit (which even leaves the model changed when it
# fails), prompt lookup, guidance, token healing, penalties on an encoder's input, prefill in chunks.
OPTIONS = (
    *("min_new_tokens", "max_time", "stop_strings", "early_stopping"),
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "exponential_decay_length_penalty"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_eos_token_id"),
    *("renormalize_logits", "remove_invalid_values", "watermarking_config"),
    *("cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
)
_INSTEAD = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
_SEE = "See transformers.GenerationConfig"
# What wrong values raise in `generate`, beside ValueError.
SEARCH_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


def refuse_options(names: Iterable[str]) -> None:
    """Raises InputError for names of options that are unknown or cannot be used."""
    refused = sorted(set(names) - set(OPTIONS))
    if refused:
        instead = "; ".join(f"Use {_INSTEAD[name]}" for name in refused if name in _INSTEAD)
        raise InputError(
            "generation_kwargs",
            f"cannot have {', '.join(refused)}",
            instead or f"Beside a soft prefix, captions take {', '.join(OPTIONS)}",
        )


def check_counts(num_return_sequences: int, max_new_tokens: int, num_beams: int, do_sample: bool) -> dict[str, int]:
    """The three numbers by name.

    Raises:
        InputError: no whole number of at least 1; or several sequences from greedy search.
    """
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
    return counts


def make_generation_config(
    tokenizer: PreTrainedTokenizerBase, counts: Mapping[str, int], do_sample: bool, options: Mapping[str, Any]
) -> GenerationConfig:
    """A configuration of counts and options, with the special tokens of ``tokenizer``.

    Raises:
        InputError: an unknown or refused option, or a value of a wrong type or out of range.
    """
    refuse_options(options)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    special = {"pad_token_id": pad, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    try:
        return GenerationConfig(do_sample=do_sample, **counts, **special, **options)
    except SEARCH_ERRORS as error:
        raise_option_error(error, options)


def raise_option_error(error: Exception, names: Iterable[str]) -> NoReturn:
    """An error of `generate` as InputError if the options ``names`` can have caused it, otherwise as it is."""
    names = sorted(names)
    if isinstance(error, torch.OutOfMemoryError) or not (names or isinstance(error, ValueError)):
        raise error
    problem = f"cannot be used ({str(error).strip(' .')})"
    raise InputError("generation_kwargs", f"{', '.join(names)} {problem}".strip(), _SEE) from error
