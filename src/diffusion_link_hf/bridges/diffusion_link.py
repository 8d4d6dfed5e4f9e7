"""Diffusion-Link: a residual MLP denoiser that maps an embedding of either modality to a text-like one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput

from .base import BridgeModel, Modality
from .denoisers import ResidualMlp
from .sampling import ddim_sample, shallow_timesteps

# The layers that a link had itself before it had them in its ``denoiser``: how the keys of weights saved then begin.
_FORMER_LAYERS = ("time_embed.", "proj_in.", "blocks.", "proj_out.")


@dataclass
class DiffusionLinkModelOutput(BaseOutput):
    """Output of `DiffusionLinkModel`.

    Attributes:
        sample: (B, D), the predicted clean text embedding φ(z_s, s), of about norm ``config.scale``.

    Examples:
        >>> DiffusionLinkModelOutput(sample=torch.zeros(2, 8)).sample.shape
        torch.Size([2, 8])
    """

    sample: torch.Tensor


class DiffusionLinkModel(BridgeModel):
    """The denoiser φ(z_s, s) of Diffusion-Link (arXiv 2510.11330): RCG's RDM MLP over CLAP embeddings.

    `bridge` normalizes, noises to s*, denoises by DDIM to the clean step, and L2-normalizes (paper §2 and §4). Train it
    with `train_bridge` (method "diffusion-link"), whose loss is `bridges.losses.diffusion_link_loss`.

    Weights that were saved when the network's layers were attributes of the link itself (``blocks.0…`` rather than
    ``denoiser.blocks.0…``) load all the same, through `from_pretrained` and `load_state_dict`.

    Args:
        embedding_dim: D, width of the embeddings.
        width: W, width of the residual blocks. The paper gives none; 512 is that of SEED, its forerunner.
        num_blocks: residual blocks; the paper's is 3.
        time_embed_dim: width of the timestep embedding, even.
        dropout: in each block, 0 to 1, while training.
        scale: norm of the normalized embeddings (paper §2).
        num_inference_steps: DDIM steps of `bridge`, 1 to s*.
        noise_timestep: s*, where `bridge` starts, 1 to 1000.
        add_noise: whether `bridge` noises its input to s* first.
        noise_seed: seed of that noise when `bridge` gets no generator, so that equal inputs give equal results.

    Raises:
        InputError: a size below 1, an odd ``time_embed_dim``, an s* or a number of steps out of range.

    Examples:
        >>> link = DiffusionLinkModel(embedding_dim=8, width=16, time_embed_dim=4).eval()
        >>> _ = link.fit(source=torch.randn(20, 8), target=torch.randn(20, 8))  # the means alone: not trained yet
        >>> link.bridge(torch.randn(3, 8), "audio", noise_timestep=200).shape
        torch.Size([3, 8])
    """

    _supports_gradient_checkpointing = True
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
        scale: float = 5.0,
        num_inference_steps: int = 5,
        noise_timestep: int = 100,
        add_noise: bool = True,
        noise_seed: int = 0,
    ):
        super().__init__()
        shallow_timesteps(noise_timestep, num_inference_steps)  # refuses impossible values now, not at first use
        self._register_statistics(embedding_dim)
        self.denoiser = ResidualMlp(embedding_dim, width, num_blocks, time_embed_dim, dropout)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | int, return_dict: bool = True
    ) -> DiffusionLinkModelOutput | tuple[torch.Tensor]:
        """Predict the clean text embedding.

        Args:
            sample: z_s, (B, D).
            timestep: s, 0 to 999: one for all rows, or (B,).
            return_dict: whether to return an output object or a tuple.
        """
        predicted = self.denoiser(sample, timestep)
        return DiffusionLinkModelOutput(sample=predicted) if return_dict else (predicted,)

    def _bridge(
        self, embeds: torch.Tensor, modality: Modality, *, noise_timestep: int | None, **options: Any
    ) -> torch.Tensor:
        start = self.config.noise_timestep if noise_timestep is None else noise_timestep
        state, scheduler, timesteps = self._noised(embeds, modality, noise_timestep=start, **options)
        dtype = self.denoiser.proj_in.weight.dtype  # reading `self.dtype` takes as long as embedding the grid
        # All timesteps of the grid are embedded at once: one by one takes longer, which shows in small batches.
        embedded = self.denoiser.embed_time(timesteps, state.to(dtype)).split(1)
        time_embeds = dict(zip(timesteps, embedded, strict=True))

        def predict(state: torch.Tensor, timestep: int) -> torch.Tensor:
            return self.denoiser(state.to(dtype), timestep, time_embeds=time_embeds[timestep])

        return ddim_sample(predict, state, scheduler, timesteps)

    def _fix_state_dict_keys_on_load(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Called by `from_pretrained` with what the file holds; renames in place."""
        super()._fix_state_dict_keys_on_load(state_dict)
        _rename_former_layers(state_dict, "")

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Called by `load_state_dict`, of this module or of one that holds it, with a copy that it may change."""
        _rename_former_layers(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rename_former_layers(state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    """``proj_in.weight`` → ``denoiser.proj_in.weight`` and so on, in place, below ``prefix``."""
    former = tuple(prefix + layer for layer in _FORMER_LAYERS)
    for key in [key for key in state_dict if key.startswith(former)]:
        state_dict[f"{prefix}denoiser.{key.removeprefix(prefix)}"] = state_dict.pop(key)
