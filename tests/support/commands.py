"""Runs a sub-command as the command line does, and a file of pairs for it."""

import argparse
from pathlib import Path
from types import ModuleType

from support.analysis import make_pairs_with_captions


def parse(command: ModuleType, *arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="diffusion-link")
    name = command.__name__.rpartition(".")[2].replace("_", "-")
    command.add_parser(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args([name, *map(str, arguments)])


def run(command: ModuleType, *arguments: object) -> int:
    return command.run(parse(command, *arguments))


def write_pairs(folder: Path) -> Path:
    make_pairs_with_captions().save(folder / "pairs.safetensors")
    return folder / "pairs.safetensors"
