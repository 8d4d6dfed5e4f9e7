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
        score: how probable it is that ``text`` names what is heard, 0 to 1; None from a pipeline without a scorer.
        alternative_scores: those of ``alternatives``, empty without a scorer.
    """

    start: float
    end: float
    text: str
    alternatives: tuple[str, ...] = field(default=())
    score: float | None = None
    alternative_scores: tuple[float, ...] = field(default=())


@dataclass
class AudioCaptionPipelineOutput(BaseOutput):
    """Output of `AudioCaptionPipeline`; entry i of each list belongs to input i.

    Attributes:
        captions: one string per input and returned sequence, input by input. Of a recording with several windows, the
            windows' captions, joined by ". ". None for an input that failed in a batch.
        segments: per input its `CaptionSegment` objects in time order; empty for a failed one.
        errors: per input None, or the `AudioError` that says why it has no caption.
        scores: per entry of ``captions`` how probable it is to be right, 0 to 1; of several windows the mean, which is
            the share of right captions to expect. None for a failed input, and from a pipeline without a scorer.
    """

    captions: list[str | None]
    segments: list[list[CaptionSegment]]
    errors: list[AudioError | None]
    scores: list[float | None] = field(default_factory=list)


@dataclass
class DiffusionLinkPipelineOutput(BaseOutput):
    """Output of `DiffusionLinkPipeline`.

    Attributes:
        embeds: (B, D) unit-norm text-like embeddings, a tensor or an array as asked for.
    """

    embeds: torch.Tensor | np.ndarray
