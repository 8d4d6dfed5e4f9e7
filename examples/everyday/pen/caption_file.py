"""Captions recordings end to end with what is there: frozen network, tags over time, link, pen, score; shows how parts meet."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import scores
import soundfile
import soxr
import torch
import train_words
from compose_ears import Hearing
from fit_scores import log_probabilities
from torch.nn import functional as F
from train_pen import Pen, bridged, load_link
from transformers import AutoTokenizer, ClapTextModelWithProjection


def load_hearing(ears: Path, tagger: Path, composed: Path) -> Hearing:
    """The audio head: tagger, and what makes a place in the joint space of its probabilities."""
    from ears_head import TagHead
    from train_tagger import vocabulary

    names, fine = vocabulary(ears / "classes.json")
    head = TagHead(len(names), 768, len(fine))
    head.load_state_dict(torch.load(tagger)["head"])
    saved = torch.load(composed / "hearing.pt")
    hearing = Hearing(head, list(names), saved["sentences"])
    hearing.relation.load_state_dict(saved["relation"])
    return hearing.eval()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--ears", type=Path, default=Path("runs/everyday/ears"))
    parser.add_argument("--tagger", type=Path, default=Path("runs/everyday/ears/work/tagger.pt"))
    parser.add_argument("--composed", type=Path, default=Path("runs/everyday/pen/composed"))
    parser.add_argument("--final", type=Path, default=Path("runs/everyday/pen/final"))
    parser.add_argument("--words", type=Path, default=Path("runs/everyday/pen/clap_text2"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.ears))
    from scenes import RATE, repeat_pad
    from stage_features import Extractor

    extractor = Extractor(args.ears / "sfx_network.safetensors")
    hearing = load_hearing(args.ears, args.tagger, args.composed)
    tokenizer = AutoTokenizer.from_pretrained(args.words)
    tower = ClapTextModelWithProjection.from_pretrained(args.words).eval()
    pen = Pen(tokenizer)
    pen.load_state_dict(torch.load(args.final / "pen" / "state.pt")["average"])
    pen.eval()
    link = load_link(args.final / "link" / "link")
    calibration = scores.Calibration.load(args.final / "calibration.json")
    for file in args.files:
        samples, rate = soundfile.read(file, dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(1)
        started = time.perf_counter()
        if scores.loudest_dbfs(samples, rate) < scores.SILENCE_DBFS:
            print(f"{file.name}: Silence (1.00)")
            continue
        if rate != RATE:
            samples = soxr.resample(samples, rate, RATE)
        with torch.inference_mode():
            audio = hearing(torch.from_numpy(extractor([repeat_pad(samples)])).float())
        read = bridged(*link, audio, "audio")
        text = pen.write(read)[0]
        import human

        cosine = (F.normalize(audio, dim=-1) * train_words.embed(tower, tokenizer, [text])).sum(1).numpy()
        events = len(human.events_of(text)[0]) - 1
        p = calibration(np.stack([cosine, log_probabilities(pen, read, [text]), [events]], 1))[0]
        print(
            f"{file.name}: {scores.hedged(text, p)} ({p:.2f}) {1000 * (time.perf_counter() - started):.0f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
