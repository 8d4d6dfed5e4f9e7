"""Builds the tiny pipeline in one command: CLAP, scenes, bridge, language model, decoder, and its judgment by fold.

    python examples/tiny/build.py --data esc10 --folds 1 2 3 --judge-folds 4 --output runs/tiny123
    python examples/tiny/build.py --data esc10 --folds 1 2 3 4 --output runs/tiny

A stage whose result exists is not done again, so a build that was interrupted goes on where it stopped.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import embed_scenes
import judge
import train_clap
import train_language_model
import transformers

from diffusion_link_hf import train

logger = logging.getLogger(__name__)


def stages(
    data: Path, folds: list[str], judge_folds: list[str], output: Path
) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Name → (file that the stage writes last, what runs it), in order."""
    recordings = ["--data", str(data), "--folds", *folds]
    clap, cache, link, words = (output / name for name in ("clap", "cache", "link", "language_model"))
    pipeline = output / "pipeline"
    judged = ["--judge-folds", *judge_folds] if judge_folds else []
    parts = {"clap": str(clap), "link": str(link / "link"), "base_model": str(words)}
    plan: dict[str, tuple[Path, Callable[[], object]]] = {
        "clap": (clap / "training.json", lambda: train_clap.main([*recordings, *judged, "--output", str(clap)])),
        "cache": (
            cache / "manifest.json",
            lambda: embed_scenes.main([*recordings, "--clap", str(clap), "--output", str(cache)]),
        ),
        "bridge": (link / "metrics.json", lambda: train("tiny-bridge", cache=str(cache), output=str(link))),
        "language model": (
            words / "tokenizer_config.json",
            lambda: train_language_model.main(["--output", str(words)]),
        ),
        "decoder": (
            pipeline / "metrics.json",
            lambda: train("tiny-decoder", cache=str(cache), output=str(pipeline), **parts),
        ),
    }
    if judge_folds:
        unseen = ["--data", str(data), "--folds", *judge_folds, "--model", str(pipeline)]
        result = output / "judged.json"
        plan["judgment"] = (result, lambda: judge.main([*unseen, "--output", str(result)]))
    return plan


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv: file_name, label, fold")
    parser.add_argument("--folds", nargs="+", required=True, help="folds to train on")
    parser.add_argument("--judge-folds", nargs="*", default=[], help="folds to judge on; none of those trained on")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of all results; the pipeline goes to pipeline/"
    )
    args = parser.parse_args(argv)
    seen = sorted(set(args.folds) & set(args.judge_folds))
    if seen:
        parser.error(f"folds {', '.join(seen)} are trained on: judge on others")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.logging.set_verbosity_error()

    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "seconds.json"
    seconds = json.loads(log.read_text()) if log.is_file() else {}
    for name, (result, run) in stages(args.data, args.folds, args.judge_folds, args.output).items():
        if result.is_file():
            logger.info("%s: done before", name)
            continue
        started = time.perf_counter()
        run()
        seconds[name] = round(time.perf_counter() - started)
        log.write_text(json.dumps(seconds, indent=2) + "\n")
        logger.info("%s: %d s", name, seconds[name])


if __name__ == "__main__":
    main()
