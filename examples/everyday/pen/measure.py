"""Judges a pen on embedded scenes: events named, exactly and at all, words, repeated captions, CIDEr-D, examples."""

import argparse
import json
import math
import re
from collections import Counter
from pathlib import Path

import human
import numpy as np
import torch
from torch.nn import functional as F
from train_pen import Pen, bridged, load_link
from transformers import AutoTokenizer


def cider_d(candidates: list[str], references: list[list[str]]) -> float:
    """CIDEr-D on plainly split words."""

    def grams(text: str) -> list[Counter]:
        words = re.findall(r"[a-z0-9'-]+", text.lower())
        return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, 5)]

    refs = [[grams(text) for text in own] for own in references]
    seen = [Counter() for _ in range(4)]
    for own in refs:
        for n in range(4):
            seen[n].update(set().union(*(r[n] for r in own)))
    size = math.log(max(len(refs), 2))

    def vector(counts: list[Counter]):
        vectors = [{g: c * (size - math.log(max(1.0, seen[n][g]))) for g, c in counts[n].items()} for n in range(4)]
        return vectors, [math.sqrt(sum(v * v for v in vec.values())) for vec in vectors], sum(counts[0].values())

    total = []
    for text, own in zip(candidates, refs):
        vec, norm, length = vector(grams(text))
        score = np.zeros(4)
        for ref in own:
            rvec, rnorm, rlength = vector(ref)
            for n in range(4):
                dot = sum(min(v, rvec[n].get(g, 0.0)) * rvec[n].get(g, 0.0) for g, v in vec[n].items())
                if norm[n] and rnorm[n]:
                    score[n] += dot / (norm[n] * rnorm[n]) * math.exp(-((length - rlength) ** 2) / 72)
        total.append(10 * score.mean() / len(own))
    return float(np.mean(total))


def judged(written: list[str], rows: list[dict], captions: list[dict]) -> dict:
    """Shares with standard errors; "named" = every event of a single scene, any of several."""
    named = [set(human.events_of(text)[0]) for text in written]
    truth = [set(row["events"]) or {"silence"} for row in captions]
    exact = np.array([n == t for n, t in zip(named, truth)])
    some = np.array([bool(n & t) for n, t in zip(named, truth)])
    every = np.array([t <= n for n, t in zip(named, truth)])
    out = {"n": len(rows), "exact": exact.mean(), "all_named": every.mean(), "any_named": some.mean()}
    out["se"] = math.sqrt(exact.mean() * (1 - exact.mean()) / len(exact))
    sources = [row["events"][0].get("source") or row.get("source") or "" if row["events"] else "" for row in rows]
    files = [row["events"][0].get("file", "") if row["events"] else "" for row in rows]
    esc = np.array([f.startswith("esc10") for f in files])
    bank = np.array([f.startswith("sounds/") for f in files])
    if 0 < esc.sum() < len(esc):
        out["exact_esc10"], out["named_bank"], out["exact_bank"] = (
            exact[esc].mean(),
            every[bank].mean(),
            exact[bank].mean(),
        )
    groups = {"speech": [k for k, t in enumerate(truth) if len(t) == 1 and next(iter(t)).startswith("speech")],
              "music": [k for k, t in enumerate(truth) if len(t) == 1 and (next(iter(t)).endswith(" music") or t <= {"brass band"})]}  # fmt: skip
    said = {"speech": lambda text: re.search(r"speak|talk|speech|voice|say|explain|narrat|chat", text, re.I),
            "music": lambda text: re.search(r"music|song|play|tune|melod|band|orchestra|beat|guitar|drum|synth", text, re.I)}  # fmt: skip
    for kind, rows_of in groups.items():
        if rows_of:
            out[f"{kind}_as_{kind}"] = np.mean([bool(said[kind](written[k])) for k in rows_of])
            out[f"{kind}_n"] = len(rows_of)
    words = Counter(w for text in written for w in re.findall(r"[a-z']+", text.lower()))
    out["distinct_words"], out["most_frequent_caption"] = (
        len(words),
        Counter(written).most_common(1)[0][1] / len(written),
    )
    out["words_per_caption"] = sum(words.values()) / len(written)
    out["cider_d"] = cider_d(written, [row["captions"] for row in captions])
    return {k: round(float(v), 4) for k, v in out.items()}


def skeleton(text: str) -> str:
    """A caption without the words that name its events: what is left of a template."""
    out, at = [], 0
    for start, _ in human.table().places(text):
        if start >= at:
            out.append(text[at:start])
            at = start + 1
    words = re.findall(
        r"\b(while|as|and|then|followed by|with|in the background|over|before|after|along|together|the sound of|during|can be heard|is heard|in the distance)\b",
        text.lower(),
    )
    return " ".join(words) or ("-ing" if re.search(r"ing\b", text) else "-s")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", type=Path)
    parser.add_argument("--state", type=Path, required=True, help="state.pt of train_pen.py")
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/everyday/pen/tokenizer"))
    parser.add_argument(
        "--sets", type=Path, nargs="+", required=True, help="folders with audio.npy, labels.jsonl, captions.jsonl"
    )
    parser.add_argument("--sample", type=float, default=0.0, help="temperature; 0 for greedy search")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--show", type=int, default=4)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    pen = Pen(tokenizer)
    pen.load_state_dict(torch.load(args.state)["average"])
    pen.eval()
    results, everything = {}, []
    options = (
        {"do_sample": True, "temperature": args.sample, "top_p": 0.9} if args.sample else {"num_beams": args.beams}
    )
    for folder in args.sets:
        audio = F.normalize(torch.from_numpy(np.load(folder / "audio.npy").astype(np.float32)), dim=-1)
        if args.link:
            audio = bridged(*load_link(args.link), audio, "audio")
        rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
        captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        written = pen.write(audio, **options)
        everything += written
        results[folder.name] = judged(written, rows, captions)
        print(folder.name, results[folder.name], flush=True)
        for k in np.random.default_rng(1).permutation(len(written))[: args.show]:
            print("    ", captions[k]["events"], "→", written[k])
    chosen = [everything[k] for k in np.random.default_rng(2).permutation(len(everything))[:1000]]
    common = Counter(chosen).most_common(3)
    frames = Counter(skeleton(text) for text in chosen).most_common(5)
    results["of_1000"] = {
        "distinct_words": len({w for text in chosen for w in re.findall(r"[a-z']+", text.lower())}),
        "distinct_captions": len(set(chosen)),
        "most_frequent_caption": [common[0][0], common[0][1] / len(chosen)],
        "connectors": frames,
    }
    print(results["of_1000"])
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
