"""What the pipelines return."""

from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers.utils import BaseOutput

from ..errors import AudioError


@dataclass(frozen=True)
class CaptionSegment:
    """The caption of one window of a recording.

    Attributes:
        start, end: seconds in the recording.
        text: the caption.
        alternatives: further captions, when ``num_return_sequences`` asks for several.
    """

    start: float
    end: float
    text: str
    alternatives: tuple[str, ...] = field(default=())


@dataclass
class AudioCaptionPipelineOutput(BaseOutput):
    """Output of `AudioCaptionPipeline`; entry i of each list belongs to input i.

    Attributes:
        captions: one string per input and returned sequence, input by input. Of a recording with several windows, the
            windows' captions, joined by ". ". None for an input that failed in a batch.
        segments: per input its `CaptionSegment` objects in time order; empty for a failed one.
        errors: per input None, or the `AudioError` that says why it has no caption.
    """

    captions: list[str | None]
    segments: list[list[CaptionSegment]]
    errors: list[AudioError | None]


@dataclass
class DiffusionLinkPipelineOutput(BaseOutput):
    """Output of `DiffusionLinkPipeline`.

    Attributes:
        embeds: (B, D) unit-norm text-like embeddings, a tensor or an array as asked for.
    """

    embeds: torch.Tensor | np.ndarray
