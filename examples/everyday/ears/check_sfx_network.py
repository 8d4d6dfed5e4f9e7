"""Checks that sfx_network.py gives the embeddings of the PyPI package aisfx (needs aisfx and librosa), and converts it.

python check_sfx_network.py --recordings ../../shared/data/sounds --output sfx_network.safetensors
"""

import argparse
import importlib.util
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from safetensors.torch import save_file
from sfx_network import SAMPLING_RATE, SfxLogMel, SfxNetwork, fold_package_weights, load_package_checkpoint


def package_folder() -> Path:
    """Where aisfx is installed; it is not imported, as its __init__ wants old versions."""
    return Path(importlib.util.find_spec("aisfx").submodule_search_locations[0])


def module(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("../../shared/data/sounds"))
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--output", type=Path, default=Path("sfx_network.safetensors"))
    parser.add_argument("--convert-only", action="store_true", help="leave the comparison out (no librosa needed)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    weights = load_package_checkpoint(package_folder() / "models" / "checkpoint.pth")
    network = SfxNetwork().eval()
    network.load_state_dict(fold_package_weights(weights))
    save_file(network.state_dict(), args.output, metadata={"source": "aisfx 0.1.2, CC BY 4.0, Ma and Lerch 2022"})
    if args.convert_only:
        return

    theirs = module(package_folder() / "models" / "cnn2d.py").EmbeddingNet("max", 3, 1, 64).eval()
    prefix = "embedding_net."
    theirs.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    spectrogram = module(package_folder() / "spectrogram" / "spectrogram_librosa.py").compute_spectrogram
    front_end = SfxLogMel()
    files = sorted(args.recordings.rglob("*.ogg"))
    worst = 0.0
    for path in files[:: max(1, len(files) // args.count)]:
        samples, rate = soundfile.read(path, dtype="float32")
        samples = soxr.resample(samples, rate, SAMPLING_RATE)
        if len(samples) < 8 * 1024:  # the package itself cannot take these
            continue
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            soundfile.write(file.name, samples, SAMPLING_RATE, subtype="FLOAT")
            mel = spectrogram(filename=file.name, sr=SAMPLING_RATE, block_size=2048, hop_size=1024, n_mels=96,
                              f_min=0.0, f_max=22050.0)  # fmt: skip
        mel = (mel / 9.457798957824707).T.astype(np.float32)  # as aisfx.preprocessing.spectrogram_normalize
        with torch.inference_mode():
            expected = theirs(torch.from_numpy(mel)[None])
            got = network(front_end(torch.from_numpy(samples)[None]))
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    print(f"largest difference, relative to the largest value: {worst:.1e}")
    if worst > 1e-4:
        raise SystemExit("the embeddings differ")


if __name__ == "__main__":
    main()
