"""Fits the calibration of scores on validation scenes: captions by the pen, agreement by the text tower."""

import argparse
import json
from pathlib import Path

import human
import numpy as np
import scores
import torch
import train_words
from torch.nn import functional as F
from train_pen import Pen, bridged, load_link
from transformers import AutoTokenizer, ClapTextModelWithProjection


@torch.no_grad()
def log_probabilities(pen: Pen, audio: torch.Tensor, texts: list[str]) -> np.ndarray:
    """(N,) mean log-probability per token of each caption."""
    out = []
    for rows, own in zip(audio.split(64), (texts[i : i + 64] for i in range(0, len(texts), 64))):
        ids, mask = pen.decoder.tokenize(own)
        logits = pen.decoder(pen.projector(rows), ids, mask).logits.log_softmax(-1)
        chosen = logits.gather(2, ids[..., None])[..., 0] * mask
        out.append((chosen.sum(1) / mask.sum(1)).numpy())
    return np.concatenate(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--words", type=Path, default=Path("runs/everyday/pen/clap_text"))
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/everyday/pen/tokenizer"))
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    pen = Pen(tokenizer)
    pen.load_state_dict(torch.load(args.state)["average"])
    pen.eval()
    tower = ClapTextModelWithProjection.from_pretrained(args.words).eval()
    cosine, sure, right, group, several = [], [], [], [], []
    for folder in args.sets:
        audio = F.normalize(torch.from_numpy(np.load(folder / "audio.npy").astype(np.float32)), dim=-1)
        captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
        read = bridged(*load_link(args.link), audio, "audio") if args.link else audio
        written = pen.write(read)
        named = [set(human.events_of(text)[0]) for text in written]
        truth = [set(row["events"]) or {"silence"} for row in captions]
        cosine.append((audio * train_words.embed(tower, tokenizer, written)).sum(1).numpy())
        sure.append(log_probabilities(pen, read, written))
        several += [len(n) - 1 for n in named]
        right += [bool(n) and n <= t for n, t in zip(named, truth)]
        group += [
            row["events"][0].get("group", row["events"][0]["file"]) if row["events"] else "silence" for row in labels
        ]
    right, group = np.array(right), np.array(group)
    both = np.stack([np.concatenate(cosine), np.concatenate(sure), np.array(several)], 1)
    result = {
        "cosine": scores.report(both[:, :1], right, group),
        "cosine, log-probability, events": scores.report(both, right, group),
    }
    scores.Calibration.fit(both, right).save(args.output)
    scores.Calibration.fit(both[:, :1], right).save(args.output.with_stem(args.output.stem + "_cosine"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
