"""Captions the scenes of unheard origins with a pipeline, for calibrate.py and judge.py.

    python caption_unheard.py --model pipeline

Starts from the network's features that unheard_scenes.py stored. Writes captioned/<set>.jsonl: what is in each scene,
its caption, and what a `CaptionScorer` judges it by. A set that is there is not captioned again.
"""

import argparse
import json
from pathlib import Path

import torch
from sfx_features import load_scenes

from diffusion_link_hf import AudioCaptionPipeline

FOLDER = Path("captioned")
BATCH = 64


@torch.inference_mode()
def caption(pipeline: AudioCaptionPipeline, features: torch.Tensor, rows: list[dict]) -> list[dict]:
    """Features (B, 53, 512) and descriptions → a row for each scene."""
    model = pipeline.clap.model
    silent = torch.tensor([row["loudest_db"] < model.config.silence_dbfs for row in rows])
    embeds = model.embed(features, model.decide(features, *model.probabilities(features)), silent)
    bridged = pipeline.bridge(embeds)
    captions = [own[0] for own in pipeline.decode(bridged)]
    judged_by = pipeline.caption_features(embeds, captions, bridged).tolist()
    return [
        {**row, "caption": text, "features": own, "silent": bool(quiet)}
        for row, text, own, quiet in zip(rows, captions, judged_by, silent, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pipeline", help="pipeline folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    pipeline = AudioCaptionPipeline.from_pretrained(args.model, scorer=None)
    FOLDER.mkdir(exist_ok=True)
    for scenes in sorted(Path("unheard").glob("*.npy")):
        path = FOLDER / f"{scenes.stem}.jsonl"
        if path.is_file():
            continue
        features, rows = load_scenes(scenes)
        done = []
        for first in range(0, len(rows), BATCH):
            part = slice(first, first + BATCH)
            done += caption(pipeline, features[part].float(), rows[part])
        path.write_text("".join(json.dumps(row) + "\n" for row in done), encoding="utf-8")
        print(f"{path.stem}: {len(done)} captions", flush=True)


if __name__ == "__main__":
    main()
