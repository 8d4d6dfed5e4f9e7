"""Projector and decoder as one module: what Accelerate wraps and the optimizer sees."""

import torch
from torch import nn

from ..errors import RecipeError
from ..models.decoder import CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from .sharding import reshard, shard_like, whole_tensors


class CaptionModel(nn.Module):
    """Embeddings and captions in, the summed loss out.

    Args:
        projector: trained.
        decoder: trained, all of it or its adapter.
    """

    def __init__(self, projector: PrefixProjector, decoder: CaptionDecoder):
        super().__init__()
        self.projector, self.decoder = projector, decoder

    def forward(self, embeds: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, L), (B, L) → (), cross-entropy summed over the caption tokens.

        A sum, because a mean over the tokens of one process would weigh its tokens by how many the others have.
        """
        return self.decoder(self.projector(embeds), input_ids, attention_mask).loss * attention_mask.sum()

    def write(self, embeds: torch.Tensor) -> list[str]:
        """(B, D) → B captions, by greedy search."""
        return [caption for (caption,) in self.decoder.generate(self.projector(embeds))]

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of the base model's blocks, each of which FSDP gathers by itself; Accelerate asks for it."""
        return list(self.decoder.base_model._no_split_modules or [])

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that training changes, by name; a frozen 7B base is not among them."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def trained_state(self) -> dict[str, torch.Tensor]:
        """A copy of them on the CPU, whole; with FSDP all processes have to ask for it."""
        reshard(self)
        return {name: whole_tensors(weight.detach()).to("cpu", copy=True) for name, weight in self.trained().items()}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        """Raises RecipeError for a state of other weights."""
        reshard(self)
        own = self.trained()
        if set(own) != set(state):
            raise RecipeError(
                "checkpoint", "trains other weights than this recipe", "Use another output, or remove its checkpoints"
            )
        for name, parameter in own.items():
            parameter.copy_(shard_like(state[name], parameter))
