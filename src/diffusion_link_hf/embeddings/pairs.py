"""Matched embeddings of any two modalities in memory, from an embedding cache or a plain safetensors file."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import DataError
from .cache import EmbeddingCache

REMEDY = (
    "A file of pairs holds float tensors source (N, D) and target (N, D), and may hold integers group (N,) and "
    "floats unpaired_source (K, D), unpaired_target (L, D)"
)


@dataclass(frozen=True)
class EmbeddingPairs:
    """Rows of two modalities that belong together: what every bridge is fitted, trained and judged on.

    Attributes:
        source: (N, D) float32, where the bridge comes from ("audio" to a bridge).
        target: (N, D) float32, where it leads to ("text" to a bridge); row i belongs to row i of ``source``.
        group: (N,) int64; rows of one item, such as a recording with several captions, share theirs. By default each
            row is an item of its own.
        unpaired_source, unpaired_target: (K, D), (L, D) float32, rows of either side without a partner.
        name: how errors call the pairs.
        clap: fingerprint of the CLAP that made them, where it is known (`EmbeddingCache.manifest`).
    """

    source: torch.Tensor
    target: torch.Tensor
    group: torch.Tensor | None = None
    unpaired_source: torch.Tensor | None = None
    unpaired_target: torch.Tensor | None = None
    name: str = field(default="embedding pairs", compare=False)
    clap: str | None = field(default=None, compare=False)

    def __post_init__(self):
        def refuse(item: str, problem: str, remedy: str = REMEDY):
            raise DataError(f"{self.name}: {item}", problem, remedy)

        for item in ("source", "target"):
            rows = getattr(self, item)
            if rows.ndim != 2:
                refuse(item, f"has shape {tuple(rows.shape)}")
        if self.source.shape[1] != self.target.shape[1]:
            refuse(
                "source",
                f"is {self.source.shape[1]} wide, but target is {self.target.shape[1]} wide",
                "Use embeddings of one width",
            )
        if len(self.source) != len(self.target):
            refuse("source", f"has {len(self.source)} rows, target {len(self.target)}")
        for item in ("unpaired_source", "unpaired_target"):
            rows = getattr(self, item)
            if rows is None:
                object.__setattr__(self, item, self.target.new_empty(0, self.embedding_dim))
            elif rows.ndim != 2 or rows.shape[1] != self.embedding_dim:
                refuse(item, f"has shape {tuple(rows.shape)}, D is {self.embedding_dim}")
        for item in ("source", "target", "unpaired_source", "unpaired_target"):
            rows = getattr(self, item)
            if not rows.is_floating_point():
                refuse(item, f"is {rows.dtype}")
            bad = ~torch.isfinite(rows).all(1) | (rows == 0).all(1)
            if bad.any():
                refuse(
                    item,
                    f"row {int(bad.nonzero()[0])} is zero, NaN or infinite ({int(bad.sum())} such rows)",
                    "Leave those rows out",
                )
            object.__setattr__(self, item, rows.float())
        if len(self.target) + len(self.unpaired_target) == 0:
            refuse("target", "is empty")
        group = torch.arange(len(self.target)) if self.group is None else self.group
        if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool:
            refuse("group", f"is {group.dtype}")
        if group.shape != (len(self.target),):
            refuse("group", f"has shape {tuple(group.shape)}, there are {len(self.target)} rows")
        object.__setattr__(self, "group", group.long())

    @property
    def embedding_dim(self) -> int:
        return self.source.shape[1]

    @property
    def fingerprint(self) -> str:
        """Hash of all rows and groups; a checkpoint refuses to go on with other data."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingPairs":
        """Read a cache's folder or a safetensors file.

        Raises:
            DataError: missing, damaged, or of another form.
        """
        path = Path(path)
        if path.is_dir():
            return cls.from_cache(EmbeddingCache.load(path))
        if not path.is_file():
            raise DataError(
                path, "no such file or folder", "Name an embedding cache's folder or a safetensors file of pairs"
            )
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(path, f"cannot be read ({error})", REMEDY) from error
        known = {"source", "target", "group", "unpaired_source", "unpaired_target"}
        missing, unknown = {"source", "target"} - set(tensors), set(tensors) - known
        if missing or unknown:
            problem = f"lacks {', '.join(sorted(missing))}" if missing else f"holds {', '.join(sorted(unknown))}"
            raise DataError(path, problem, REMEDY)
        return cls(**tensors, name=str(path))

    @classmethod
    def from_cache(cls, cache: EmbeddingCache) -> "EmbeddingPairs":
        """Audio → text: a row per caption; the recording is the group."""
        owner = cache.caption_audio
        paired = owner >= 0
        captioned = torch.zeros(len(cache.audio), dtype=torch.bool)
        captioned[owner[paired]] = True
        return cls(
            source=cache.audio[owner[paired]].reshape(-1, cache.embedding_dim),
            target=cache.text[paired],
            group=owner[paired],
            unpaired_source=cache.audio[~captioned].reshape(-1, cache.embedding_dim),
            unpaired_target=cache.text[~paired],
            clap=cache.manifest.get("clap"),
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, which `load` reads."""
        save_file({name: tensor.contiguous() for name, tensor in self._tensors().items()}, path)

    def reversed(self) -> "EmbeddingPairs":
        """The other direction: target → source."""
        return EmbeddingPairs(
            self.target,
            self.source,
            self.group,
            self.unpaired_target,
            self.unpaired_source,
            name=self.name,
            clap=self.clap,
        )

    def select(self, rows: torch.Tensor) -> "EmbeddingPairs":
        """The pairs ``rows``, (K,) indices or (N,) bool, without the unpaired rows."""
        return EmbeddingPairs(self.source[rows], self.target[rows], self.group[rows], name=self.name, clap=self.clap)

    def split(self, validation_fraction: float, seed: int) -> tuple["EmbeddingPairs", "EmbeddingPairs | None"]:
        """Training and validation parts that share no group; unpaired rows go to training.

        The same recordings as `EmbeddingCache.split` of a cache whose recordings all have captions. The validation part
        is None where the fraction rounds to no group.

        Raises:
            DataError: nothing would be left to train on.
        """
        items, item = self.group.unique(return_inverse=True)
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
        held = torch.isin(item, order[: round(validation_fraction * len(items))])
        if held.all() and not len(self.unpaired_target):
            raise DataError(self.name, f"has {len(items)} groups, all held out", "Use a smaller validation_fraction")
        train = EmbeddingPairs(
            self.source[~held],
            self.target[~held],
            self.group[~held],
            self.unpaired_source,
            self.unpaired_target,
            name=self.name,
            clap=self.clap,
        )
        return train, self.select(held) if held.any() else None

    def _tensors(self) -> dict[str, torch.Tensor]:
        names = ("source", "target", "group", "unpaired_source", "unpaired_target")
        return {name: getattr(self, name) for name in names}
