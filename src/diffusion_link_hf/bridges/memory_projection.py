"""Memory projection (WSAC, DRCap): an embedding as the weighted sum of the text embeddings most like it."""

from typing import Any, Literal, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel, Modality
from .linear import check_text_input

BLOCK_ROWS = 16_384  # of the memory at a time: 32 MB of float32 at D = 512, and 64 kB of similarities a query


class MemoryProjection(BridgeModel):
    """x ↦ Σᵢ wᵢ mᵢ with w = softmax(x·m / τ) over a memory of training-text embeddings (paper §8).

    WSAC (DCASE 2023) takes the sum over the whole memory; ``top_k`` limits it to the k most similar rows, which are
    found exactly. Memory and queries are unit rows, in the encoder's own space as in WSAC and DRCap, or centered
    (paper §2). The memory is read in blocks, so a batch of queries needs little room beside it.

    Args:
        embedding_dim: D, width of the embeddings.
        memory_size: M, rows of the memory; `fit` sets it.
        temperature: τ; WSAC's is 0.01.
        top_k: k, or None for the whole memory.
        centered: whether queries and memory are centered first, which leaves the modality gap out of the similarities.
        memory_dtype: how the memory is kept, in memory and in the file: "float32" or "float16" (half the size; the
            similarities are computed in float32 from it all the same).
        scale: of `normalize`; the result does not depend on it.
        text_input: what becomes of text: "identity", unchanged, since it lies among the memory; or "map", it is
            projected too.

    Raises:
        InputError: a temperature or ``top_k`` that is not positive, or an unknown choice.

    Examples:
        >>> memory = MemoryProjection(embedding_dim=8, top_k=1).fit(None, torch.eye(8))
        >>> memory.bridge(torch.tensor([[0.0, 0.1, 0.9, 0, 0, 0, 0, 0]])).argmax().item()
        2
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        memory_size: int = 1,
        temperature: float = 0.01,
        top_k: int | None = None,
        centered: bool = False,
        memory_dtype: Literal["float32", "float16"] = "float32",
        scale: float = 5.0,
        text_input: Literal["identity", "map"] = "identity",
    ):
        super().__init__()
        check_text_input(text_input)
        if not temperature > 0:
            raise InputError("temperature", f"is {temperature}", "Use a positive number")
        if top_k is not None and top_k < 1:
            raise InputError("top_k", f"is {top_k}", "Use at least 1, or None for the whole memory")
        if memory_dtype not in ("float32", "float16"):
            raise InputError("memory_dtype", f"is {memory_dtype!r}", "Use 'float32' or 'float16'")
        self._register_statistics(embedding_dim)
        self.register_buffer("memory", torch.zeros(memory_size, embedding_dim, dtype=getattr(torch, memory_dtype)))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """As `StrictModel.from_pretrained`; the memory keeps the dtype that it was saved in."""
        model = super().from_pretrained(*args, **kwargs)
        model.memory = model.memory.to(getattr(torch, model.config.memory_dtype))
        return model

    def _fit(
        self, source: torch.Tensor, target: torch.Tensor, group: torch.Tensor, text: torch.Tensor, seed: int
    ) -> None:
        self.set_memory(text)

    @torch.no_grad()
    def set_memory(self, text: torch.Tensor) -> None:
        """Makes ``text`` (M, D), of any norm but zero, the memory. Centering takes the statistics as they are."""
        memory = torch.empty(text.shape, dtype=self.memory.dtype, device=self.memory.device)
        for start in range(0, len(text), BLOCK_ROWS):
            rows = text[start : start + BLOCK_ROWS].to(self.memory.device)
            memory[start : start + BLOCK_ROWS] = self._unit(rows, "text")
        self.memory = memory
        self.register_to_config(memory_size=len(text))

    def target(self, text: torch.Tensor) -> torch.Tensor:
        """(B, D) → (B, D) unit rows, in the space of the memory."""
        return self._unit(text, "text")

    def _unit(self, embeds: torch.Tensor, modality: Modality) -> torch.Tensor:
        if self.config.centered:
            return F.normalize(self.normalize(embeds, modality), dim=-1)
        return F.normalize(embeds.to(torch.float64 if embeds.dtype == torch.float64 else torch.float32), dim=-1)

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        x = self._unit(embeds, modality)
        if modality == "text" and self.config.text_input == "identity":
            return x
        top_k = self.config.top_k
        if top_k is None or top_k >= len(self.memory):
            return self._attend_to_all(x)
        scores, rows = self.search(x, top_k)
        weights = (scores / self.config.temperature).softmax(-1)
        return (weights[:, None] @ self.memory[rows].to(x.dtype))[:, 0]

    def _attend_to_all(self, x: torch.Tensor) -> torch.Tensor:
        """Σᵢ softmax(x·mᵢ / τ) mᵢ over the whole memory, block by block. (B, D) → (B, D) of some norm."""
        # A running maximum keeps exp() in range without a first pass for it; what was summed before is scaled down.
        peak = x.new_full((len(x), 1), -torch.inf)
        total = torch.zeros_like(x)
        for block in self.memory.split(BLOCK_ROWS):
            block = block.to(x.dtype)
            scores = x @ block.T / self.config.temperature
            higher = torch.maximum(peak, scores.amax(1, keepdim=True))
            total = total * (peak - higher).exp() + (scores - higher).exp() @ block
            peak = higher
        return total

    def search(self, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k most similar rows of the memory, exactly: similarities (B, k), descending, and indices (B, k).

        Args:
            x: (B, D) unit rows, float32 or float64, the dtype of the computation.
            k: 1 to M.
        """
        best = x.new_empty(len(x), 0)
        rows = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
        for start in range(0, len(self.memory), BLOCK_ROWS):
            block = self.memory[start : start + BLOCK_ROWS].to(x.dtype)
            scores, found = (x @ block.T).topk(min(k, len(block)), dim=1)
            best, rows = torch.cat([best, scores], dim=1), torch.cat([rows, found + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, order)
        return best, rows
