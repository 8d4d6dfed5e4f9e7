"""Judges a tiny pipeline on recordings it never saw: do its captions name exactly the events that are there?"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from events import events_named
from scenes import judged_scenes, load_recordings

from diffusion_link_hf import AudioCaptionPipeline
from diffusion_link_hf.audio import SAMPLING_RATE


def standard_error(share: float, n: int) -> float:
    return (share * (1 - share) / n) ** 0.5


def judge(
    pipeline: AudioCaptionPipeline, data: Path, folds: set[int], scenes: int = 300, seed: int = 7, show: int = 0
) -> dict[str, dict]:
    """Per relation: ``exact`` (the caption names the scene's events and no other), ``standard_error`` and ``n``."""
    recordings = load_recordings(data, folds)
    result = {}
    for relation in ("single", "overlap", "sequence"):
        judged = judged_scenes(recordings, relation, scenes, seed)
        captions = pipeline([samples for samples, _ in judged], SAMPLING_RATE).captions
        right = [events_named(caption) == events for caption, (_, events) in zip(captions, judged, strict=True)]
        exact = float(np.mean(right))
        result[relation] = {"exact": exact, "standard_error": standard_error(exact, len(right)), "n": len(right)}
        for caption, (_, events), good in list(zip(captions, judged, right, strict=True))[:show]:
            print("  ", "right" if good else "WRONG", sorted(events), "→", caption)
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="pipeline folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv: file_name, label, fold")
    parser.add_argument("--folds", type=int, nargs="+", required=True, help="folds that the model was not trained on")
    parser.add_argument("--scenes", type=int, default=300, help="overlapped and sequential scenes each")
    parser.add_argument("--no-link", action="store_true", help="leave the link out, the paper's baseline")
    parser.add_argument("--show", type=int, default=0, help="captions to print of each kind")
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    args = parser.parse_args(argv)
    pipeline = AudioCaptionPipeline.from_pretrained(args.model, **({"link": None} if args.no_link else {}))
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        result = judge(pipeline, args.data, set(args.folds), args.scenes, show=args.show)
    for relation, row in result.items():
        print(f"{relation:9} exact {100 * row['exact']:5.1f} % ± {100 * row['standard_error']:.1f}  (n = {row['n']})")
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
