"""The tokenizer that the tiny text tower and language model share: byte-pair pieces of the project's captions."""

import numpy as np
from captions import SceneEvent, describe
from events import LABELS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0–3, as the RoBERTa text tower of CLAP expects them
VOCABULARY = 768


def build_tokenizer(captions: int = 20_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level BPE on random captions: their words are mostly single tokens, and any other text has pieces too."""
    rng = np.random.default_rng(seed)

    def corpus():
        for _ in range(captions):
            n = int(rng.integers(1, 4))
            events = [
                SceneEvent(
                    str(label),
                    str(rng.choice(["normal", "loud", "faint"])),
                    bool(rng.integers(2)),
                    int(rng.integers(1, 4)),
                )
                for label in rng.choice(LABELS, n, replace=False)
            ]
            yield describe(events, "single" if n == 1 else str(rng.choice(["overlap", "sequence"])), rng)

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=76, clean_up_tokenization_spaces=False,
    )  # fmt: skip
