"""The embedding cache: a data set embedded once by a frozen CLAP, which is all that training reads."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from ..errors import DataError
from .shards import (
    AGAIN,
    Shard,
    complete_shards,
    read_manifest,
    read_shard,
    remove_cache,
    write_manifest,
    write_shard,
)

logger = logging.get_logger(__name__)

# LAION's; beside them, hop length and mel scale were always part of the fingerprint.
_DEFAULT_FRONT_END = {
    "sampling_rate": 48_000,
    "n_fft": 1024,
    "num_mel_bins": 64,
    "frequency_min": 50.0,
    "frequency_max": 14_000.0,
}


@dataclass
class EmbeddingCache:
    """Audio and text embeddings of a captioned data set.

    Attributes:
        audio: (N, D) float32 unit rows, one per recording.
        text: (M, D) float32 unit rows, one per caption.
        caption_audio: (M,) int64, the recording that each caption describes; -1 for a caption without one.
        captions: M strings.
        audio_names: N strings.
        manifest: what the embeddings were made by; ``clap`` is its fingerprint (`clap_fingerprint`).
    """

    audio: torch.Tensor
    text: torch.Tensor
    caption_audio: torch.Tensor
    captions: list[str]
    audio_names: list[str]
    manifest: dict[str, Any]

    def __post_init__(self):
        n, m = len(self.audio), len(self.text)
        problems = [
            (self.audio.ndim != 2 or self.text.ndim != 2, "embeddings are not two-dimensional"),
            (
                self.audio.ndim == 2 == self.text.ndim and self.audio.shape[1] != self.text.shape[1],
                "audio and text widths differ",
            ),
            (m == 0, "there are no captions"),
            (
                not len(self.captions) == m == len(self.caption_audio),
                "captions, text and caption_audio differ in number",
            ),
            (len(self.audio_names) != n, "audio and audio_names differ in number"),
            (
                m > 0 and not -1 <= int(self.caption_audio.min()) <= int(self.caption_audio.max()) < n,
                "caption_audio is out of range",
            ),
            (
                not (torch.isfinite(self.audio).all() and torch.isfinite(self.text).all()),
                "embeddings hold NaN or infinity",
            ),
        ]
        for wrong, problem in problems:
            if wrong:
                raise DataError(
                    "embedding cache",
                    f"{problem} (audio {tuple(self.audio.shape)}, text {tuple(self.text.shape)})",
                    "Make it again",
                )

    @property
    def embedding_dim(self) -> int:
        return self.text.shape[1]

    @property
    def fingerprint(self) -> str:
        """Hash of the embeddings and captions; a checkpoint refuses to go on with other data."""
        digest = hashlib.sha256()
        for tensor in (self.audio, self.text, self.caption_audio):
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update("\n".join(self.captions).encode())
        return digest.hexdigest()[:16]

    def split(self, validation_fraction: float, seed: int) -> tuple["EmbeddingCache", "EmbeddingCache | None"]:
        """Training and validation parts that share no recording; captions without audio go to training.

        The validation part is None where no caption is held out.

        Raises:
            DataError: no caption would be left to train on.
        """
        order = torch.randperm(len(self.audio), generator=torch.Generator().manual_seed(seed))
        held = torch.zeros(len(self.audio) + 1, dtype=torch.bool)  # the last entry answers for index -1
        held[order[: round(validation_fraction * len(self.audio))]] = True
        rows = held[self.caption_audio]
        if rows.all():
            raise DataError(
                "embedding cache", f"has {len(rows)} captions, all held out", "Use a smaller validation_fraction"
            )
        return self.select((~rows).nonzero()[:, 0]), self.select(rows.nonzero()[:, 0]) if rows.any() else None

    def select(self, rows: torch.Tensor) -> "EmbeddingCache":
        """The captions ``rows`` (K,) and the recordings they describe."""
        used, inverse = self.caption_audio[rows].unique(return_inverse=True)
        offset = int((used < 0).any())  # -1 sorts first and stays -1
        used = used[used >= 0]
        return EmbeddingCache(
            self.audio[used],
            self.text[rows],
            inverse - offset,
            [self.captions[i] for i in rows.tolist()],
            [self.audio_names[i] for i in used.tolist()],
            self.manifest,
        )

    def save(self, folder: str | Path) -> None:
        """Write the cache as one shard, in place of a cache that is there.

        The manifest comes last, so that an interrupted writing is never taken for a cache.

        Raises:
            DataError: it cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_cache(folder)
        # It is no longer what an embedding with this shard size makes, which must not go on here.
        about = {key: value for key, value in self.manifest.items() if key != "shard_size"}
        shard = Shard(
            self.audio,
            self.text,
            self.caption_audio,
            self.captions,
            self.audio_names,
            self.manifest.get("failures", []),
        )
        made_by = {"clap": about.get("clap")}
        write_shard(folder, 0, shard, made_by)
        write_manifest(folder, list(complete_shards(folder, made_by).values()), about)

    @classmethod
    def load(cls, folder: str | Path, clap_fingerprint: str | None = None) -> "EmbeddingCache":
        """Read a whole cache, of any number of shards, into memory.

        Args:
            clap_fingerprint: of the CLAP that must have made it, if that matters.

        Raises:
            DataError: missing, unfinished, damaged, of another format, or made by another CLAP.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        try:
            entries = manifest["shards"]
            width = manifest["embedding_dim"]
            audio = torch.empty(sum(entry["recordings"] for entry in entries), width)
            text = torch.empty(sum(entry["captions"] for entry in entries), width)
            caption_audio = torch.empty(len(text), dtype=torch.long)
            captions, names = [], []
            for entry in entries:
                shard = read_shard(folder, entry)
                recordings = slice(len(names), len(names) + len(shard.audio))
                rows = slice(len(captions), len(captions) + len(shard.text))
                audio[recordings], text[rows] = shard.audio, shard.text
                owners = shard.caption_audio
                caption_audio[rows] = torch.where(owners < 0, owners, owners + len(names))
                captions += shard.captions
                names += shard.audio_names
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(folder, f"is damaged ({error!r})", AGAIN) from error
        cache = cls(audio, text, caption_audio, captions, names, manifest)
        made_by = manifest.get("clap")
        if clap_fingerprint is not None and made_by != clap_fingerprint:
            raise DataError(
                folder, f"was made by CLAP {made_by}, not by {clap_fingerprint}", "Embed the data with this CLAP"
            )
        return cache


def front_end_settings(clap) -> dict[str, Any]:
    """The front end of a `ClapEncoder`, as a cache's manifest tells of it."""
    names = ("sampling_rate", "n_fft", "hop_length", "num_mel_bins", "frequency_min", "frequency_max", "mel_scale")
    return {name: getattr(clap.front_end, name, None) for name in names}  # a front end of another kind lacks some


def check_made_by(manifest: dict[str, Any], clap, cache: object, name: object) -> str:
    """The fingerprint of a `ClapEncoder`, once it is known to be the one that a cache's manifest names, if any.

    Args:
        cache, name: how the error calls the cache and the CLAP.

    Raises:
        DataError: another CLAP, or the same weights behind another front end.
    """
    made_by, found = manifest.get("clap"), clap_fingerprint(clap)
    if made_by is not None and made_by != found:
        raise DataError(cache, f"was made by CLAP {made_by}, not by {found}", f"Embed the data with {name}")
    if made_by is not None and "front_end" not in manifest:
        logger.warning(
            "%s was made before caches noted mel range, n_fft and bands: it is taken to be of %s. Embed the data again "
            "if the preprocessor_config.json of its CLAP said otherwise",
            cache,
            _DEFAULT_FRONT_END,
        )
    return found


def clap_fingerprint(clap) -> str:
    """Hash of a `ClapEncoder`'s weights and front end: what a cache's embeddings depend on."""
    from ..models.log_mel import FRONT_END_VERSION

    settings = front_end_settings(clap)
    text = f"{FRONT_END_VERSION} {settings.pop('mel_scale')} {settings.pop('hop_length')}"
    # Left out where they are LAION's, so that caches from before they were looked at keep their fingerprint.
    if settings != _DEFAULT_FRONT_END:
        text += f" {sorted(settings.items())}"
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(clap.model.state_dict().items()):
        # Float16 first: a CLAP that was stored in 16 bits stays the same encoder when it is loaded in 32.
        digest.update(name.encode() + (tensor.half() if tensor.is_floating_point() else tensor).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def about_clap(clap) -> dict[str, Any]:
    """What a cache's manifest tells of its CLAP beside the fingerprint."""
    return {"clap_source": clap.source and clap.source.as_json(), "front_end": front_end_settings(clap)}


def embed_captions(
    clap, audio: torch.Tensor, audio_names: Sequence[str], captions: Sequence[Sequence[str]], **manifest
) -> EmbeddingCache:
    """A cache from embedded audio (N, D) and each recording's captions."""
    flat = [caption for own in captions for caption in own]
    owners = torch.tensor([i for i, own in enumerate(captions) for _ in own], dtype=torch.long)
    manifest = {"clap": clap_fingerprint(clap), **about_clap(clap), **manifest}
    return EmbeddingCache(audio.float().cpu(), clap.encode_text(flat).cpu(), owners, flat, list(audio_names), manifest)
