"""Embeds a folder of captioned recordings with a frozen CLAP, into the cache that training reads."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.audio import load_audio, split_windows
from diffusion_link_hf.data.audio_folder import read_audio_folder
from diffusion_link_hf.data.embedding_cache import embed_captions
from diffusion_link_hf.errors import AudioError, DataError, DiffusionLinkError, ModelFolderError
from diffusion_link_hf.training.preparation import prepare_output


def embed_folder(folder: str, clap: ClapEncoder, output: str, batch_size: int = 16) -> dict[str, str]:
    """Write the cache; returns the recordings that could not be read, with the reason.

    A recording longer than 10 s is the renormalised mean of its windows.

    Raises:
        ModelFolderError: a CLAP without a tokenizer, which could embed the recordings but not their captions.
        DataError: metadata that cannot be used, or no recording that can be read.
    """
    if clap.tokenizer is None:
        raise ModelFolderError("CLAP", "has no tokenizer, which the captions need", "Add tokenizer.json to its folder")
    rows, failures = read_audio_folder(folder), {}
    done, windows, owners, embeds = [], [], [], []

    def flush():
        if windows:
            embeds.append(clap.encode_audio(torch.from_numpy(np.stack(windows))).cpu())
            windows.clear()

    for row in tqdm(rows, desc="embedding", unit="clip"):
        try:
            samples = load_audio(row.path, name=row.name)
        except AudioError as error:
            failures[row.name] = str(error)
            continue
        for window in split_windows(samples):
            windows.append(window.samples)
            owners.append(len(done))
            if len(windows) == batch_size:
                flush()
        done.append(row)
    flush()
    if not done:
        raise DataError(
            folder,
            f"holds no recording that can be read ({len(failures)} failed)",
            "See the first: " + next(iter(failures.values())),
        )
    audio = torch.zeros(len(done), clap.embedding_dim).index_add_(0, torch.tensor(owners), torch.cat(embeds))
    audio = torch.nn.functional.normalize(audio, dim=-1)
    cache = embed_captions(clap, audio, [row.name for row in done], [row.captions for row in done], failures=failures)
    cache.save(output)
    return failures


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def device(text: str) -> torch.device:
    """A device that this machine has, for argparse."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's refusals differ by the device
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used ({str(error).splitlines()[0]})") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with metadata.csv or metadata.jsonl: file_name, caption")
    parser.add_argument("--clap", default="laion/larger_clap_general", help="CLAP folder or Hub id")
    parser.add_argument("--revision", help="of a Hub id")
    parser.add_argument("--output", required=True, help="cache folder")
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    try:
        prepare_output(Path(args.output))
        clap = ClapEncoder.from_pretrained(args.clap, revision=args.revision).to(args.device)
        failures = embed_folder(args.data, clap, args.output, args.batch_size)
    except DiffusionLinkError as error:
        print(f"embed.py: {error}", file=sys.stderr)
        return 2
    for reason in failures.values():
        print(f"embed.py: left out {reason}", file=sys.stderr)
    print(json.dumps({"cache": args.output, "left_out": len(failures)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
