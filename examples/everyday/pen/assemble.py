"""Puts words, link and pen into a pipeline folder of the package; the audio tower there is a place holder for the ears'."""

import argparse
from pathlib import Path

import torch
from diffusion_link_hf.features import ClapLogMel
from safetensors.torch import load_file, save_file
from train_pen import Pen
from transformers import AutoTokenizer, ClapConfig, ClapModel, ClapTextModelWithProjection

from diffusion_link_hf import AudioCaptionPipeline, ClapEncoder

# The audio tower of examples/tiny/train_clap.py, made as small as it goes.
AUDIO = {
    "spec_size": 256, "num_mel_bins": 64, "window_size": 4, "patch_size": 16, "patch_stride": [16, 16],
    "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 32,
    "projection_dim": 512, "drop_path_rate": 0.0, "enable_fusion": False,
}  # fmt: skip


def build_clap(words: Path) -> ClapEncoder:
    """A CLAP with the trained text tower and a random audio tower."""
    tower = ClapTextModelWithProjection.from_pretrained(words)
    model = ClapModel(ClapConfig(audio_config=AUDIO, text_config=tower.config.to_dict(), projection_dim=512))
    missing = model.load_state_dict(tower.state_dict(), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert not [key for key in missing.missing_keys if key.startswith("text")], missing.missing_keys
    return ClapEncoder(model.eval(), AutoTokenizer.from_pretrained(words), ClapLogMel())


def drop_tied_head(path: Path) -> None:
    """Leaves out the second copy of the tied embeddings, which the package writes with ``dtype=``: 2.1 MB."""
    weights = load_file(path)
    weights.pop("lm_head.weight", None)
    save_file(weights, path, metadata={"format": "pt"})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, default=Path("runs/everyday/pen/clap_text"))
    parser.add_argument("--state", type=Path, required=True, help="state.pt of train_pen.py")
    parser.add_argument("--link", type=Path, help="folder of a trained link, with scheduler/ beside it")
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/pipeline"))
    args = parser.parse_args(argv)
    pen = Pen(AutoTokenizer.from_pretrained(args.words))
    pen.load_state_dict(torch.load(args.state)["average"])
    link = scheduler = None
    if args.link:
        from diffusers import DDIMScheduler
        from diffusion_link_hf.models.bridge import BridgeModel

        link = BridgeModel.from_pretrained(args.link)
        scheduler = DDIMScheduler.from_pretrained(args.link.parent / "scheduler")
    pipeline = AudioCaptionPipeline(build_clap(args.words), pen.projector.eval(), pen.decoder.eval(), link, scheduler)
    pipeline.save_pretrained(args.output, dtype=torch.float16, include_base=True)
    drop_tied_head(args.output / "decoder" / "base" / "model.safetensors")
    loaded = AudioCaptionPipeline.from_pretrained(args.output)
    texts = ["A dog barks while rain falls", "Church bells ring in the distance"]
    embeds = loaded.clap.encode_text(texts)
    print(embeds.shape, (embeds @ embeds.T)[0, 1].item(), loaded.decode(embeds))
    for file in sorted(args.output.rglob("*.safetensors")):
        print(f"{file.relative_to(args.output)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
