"""Judges a network and its tag head on unheard origins, from the waveforms of the validation scenes.

python judge_ears.py --ears work/finetuned --sets single esc10-overlap esc10-sequence --output work/finetuned/judged.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ears_head import load_tag_head
from scenes import Bank, Mixer
from stage_features import Extractor, esc10_pairs, single_scenes, write_shard
from train_tagger import judge, load_scenes, scores, show, vocabulary

SETS = ("single", "once", "esc10-overlap", "esc10-sequence", "overlap", "sequence", "silence")


def scenes_of(name: str, bank: Bank, data: Path):
    """The same scenes as stage_features.py makes for validation."""
    rows = [row for row in bank.rows if not row["source"].startswith("gm-")]
    if name in ("single", "once"):
        return single_scenes(rows, data, bank, padded=name == "single")
    if name.startswith("esc10-"):
        return esc10_pairs(data, "4", name.removeprefix("esc10-"), 300)
    mixer, rng = Mixer(bank, augment=False), np.random.default_rng({"overlap": 1, "sequence": 2, "silence": 3}[name])
    return (mixer.draw(rng, name) for _ in range(60 if name == "silence" else 400))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../../shared/data"))
    parser.add_argument("--bank", type=Path, default=Path("work"))
    parser.add_argument("--ears", type=Path, default=Path("work/finetuned"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    names, _ = vocabulary(Path("classes.json"))
    bank = Bank(args.bank, {"validation"})
    folder = args.ears / "scenes"
    folder.mkdir(exist_ok=True)
    extractor = Extractor(args.ears / "network.safetensors")
    for name in args.sets:
        path = folder / f"validation-{name}.npy"
        if not path.is_file():
            write_shard(path, scenes_of(name, bank, args.data), extractor, None)
    head = load_tag_head(torch.load(args.ears / "tagger.pt")["head"])
    sets = {name: load_scenes(folder, f"validation-{name}.npy") for name in args.sets}
    everything = {}
    for weight in (0.0, 0.35, 0.7):
        everything[weight] = judge(lambda f, w=weight: scores([head], f, w), sets, names)
        print(f"windows weigh {weight}\n{show(everything[weight])}", flush=True)
    (args.ears / "judged.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
