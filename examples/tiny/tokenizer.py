"""The tokenizer of the text tower and of the language model: byte-pair pieces of human and made captions."""

import argparse
import json
from pathlib import Path

from minilm import TEXT, audiocaps
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0–3, as the RoBERTa text tower of CLAP expects them


def build_tokenizer(captions: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with CLAP's special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=76,
        clean_up_tokenization_spaces=False,
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of audiocaps/")
    parser.add_argument("--vocabulary", type=int, default=4096)
    args = parser.parse_args(argv)
    captions = [row["caption"] for row in audiocaps(args.data, "train")]
    captions += [json.loads(line)["caption"] for line in (TEXT / "made.jsonl").read_text().splitlines()]
    tokenizer = build_tokenizer(captions, args.vocabulary)
    tokenizer.save_pretrained("tokenizer")
    sample = captions[::100]
    print(f"{sum(map(len, tokenizer(sample)['input_ids'])) / len(sample):.1f} pieces a caption")


if __name__ == "__main__":
    main()
