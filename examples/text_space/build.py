"""Builds a test bed for bridges from real captions: sentence embeddings as text, a stand-in as audio.

    pip install wordllama
    python examples/text_space/build.py --captions audiocaps --output runs/text_space/space.safetensors

Writes the training pairs to OUTPUT, and beside it the validation and test pairs (space-validation.safetensors,
space-test.safetensors), all as files of pairs (`EmbeddingPairs`). Equal arguments give equal files.
"""

import argparse
import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from stand_in import AudioStandIn, Calibration
from tags import TagVocabulary, overheard

from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, InputError

Embed = Callable[[list[str]], torch.Tensor]  # N texts → (N, D) unit rows
SPLITS = {"train": "", "val": "-validation", "test": "-test"}  # CSV file → what is added to the output's name


def sentence_encoder() -> Embed:
    """WordLlama's 256-wide static embeddings, whose weights come with the PyPI package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import wordllama
    except ImportError as error:
        raise InputError("wordllama", "is not installed", "pip install wordllama") from error
    # Its loader looks for the tokenizer of the wheel in a folder of another name; as a cache the wheel is found whole.
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    return lambda texts: torch.from_numpy(model.embed(texts, norm=True))


def read_captions(path: Path) -> tuple[list[str], torch.Tensor]:
    """Captions of an AudioCaps CSV and the clip of each, (N,) int64.

    Raises:
        DataError: no such file, or none with the columns youtube_id, start_time and caption.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "Name a folder with AudioCaps' CSV files") from error
    needed = {"youtube_id", "start_time", "caption"}
    if not rows or not needed <= set(rows[0]):
        raise DataError(path, "lacks rows or columns", f"Needed are {', '.join(sorted(needed))}")
    clips: dict[tuple[str, str], int] = {}
    group = [clips.setdefault((row["youtube_id"], row["start_time"]), len(clips)) for row in rows]
    return [row["caption"] for row in rows], torch.tensor(group)


def make_pairs(
    captions: dict[str, tuple[list[str], torch.Tensor]],
    embed: Embed,
    calibration: Calibration,
    seed: int = 0,
    paired: int | None = None,
) -> dict[str, EmbeddingPairs]:
    """Pairs of every split of ``captions``; "train" says what is fitted.

    Every caption has a hearing of its own, in all splits alike: a clip with five captions has five sources.

    Args:
        captions: from `read_captions`, by split.
        embed: the sentence encoder.
        seed: of tags, distortion, noise and offset.
        paired: how many training captions keep their source; the others become unpaired targets. All by default.

    Raises:
        InputError: ``paired`` out of range.
    """
    vocabulary = TagVocabulary(captions["train"][0])
    text, tags = {}, {}
    for split, (lines, _) in captions.items():
        rng = random.Random(f"{seed} {split}")
        text[split] = embed(lines)
        tags[split] = embed(
            [overheard(line, rng, vocabulary, calibration.missed, calibration.misheard) for line in lines]
        )
    hear = AudioStandIn(tags["train"], text["train"], calibration, seed)
    pairs = {}
    for split, (_, group) in captions.items():
        generator = torch.Generator().manual_seed(random.Random(f"{seed} noise {split}").getrandbits(62))
        pairs[split] = EmbeddingPairs(hear(tags[split], generator), text[split], group, name=split)
    return pairs | {"train": keep_paired(pairs["train"], paired, seed)}


def keep_paired(pairs: EmbeddingPairs, paired: int | None, seed: int) -> EmbeddingPairs:
    """``paired`` random pairs; the other targets without a partner."""
    if paired is None:
        return pairs
    if not 2 <= paired <= len(pairs.target):
        raise InputError("paired", f"is {paired}", f"Use 2 to {len(pairs.target)}, the number of training captions")
    order = torch.randperm(len(pairs.target), generator=torch.Generator().manual_seed(seed))
    keep, rest = order[:paired].sort().values, order[paired:].sort().values
    return EmbeddingPairs(pairs.source[keep], pairs.target[keep], pairs.group[keep], None, pairs.target[rest])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--captions", type=Path, required=True, help="folder with train.csv, val.csv and test.csv of AudioCaps"
    )
    parser.add_argument("--output", type=Path, required=True, help="safetensors file of the training pairs")
    parser.add_argument(
        "--paired", type=int, metavar="N", help="training captions that keep their audio (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args(argv)
    captions = {split: read_captions(args.captions / f"{split}.csv") for split in SPLITS}
    pairs = make_pairs(captions, sentence_encoder(), Calibration(), args.seed, args.paired)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for split, ending in SPLITS.items():
        path = args.output.with_stem(args.output.stem + ending)
        pairs[split].save(path)
        print(f"{path}: {len(pairs[split].source)} pairs of {len(pairs[split].group.unique())} clips")


if __name__ == "__main__":
    main()
