"""The files of an embedding cache: shards, each sealed by its record, and the manifest that comes last.

::

    shard-00000.safetensors      audio (n, D) and text (m, D) float32, caption_audio (m,) int64
    shard-00000.captions.jsonl   {"caption", "audio"} for each row of text
    shard-00000.json             the record: names, failures, what made it, checksums of the two files above
    manifest.json                what made the cache, all failures, checksums of all shards

Every file is written under another name, synced and renamed, and a shard's record is its last file. So a shard is
whole or it is not there, whenever the writer was killed; a cache is whole if it has a manifest.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import DataError
from ..files import file_sha256, write_json, write_whole

FORMAT = "diffusion-link embedding cache 2"
MANIFEST, LOCK = "manifest.json", ".manifest.lock"
EMBEDDINGS, CAPTIONS, RECORD = ".safetensors", ".captions.jsonl", ".json"
AGAIN = "Make the cache again"
_REMEDY = "Free some space, or check the folder; whole shards are kept"
_OURS = re.compile(r"\.?shard-\d{5,}\.(safetensors|captions\.jsonl|json)(\.\d+\.tmp)?|\.manifest\.json\.\d+\.tmp")

_WORDS = {"data_fingerprint": "data, by names, captions and sizes of the recordings:"}

# What a cache's contents follow from, such as {"clap": fingerprint, "data": name, "batch_size": 32}.
Identity = Mapping[str, str | int | None]


@dataclass(frozen=True)
class Shard:
    """Embeddings of some recordings and of their captions.

    Attributes:
        audio: (n, D) float32 unit rows, one per recording.
        text: (m, D) float32 unit rows, one per caption.
        caption_audio: (m,) int64, the row of ``audio`` that each caption describes; -1 for a caption without one.
        captions: m strings.
        audio_names: n strings.
        failures: {"audio": name, "reason": text} of the recordings that had to be left out.
    """

    audio: torch.Tensor
    text: torch.Tensor
    caption_audio: torch.Tensor
    captions: Sequence[str]
    audio_names: Sequence[str]
    failures: Sequence[dict[str, str]] = ()


@dataclass(frozen=True)
class ShardSummary:
    """What a shard's record says of it, less its names.

    Attributes:
        name: of its files, without their endings.
        recordings, captions: how many it holds.
        embedding_dim: D.
        failures: as `Shard.failures`.
        sha256: {file name: checksum} of its three files.
    """

    name: str
    recordings: int
    captions: int
    embedding_dim: int
    failures: list[dict[str, str]]
    sha256: dict[str, str]


def shard_name(index: int) -> str:
    """Name of a shard's files, without their endings."""
    return f"shard-{index:05d}"


def write_shard(folder: Path, index: int, shard: Shard, identity: Identity) -> None:
    """Write a shard's files, its record last.

    Raises:
        DataError: it cannot be written; the shards that are there are untouched.
    """
    name = shard_name(index)
    tensors = {"audio": shard.audio, "text": shard.text, "caption_audio": shard.caption_audio}
    owners = [shard.audio_names[owner] if owner >= 0 else None for owner in shard.caption_audio.tolist()]
    lines = (
        json.dumps({"caption": caption, "audio": owner}) + "\n"
        for caption, owner in zip(shard.captions, owners, strict=True)
    )
    contents = {
        name + EMBEDDINGS: save({key: tensor.contiguous() for key, tensor in tensors.items()}),
        name + CAPTIONS: "".join(lines).encode(),
    }
    for file, content in contents.items():
        write_whole(folder / file, content, _REMEDY)
    record = {
        "format": FORMAT,
        "made_by": dict(identity),
        "recordings": len(shard.audio),
        "captions": len(shard.text),
        "embedding_dim": shard.text.shape[1],
        "failures": list(shard.failures),
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
        "audio_names": list(shard.audio_names),
    }
    write_json(folder / (name + RECORD), record, _REMEDY, indent=1)


def complete_shards(folder: Path, identity: Identity) -> dict[int, ShardSummary]:
    """The shards in ``folder`` that are whole, by their number; torn and altered ones are as if they were not there.

    Raises:
        DataError: a shard was made by something else than ``identity``; the message names what differs.
    """
    found = {}
    for path in sorted(folder.glob(f"shard-*{RECORD}")):
        if not re.fullmatch(r"shard-\d{5,}", path.stem):
            continue
        try:
            content = path.read_bytes()
            record = json.loads(content)
            made_by, sha256 = record["made_by"], dict(record["sha256"])
            counts = {key: record[key] for key in ("recordings", "captions", "embedding_dim", "failures")}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        refuse_foreign(path, made_by, identity)
        if all(_checksum(folder / file) == expected for file, expected in sha256.items()):
            sha256[path.name] = hashlib.sha256(content).hexdigest()
            found[int(path.stem.removeprefix("shard-"))] = ShardSummary(path.stem, sha256=sha256, **counts)
    return found


def refuse_foreign(item: Path, made_by: Mapping[str, Any], identity: Identity) -> None:
    """Raises DataError, with all that differs, where ``made_by`` is not ``identity``."""
    differences = [
        f"{_WORDS.get(key, key)} {made_by.get(key)}, now {value}"
        for key, value in identity.items()
        if made_by.get(key) != value
    ]
    if differences:
        raise DataError(
            item,
            f"belongs to another cache ({'; '.join(differences)})",
            "Use the options that it was begun with, another folder, or remove this one",
        )


def write_manifest(folder: Path, shards: Sequence[ShardSummary], about: Mapping[str, Any]) -> dict[str, Any]:
    """Seal a cache of these shards; returns the manifest.

    Args:
        about: what made it: its identity, and whatever else is worth knowing.

    Raises:
        DataError: it cannot be written.
    """
    manifest = {
        **about,
        "format": FORMAT,
        "embedding_dim": shards[0].embedding_dim,
        "recordings": sum(shard.recordings for shard in shards),
        "captions": sum(shard.captions for shard in shards),
        "failures": [failure for shard in shards for failure in shard.failures],
        "shards": [
            {"name": s.name, "recordings": s.recordings, "captions": s.captions, "sha256": s.sha256} for s in shards
        ],
    }
    write_json(folder / MANIFEST, manifest, _REMEDY, indent=1)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole cache.

    Raises:
        DataError: there is none, it is damaged, or it is of another format.
    """
    if not (folder / MANIFEST).is_file():
        begun = any(folder.glob(f"shard-*{RECORD}"))
        nothing = "holds no embedding cache" if folder.exists() else "no such folder"
        problem = "holds an unfinished embedding cache" if begun else nothing
        remedy = "Run the same embed command again to finish it" if begun else "Make one with diffusion-link embed"
        raise DataError(folder, problem, f"{remedy}, or check the path")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise TypeError(f"{MANIFEST} holds a {type(manifest).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(folder, f"is damaged ({error!r})", AGAIN) from error
    if manifest.get("format") != FORMAT:
        raise DataError(folder, f"has the format {manifest.get('format')!r}, expected {FORMAT!r}", AGAIN)
    return manifest


def is_intact(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether all shards of a manifest are there, with the checksums that it says."""
    try:
        files = [file for entry in manifest["shards"] for file in entry["sha256"].items()]
    except (KeyError, TypeError, AttributeError):
        return False
    return all(_checksum(folder / name) == expected for name, expected in files)


def read_shard(folder: Path, entry: Mapping[str, Any]) -> Shard:
    """A shard by its entry in the manifest.

    Raises:
        DataError: a file is missing, or is not what the manifest says.
    """
    try:
        contents = {}
        for file, expected in entry["sha256"].items():
            contents[file] = (folder / file).read_bytes()
            if hashlib.sha256(contents[file]).hexdigest() != expected:
                raise ValueError(f"{file} is not what {MANIFEST} says")
        record = json.loads(contents[entry["name"] + RECORD])
        captions = [json.loads(line)["caption"] for line in contents[entry["name"] + CAPTIONS].splitlines()]
        if not all(isinstance(text, str) for text in (*captions, *record["audio_names"])):
            raise TypeError("a caption or a recording's name is no text")
        tensors = load(contents[entry["name"] + EMBEDDINGS])
        return Shard(**tensors, captions=captions, audio_names=record["audio_names"], failures=record["failures"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(folder, f"is damaged ({error!r})", AGAIN) from error


def remove_cache(folder: Path) -> None:
    """Remove a cache's files, the manifest first, and nothing else that may lie there."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what writers left that were killed before they could rename it."""
    for path in folder.glob(".*.tmp"):
        if _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _checksum(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None
