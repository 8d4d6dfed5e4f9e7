"""DiffGAP (ICASSP 2025): conditional diffusion from pure noise, in both directions."""

from typing import Any, ClassVar, Literal

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn import functional as F

from ..errors import DataError, InputError
from ..tensors import rescale_rows
from .base import BridgeModel, Modality, check_call, evaluating
from .denoisers import ResidualMlp
from .losses import squared_error
from .sampling import TrainingNoise, check_scheduler, ddim_sample, make_scheduler, shallow_timesteps


class DiffGapModel(BridgeModel):
    """Two conditional denoisers: φ_text(z_s, s, e^a) of text given audio, φ_audio(z_s, s, e^t) of audio given text.

    A sample starts from pure noise at the last timestep and is denoised by DDIM with the other modality's normalized
    embedding as the condition (arXiv 2503.12131; paper §8). `bridge` generates text embeddings, `bridge_to_audio` audio
    ones. The original predicts the noise; this predicts the sample, as the other bridges do and as the pipelines'
    scheduler says.

    Args:
        embedding_dim: D, width of the embeddings.
        width, num_blocks, time_embed_dim, dropout: of each denoiser; see `DiffusionLinkModel`.
        scale: norm of the normalized embeddings.
        num_inference_steps: DDIM steps over the whole process. ``noise_timestep`` and ``add_noise`` of `bridge` do not
            concern this bridge: it starts from nothing but noise.
        noise_seed: seed of the noise when `bridge` gets no generator.
        text_input: what becomes of text in `bridge` (and of audio in `bridge_to_audio`): "condition", it
            conditions φ_text directly, though that was trained on audio (centered, both lie in one region); or "cycle",
            φ_audio makes audio of it, and φ_text text of that.

    Raises:
        InputError: a size or number of steps out of range, or an unknown ``text_input``.

    Examples:
        >>> bridge = DiffGapModel(embedding_dim=8, width=16, time_embed_dim=4, num_inference_steps=5).eval()
        >>> _ = bridge.fit(torch.randn(20, 8), torch.randn(20, 8))  # the means alone: not trained yet
        >>> bridge.bridge(torch.randn(3, 8), "audio").shape, bridge.bridge_to_audio(torch.randn(3, 8), "text").shape
        (torch.Size([3, 8]), torch.Size([3, 8]))
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
        scale: float = 5.0,
        num_inference_steps: int = 50,
        noise_seed: int = 0,
        text_input: Literal["condition", "cycle"] = "condition",
    ):
        super().__init__()
        shallow_timesteps(1000, num_inference_steps)  # refuses impossible values now, not at first use
        if text_input not in ("condition", "cycle"):
            raise InputError("text_input", f"is {text_input!r}", "Use 'condition' or 'cycle'")
        self._register_statistics(embedding_dim)
        self.denoisers = nn.ModuleDict(
            {
                side: ResidualMlp(embedding_dim, width, num_blocks, time_embed_dim, dropout, embedding_dim)
                for side in ("text", "audio")
            }
        )

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | int, condition: torch.Tensor, side: Modality = "text"
    ) -> torch.Tensor:
        """State z_s (B, D), s for all or (B,), condition (B, D) → predicted clean embedding of ``side`` (B, D)."""
        return self.denoisers[side](sample, timestep, condition)

    def _training_loss(
        self, source: torch.Tensor, target: torch.Tensor, noise: TrainingNoise, rows: slice
    ) -> torch.Tensor:
        """E‖e^t − φ_text(e^t_s, s, e^a)‖² + E‖e^a − φ_audio(e^a_s, s, e^t)‖²."""
        if not len(source):
            raise DataError("source", "is empty", "DiffGAP learns from matched pairs only")
        target = target[: len(source)]
        loss = target.new_zeros(())
        for side, clean, condition in (("text", target, source), ("audio", source, target)):
            state, timesteps = noise.add_to(clean)
            predicted = self(state[rows], timesteps[rows], condition[rows], side)
            loss = loss + squared_error(clean[rows], predicted.float())
        return loss

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        return self._generate("text", embeds, modality, **options)

    @apply_forward_hook
    @torch.no_grad()
    def bridge_to_audio(
        self,
        embeds: torch.Tensor,
        modality: Modality = "text",
        *,
        scheduler: DDIMScheduler | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
    ) -> torch.Tensor:
        """The other direction: audio embeddings given text. Arguments, result and errors as `bridge`."""
        options = {
            "scheduler": scheduler,
            "generator": generator,
            "noise": noise,
            "num_inference_steps": num_inference_steps,
        }
        check_call(embeds, modality, self.config.embedding_dim, **options)
        with evaluating(self):
            generated = self._generate("audio", rescale_rows(embeds), modality, **options)
        return F.normalize(generated, dim=-1).to(embeds.dtype)

    def _generate(
        self,
        side: Modality,
        embeds: torch.Tensor,
        modality: Modality,
        *,
        scheduler: DDIMScheduler | None,
        generator: torch.Generator | list[torch.Generator] | None,
        noise: torch.Tensor | None,
        num_inference_steps: int | None,
        **options: Any,
    ) -> torch.Tensor:
        """(B, D) checked embeddings → (B, D) ones of ``side``, of any norm."""
        scheduler = scheduler or make_scheduler()
        check_scheduler(scheduler)
        last = scheduler.config.num_train_timesteps
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        condition = self.normalize(embeds, modality)
        start = self.draw_noise(len(embeds), generator, noise).to(condition.device, condition.dtype)

        def sample(side: Modality, condition: torch.Tensor) -> torch.Tensor:
            def predict(state: torch.Tensor, timestep: int) -> torch.Tensor:
                return self(state.to(self.dtype), timestep, condition.to(self.dtype), side)

            return ddim_sample(predict, start.expand_as(condition), scheduler, shallow_timesteps(last, steps))

        if modality == side and self.config.text_input == "cycle":
            between = sample("audio" if side == "text" else "text", condition)
            condition = F.normalize(between, dim=-1) * self.config.scale
        return sample(side, condition)
