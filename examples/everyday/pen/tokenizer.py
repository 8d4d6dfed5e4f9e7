"""The tokenizer of the text tower and of the language model: byte-pair pieces of human and bank captions."""

import argparse
import json
from pathlib import Path

from minilm import audiocaps
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0–3, as the RoBERTa text tower of CLAP expects them


def build_tokenizer(captions: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
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
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=76, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audiocaps", type=Path, default=Path("data/audiocaps"))
    parser.add_argument("--bank", type=Path, default=Path("runs/everyday/pen/text/bank.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/tokenizer"))
    parser.add_argument("--vocabulary", type=int, default=4096)
    args = parser.parse_args(argv)
    captions = [row["caption"] for row in audiocaps(args.audiocaps, "train")]
    captions += [json.loads(line)["caption"] for line in args.bank.read_text().splitlines()]
    # Both first letters, so that a word is one piece wherever it stands.
    build_tokenizer(captions, args.vocabulary).save_pretrained(args.output)


if __name__ == "__main__":
    main()
