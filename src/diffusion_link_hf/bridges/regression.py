"""One-step regression: the network of Diffusion-Link without diffusion, alone or on top of ridge regression."""

from typing import Any, ClassVar, Literal

import torch
from diffusers.configuration_utils import register_to_config

from .base import BridgeModel, Modality
from .denoisers import ResidualMlp
from .linear import check_text_input, choose_ridge_strength, solve_ridge
from .losses import squared_error
from .sampling import TrainingNoise


class RegressionBridge(BridgeModel):
    """x ↦ f(x), or x·W + f(x), on normalized embeddings (paper §2), trained on ‖y − ŷ‖².

    f is the RDM MLP at a fixed timestep, so that it has the size of Diffusion-Link's network and nothing of its noise,
    time or sampling: what it reaches, diffusion has to beat. W is the ridge of `LinearBridge`, fitted by `fit` and
    then frozen; f starts at zero, so training starts from the ridge.

    Args:
        embedding_dim: D, width of the embeddings.
        width, num_blocks, time_embed_dim, dropout: see `DiffusionLinkModel`.
        residual_over_ridge: whether x·W is added.
        scale: norm of the normalized embeddings.
        text_input: what becomes of text: "identity", its normalized embedding unchanged; or "map", the same map, which
            is then trained to return text too (‖y − f(y)‖²), unpaired text included.

    Raises:
        InputError: a size below 1, an odd ``time_embed_dim``, or an unknown ``text_input``.

    Examples:
        >>> bridge = RegressionBridge(embedding_dim=8, width=16, time_embed_dim=4, residual_over_ridge=True).eval()
        >>> _ = bridge.fit(torch.randn(50, 8), torch.randn(50, 8))  # the ridge; `train_bridge` trains the rest
        >>> bridge.bridge(torch.randn(3, 8)).shape
        torch.Size([3, 8])
    """

    needs_pairs = True
    _no_split_modules: ClassVar[list[str]] = ["ResidualBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ResidualBlock"]

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        width: int = 512,
        num_blocks: int = 3,
        time_embed_dim: int = 256,
        dropout: float = 0.0,
        residual_over_ridge: bool = False,
        scale: float = 5.0,
        text_input: Literal["identity", "map"] = "identity",
    ):
        super().__init__()
        check_text_input(text_input)
        self._register_statistics(embedding_dim)
        self.network = ResidualMlp(embedding_dim, width, num_blocks, time_embed_dim, dropout)
        if residual_over_ridge:
            self.register_buffer("ridge", torch.zeros(embedding_dim, embedding_dim))

    def _fit(
        self, source: torch.Tensor, target: torch.Tensor, group: torch.Tensor, text: torch.Tensor, seed: int
    ) -> None:
        if self.config.residual_over_ridge:
            x, y = self.normalize(source.double(), "audio"), self.normalize(target.double(), "text")
            self.ridge.copy_(solve_ridge(x, y, [choose_ridge_strength(x, y, group, seed)])[0])

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Normalized embeddings (B, D) → the predicted text embeddings (B, D), of about norm ``config.scale``."""
        predicted = self.network(sample, 0)
        return predicted + sample @ self.ridge.to(sample.dtype) if self.config.residual_over_ridge else predicted

    def _training_loss(
        self, source: torch.Tensor, target: torch.Tensor, noise: TrainingNoise, rows: slice
    ) -> torch.Tensor:
        """E‖y − ŷ(x)‖², and E‖y − ŷ(y)‖² where text goes through the map."""
        source, target = source[rows], target[rows]
        loss = target.new_zeros(())
        if len(source):
            loss = loss + squared_error(target[: len(source)], self(source))
        if self.config.text_input == "map":
            loss = loss + squared_error(target, self(target))
        return loss

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        x = self.normalize(embeds, modality)
        if modality == "text" and self.config.text_input == "identity":
            return x
        return self(x.to(self.dtype)).to(x.dtype)
