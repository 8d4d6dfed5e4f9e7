"""``diffusion-link convert-laion``: what it prints and writes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.commands import convert_laion
from diffusion_link_hf.errors import InputError
from support.commands import run

VECTORS = Path(__file__).parents[2] / "examples" / "laion_parity" / "fused.safetensors"


def test_converts_and_lists_what_was_left_out(tmp_path, capsys):
    weights = {k: v for k, v in load_file(VECTORS).items() if k.startswith("weights.")}
    state = {k.removeprefix("weights."): v.float() if v.is_floating_point() else v.long() for k, v in weights.items()}
    torch.save(state, tmp_path / "x.pt")
    assert run(convert_laion, tmp_path / "x.pt", tmp_path / "clap", "--tokenizer", "none") == 0
    head, *left_out = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{tmp_path / 'clap'}: HTSAT, fused; ")
    assert [line.split(", ")[1].split(":")[0] for line in left_out] == [
        "classes of AudioSet",
        "heads of a training loss",
    ]
    encoder = ClapEncoder.from_pretrained(tmp_path / "clap")
    assert encoder.fused
    assert encoder.tokenizer is None
    with pytest.raises(InputError, match="is not empty"):
        run(convert_laion, tmp_path / "x.pt", tmp_path / "clap")
