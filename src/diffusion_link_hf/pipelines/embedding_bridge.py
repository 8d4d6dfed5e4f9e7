"""The bridge alone: embeddings of either modality in, text-like embeddings out."""

from typing import ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler

from ..bridges.base import BridgeModel, Modality, check_noise_is_used
from ..bridges.sampling import make_scheduler
from ..errors import InputError
from ..tensors import dense_floats
from .base import FolderPipeline
from .output import DiffusionLinkPipelineOutput


class DiffusionLinkPipeline(FolderPipeline):
    """Maps CLAP embeddings that you already have to text-like ones (arXiv 2510.11330).

    `from_pretrained` also reads the folder or repository of an `AudioCaptionPipeline` (such as "tiny"), and `from_pipe`
    takes one that is loaded; both use its link and scheduler.

    Args:
        link: any `BridgeModel`.
        scheduler: its noise process.
    """

    model_cpu_offload_seq = "link"
    _optional_components: ClassVar[list[str]] = ["scheduler"]
    _also_reads = ("AudioCaptionPipeline",)

    def __init__(self, link: BridgeModel, scheduler: DDIMScheduler | None = None):
        super().__init__()
        self.register_modules(link=link, scheduler=scheduler or make_scheduler())

    @torch.no_grad()
    def __call__(
        self,
        embeds: torch.Tensor | np.ndarray,
        modality: Modality = "audio",
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        noise_timestep: int | None = None,
        add_noise: bool | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> DiffusionLinkPipelineOutput | tuple:
        """Bridge a batch of embeddings.

        Args:
            embeds: (B, D) dense floats of 16 to 64 bits, of any norm but zero; an empty batch gives an empty result.
            modality: "audio" or "text", where they come from.
            generator, noise, num_inference_steps, noise_timestep, add_noise: see `BridgeModel.bridge`. A generator is
                unused where nothing is noised.
            output_type: "pt" for a tensor, "np" for an array, which is float32 where the embeddings are bfloat16.
            return_dict: whether to return an output object or a tuple.

        Raises:
            InputError: see `BridgeModel.bridge`; masked values; or ``noise`` though ``add_noise`` is False.

        Examples:
            >>> import torch
            >>> from diffusion_link_hf import DiffusionLinkPipeline
            >>> pipe = DiffusionLinkPipeline.from_pretrained("tiny")
            >>> text_like = pipe(torch.randn(4, 512), "audio").embeds
            >>> text_like.shape, text_like.norm(dim=-1).mean().round(decimals=3).item()
            (torch.Size([4, 512]), 1.0)
        """
        if output_type not in ("pt", "np"):
            raise InputError("output_type", f"is {output_type!r}", "Use 'pt' or 'np'")
        check_noise_is_used(self.link, noise, add_noise)
        result = self.link.bridge(
            dense_floats(embeds, "embeds").to(self._execution_device),
            modality,
            scheduler=self.scheduler,
            generator=generator,
            noise=noise,
            num_inference_steps=num_inference_steps,
            noise_timestep=noise_timestep,
            add_noise=add_noise,
        )
        self.maybe_free_model_hooks()
        if output_type == "np":
            result = result.cpu()
            result = (result.float() if result.dtype == torch.bfloat16 else result).numpy()
        return DiffusionLinkPipelineOutput(embeds=result) if return_dict else (result,)
