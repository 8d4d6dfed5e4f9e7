"""Takes aiSFX's network from the PyPI package aisfx, its batch norms folded in, and checks that it is the same.

    python examples/tiny/convert_sfx_network.py --output runs/tiny/sfx_network

The weights are those of aisfx 0.1.2, (c) 2022 A. B. Ma and A. Lerch, CC BY 4.0. The folding is the change. The
package itself is not imported: its ``__init__`` wants older libraries.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from diffusion_link_hf.models.sfx_network import CHANNELS, NUM_MEL_BINS, SfxNetwork

WEIGHTS = "model.safetensors"
TOLERANCE = 1e-4  # of the largest value of an embedding


def package_folder() -> Path:
    """Where aisfx is installed."""
    spec = importlib.util.find_spec("aisfx")
    if spec is None:
        raise SystemExit("aisfx is not installed: pip install -r examples/tiny/requirements.txt")
    return Path(spec.submodule_search_locations[0])


def load_package_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """State dict of the package's ``checkpoint.pth``, read without running code from it."""
    scalar = (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")
    allowed = [scalar, np.dtype, type(np.dtype(np.int64)), type(np.dtype(np.float64))]
    with torch.serialization.safe_globals(allowed):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def fold_package_weights(weights: dict[str, torch.Tensor], prefix: str = "embedding_net.") -> dict[str, torch.Tensor]:
    """The package's state dict → that of `SfxNetwork`, each batch norm folded into its convolution."""
    state = {}
    for block in range(len(CHANNELS)):
        for layer in (1, 2):
            old = f"{prefix}conv_block{block + 1}"
            names = ("weight", "bias", "running_mean", "running_var")
            norm = {name: weights[f"{old}.bn{layer}.{name}"].double() for name in names}
            gain = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-5)
            kernel = weights[f"{old}.conv{layer}.weight"].double()
            new = f"blocks.{block}.conv{layer}"
            state[f"{new}.weight"] = (kernel * gain[:, None, None, None]).float()
            state[f"{new}.bias"] = (norm["bias"] - norm["running_mean"] * gain).float()
    return state


class PackageNetwork(nn.Module):
    """The package's network as its paper describes it, batch norms apart: what the folded one is compared with."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str = "embedding_net."):
        super().__init__()
        self.weights, self.prefix = weights, prefix

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """(B, T, 96) → (B, 512)."""
        x = spectrogram[:, None]
        for block, channels in enumerate(CHANNELS):
            for layer in (1, 2):
                name = f"{self.prefix}conv_block{block + 1}"
                x = F.conv2d(x, self.weights[f"{name}.conv{layer}.weight"], padding=1)
                norm = (
                    self.weights[f"{name}.bn{layer}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
                )
                x = F.relu(F.batch_norm(x, *norm))
            x = F.max_pool2d(x, 2) if channels != CHANNELS[-1] else x
        return x.mean(3).amax(2)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder, made if absent")
    args = parser.parse_args(argv)
    weights = load_package_checkpoint(package_folder() / "models" / "checkpoint.pth")
    network = SfxNetwork().eval()
    network.load_state_dict(fold_package_weights(weights))
    spectrogram = torch.rand(2, 200, NUM_MEL_BINS, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = PackageNetwork(weights)(spectrogram), network(spectrogram)
    difference = float((found - expected).abs().max() / expected.abs().max())
    print(f"largest difference to the package, of its largest value: {difference:.1e}")
    if not difference < TOLERANCE:
        raise SystemExit("the embeddings differ")
    args.output.mkdir(parents=True, exist_ok=True)
    source = "aisfx 0.1.2, (c) 2022 A. B. Ma and A. Lerch, CC BY 4.0; batch norms folded into the convolutions"
    save_file(network.state_dict(), args.output / WEIGHTS, metadata={"format": "pt", "source": source})
    (args.output / "check.json").write_text(json.dumps({"largest_relative_difference": difference}, indent=2) + "\n")


if __name__ == "__main__":
    main()
