"""Data that a report is asked for before they were embedded: recordings with captions, through a CLAP, into a cache."""

import argparse
from pathlib import Path

from ..errors import DataError, InputError


def add_clap_options(parser: argparse.ArgumentParser) -> None:
    """--clap and --split, for data that are no embeddings yet."""
    parser.add_argument(
        "--clap",
        metavar="MODEL",
        help="embed the data with this CLAP first, where they are recordings: folder or Hub id of a CLAP or a pipeline",
    )
    parser.add_argument("--split", metavar="NAME", help="of such data, such as test")


def embedded(
    data: str, clap: str | None, output: str, split: str | None, progress: bool, default_clap: str | None = None
) -> str:
    """The path of the embeddings of ``data``: itself, or the cache below ``output`` that is made of it here.

    An interrupted embedding goes on where it was.

    Args:
        clap: asked for by the user, which embeddings have no use for.
        default_clap: in its place where recordings need one.

    Raises:
        DiffusionLinkError: recordings without a CLAP to embed them, or either cannot be read.
    """
    from ..embeddings.shards import MANIFEST

    if Path(data).suffix == ".safetensors" or (Path(data) / MANIFEST).is_file():
        if clap is not None or split is not None:
            raise InputError("--clap or --split", f"is given, but {data} holds embeddings", "Leave it out")
        return data
    clap = clap or default_clap
    if clap is None:
        raise DataError(data, "holds no embedding cache and no pairs", "Check the path; recordings also need a --clap")

    from ..data.captioned_audio import open_data
    from ..embeddings.embedding import embed_data
    from ..models.clap import ClapEncoder

    recordings = open_data(data, split=split)
    cache = Path(output) / "embeddings" / f"{Path(data).name}-{recordings.split}"
    embed_data(recordings, ClapEncoder.from_pretrained(clap), cache, progress=progress)
    return str(cache)


def left_out(embeddings: str) -> list[dict[str, str]]:
    """{"audio", "reason"} of the recordings that could not be embedded, as the cache's manifest has them."""
    from ..embeddings.shards import read_manifest

    return list(read_manifest(Path(embeddings)).get("failures", ())) if Path(embeddings).is_dir() else []
