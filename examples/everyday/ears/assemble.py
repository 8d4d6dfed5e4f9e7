"""Puts network, tag head, joint space and text tower into one folder that EverydayClapEncoder.from_pretrained loads.

python assemble.py --ears work/three --words ../pen/clap_text2 --space heard/space.pt --output everyday
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ears_head import load_tag_head
from everyday_clap import EverydayClap, EverydayClapConfig, EverydayClapEncoder
from safetensors.torch import load_file
from transformers import AutoTokenizer, ClapTextModelWithProjection


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ears", type=Path, default=Path("work/three"), help="network.safetensors and tagger.pt")
    parser.add_argument("--pen", type=Path, default=Path("../pen"), help="folder of space.py")
    parser.add_argument("--words", type=Path, default=Path("../pen/clap_text2"))
    parser.add_argument("--space", type=Path, default=Path("heard/space.pt"))
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("everyday"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.pen))
    import space

    tagger = torch.load(args.ears / "tagger.pt")
    tower = ClapTextModelWithProjection.from_pretrained(args.words)
    text = {
        key: value
        for key, value in tower.config.to_dict().items()
        if key not in ("architectures", "dtype", "transformers_version")
    }
    head = load_tag_head(tagger["head"])
    model = EverydayClap(
        EverydayClapConfig(
            tagger["names"], num_heads=len(head.tags), text_config=text, tag_temperature=args.temperature
        )
    )
    model.network.load_state_dict(load_file(args.ears / "network.safetensors"))
    model.tagger.load_state_dict(head.state_dict())
    model.text.load_state_dict(tower.state_dict())
    hearing = torch.load(args.space)
    with torch.no_grad():
        model.space.sentences.copy_(hearing["sentences"])
        model.space.codes.copy_(torch.from_numpy(np.stack([space.code(n, space.EVENTS) for n in tagger["names"]])))
        model.space.orders.copy_(torch.from_numpy(np.stack([space.code(n, space.ORDER) for n in tagger["names"]])))
        model.space.relation.load_state_dict(hearing["relation"])
    EverydayClapEncoder(model, AutoTokenizer.from_pretrained(args.words)).save_pretrained(args.output, torch.float16)

    encoder = EverydayClapEncoder.from_pretrained(args.output)
    rng = np.random.default_rng(0)
    waveforms = torch.from_numpy(rng.standard_normal((3, 480_000)).astype(np.float32) * 0.1)
    waveforms[2] = 0
    started = time.perf_counter()
    together = encoder.encode_audio(waveforms)
    print(f"{(time.perf_counter() - started) / 3:.2f} s a window, one thread")
    alone = torch.cat([encoder.encode_audio(row[None]) for row in waveforms])
    print("does not depend on its batch:", torch.equal(together, alone), "unit rows:", together.norm(dim=1).tolist())
    print("silence:", encoder.tags[int(encoder.tag_scores(waveforms)[2].argmax())])
    print(
        "most like silence:",
        (encoder.encode_text(["It is silent", "A dog barks", "Rain falls"]) @ together[2]).tolist(),
    )
    for file in sorted(args.output.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
