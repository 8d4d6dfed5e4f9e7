"""What an experiment is asked for: its data, its budget and its defaults. Imports nothing heavy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from ..errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from ..embeddings.cache import EmbeddingCache
    from ..embeddings.pairs import EmbeddingPairs

# Always fitted by `gap`: without them no table says whether a bridge is worth its cost.
ALWAYS_FITTED = ("identity", "centering", "ridge")
# A step on 128 rows takes about a hundred times as long as one of the others: only where it is asked for by name.
SLOW = "diffusion-bridge-unet"

CAPTIONING_METHODS = ("none", "centering", "c3", "ridge", "diffusion-bridge", "diffusion-link")
MODES = ("zeroshot", "supervised")
INSTRUCTION = "Describe the sound: "  # the wording is not given by the paper


@dataclass(frozen=True)
class DataChoice:
    """Which rows are fitted on and which are measured on.

    Attributes:
        embeddings: path of an embedding cache or of a safetensors file of pairs, a path or Hub id of recordings with
            captions, or embeddings in memory.
        held_out: share of the recordings to hold out, between 0 and 1.
        test: embeddings to measure on instead; all of ``embeddings`` are then fitted on.
        split_seed: of the choice of held-out recordings.
        limit: number of recordings to use, chosen by ``split_seed``; None for all.
        reverse: whether to bridge target → source.
        clap: folder or Hub id of the CLAP, or of a pipeline that has one, which embeds recordings.
        split: name of the split of such recordings, such as "test".
        clap_revision: branch, tag or commit of a CLAP on the Hub.

    Raises:
        InputError: ``held_out`` is out of range, or ``limit`` is not positive.
    """

    embeddings: Union[str, "Path", "EmbeddingPairs", "EmbeddingCache"]
    held_out: float = 0.1
    test: Union[str, "Path", "EmbeddingPairs", "EmbeddingCache", None] = None
    split_seed: int = 0
    limit: int | None = None
    reverse: bool = False
    clap: str | None = None
    split: str | None = None
    clap_revision: str | None = None

    def __post_init__(self):
        if not 0 < self.held_out < 1:
            raise InputError("held_out", f"is {self.held_out}", "Use a share between 0 and 1")
        if self.limit is not None and self.limit < 1:
            raise InputError("limit", f"is {self.limit}", "Use at least 1")


@dataclass(frozen=True)
class Budget:
    """What all trained bridges of an experiment share.

    Attributes:
        steps: optimization steps.
        batch_size: rows per step.
        learning_rate: peak learning rate.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 5e-4
