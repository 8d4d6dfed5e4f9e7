"""Builds the pipeline "tiny" in one command, from recordings and captions to a judged folder with its card.

    python examples/tiny/build.py --data ../shared/data --output runs/tiny

README.md beside this file says what the data folder holds and what has to be installed. A stage whose result exists is
not done again, so a build that was interrupted goes on where it stopped. The pipeline is in OUTPUT/pipeline.
"""

import argparse
import contextlib
import importlib
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

import transformers

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """A script of this folder, its arguments, and the file that it writes last, in the folder of the build."""

    result: str
    script: str
    arguments: tuple[str, ...] = ()


def stages(data: Path) -> dict[str, Stage]:
    """Name → stage, in order."""
    source = ("--data", str(data))
    plan = {
        "vocabulary": Stage("splits.csv", "vocabulary", source),
        "audio network": Stage("sfx_network/check.json", "convert_sfx_network", ("--output", "sfx_network")),
        "bank": Stage("bank.json", "bank", source),
        "clips": Stage("clips/pairs-19.npy", "clips"),
        "unheard scenes": Stage("unheard/silence.npy", "unheard_scenes", source),
    }
    for seed in range(2):
        output = f"taggers/{seed}.pt"
        plan[f"tagger {seed}"] = Stage(output, "train_tagger", ("--seed", str(seed), "--output", output))
    plan["training scenes"] = Stage("whole.npy", "feature_scenes")
    plan["pair tagger"] = Stage("pairs/all.pt", "train_pair_tagger", ("--output", "pairs/all.pt"))
    for fold in range(3):
        unheard = ("--without", str(fold))
        tagger, pairs = f"crossfit/{fold}.pt", f"pairs/{fold}.pt"
        slow = ("--steps", "2000", "--rate", "1e-3", "--output", tagger)
        plan[f"tagger without fold {fold}"] = Stage(tagger, "train_tagger", (*unheard, *slow))
        plan[f"pair tagger without fold {fold}"] = Stage(
            pairs, "train_pair_tagger", (*unheard, "--steps", "3000", "--output", pairs)
        )
    return plan | {
        "phrases": Stage("phrases.json", "phrases"),
        "sentences": Stage("text/audiocaps_train.npy", "minilm", source),
        "made captions": Stage("text/made.npy", "made_captions"),
        "tokenizer": Stage("tokenizer/tokenizer_config.json", "tokenizer", source),
        "text tower": Stage("text_tower/training.json", "train_text_tower", source),
        "clap": Stage("clap/tokenizer_config.json", "assemble_clap"),
        "cache": Stage("cache/manifest.json", "embed_scenes"),
        "writer": Stage("writer/decoder/decoder_config.json", "train_writer", source),
        "pipeline": Stage("pipeline/model_index.json", "assemble_pipeline"),
        "captions": Stage("captioned/single.jsonl", "caption_unheard"),
        "scores": Stage("calibration.json", "calibrate"),
        "judgment": Stage("judged.json", "judge"),
        "card": Stage("pipeline/README.md", "card", source),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds/, esc10/ and audiocaps/")
    parser.add_argument("--output", type=Path, default=Path("runs/tiny"), help="folder of all results")
    args = parser.parse_args(argv)
    data = args.data.resolve()
    for part in ("sounds/index.csv", "esc10/index.csv", "audiocaps/train.csv"):
        if not (data / part).is_file():
            parser.error(f"{args.data} has no {part}: see examples/tiny/README.md")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.logging.set_verbosity_error()
    args.output.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(args.output):
        log = Path("seconds.json")
        seconds = json.loads(log.read_text()) if log.is_file() else {}
        for name, stage in stages(data).items():
            if Path(stage.result).is_file():
                logger.info("%s: done before", name)
                continue
            started = time.perf_counter()
            importlib.import_module(stage.script).main(list(stage.arguments))
            seconds[name] = round(time.perf_counter() - started)
            log.write_text(json.dumps(seconds, indent=2) + "\n")
            logger.info("%s: %d s", name, seconds[name])


if __name__ == "__main__":
    main()
