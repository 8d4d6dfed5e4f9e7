"""The pipeline behind search and classification: CLAP and the bridge, without a language model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..audio import WINDOW_SECONDS
from ..errors import InputError
from .listening import Heard, Recording, average
from .sounds import SoundPipeline, check_batch_size


class SoundSearchPipeline(SoundPipeline):
    """Embeds sounds and texts for `index_sounds`, `SoundIndex` and `classify_sounds`.

    `from_pretrained` also reads the folder or repository of an `AudioCaptionPipeline` (such as "tiny") and leaves its
    language model out; `from_pipe` takes one that is loaded.

    Args:
        clap: frozen CLAP.
        link: bridge from audio to text-like embeddings, which search and classification use on request; or None.
        scheduler: noise process of the link.
        scorer: tells silence, which is not embedded; or None.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import SoundSearchPipeline
        >>> pipe = SoundSearchPipeline.from_pretrained("tiny")
        >>> noise = np.random.default_rng(0).normal(0, 0.05, 48_000)
        >>> pipe.encode_sound(noise, 48_000).shape, pipe.encode_text(["Rain", "A dog"]).shape
        (torch.Size([1, 512]), torch.Size([2, 512]))
    """

    model_cpu_offload_seq = "clap->link"
    _hub_components = ("clap",)
    _also_reads = ("AudioCaptionPipeline",)

    @property
    def logit_scale(self) -> float | None:
        """What CLAP multiplies cosines with before a softmax, exp of its ``logit_scale_a``; None where it has none."""
        scale = getattr(self.clap.model, "logit_scale_a", None)
        return None if scale is None else float(scale.detach().float().exp())

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → (B, D) unit rows, float32; see `ClapEncoder.encode_text`."""
        return self.clap.encode_text(texts)

    @torch.no_grad()
    def encode_sound(self, audio: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """One recording of any length → the mean embedding of its windows, renormalized.

        Args:
            audio, sampling_rate: as `load_audio`.

        Returns:
            (1, D) unit row, float32.

        Raises:
            AudioError: it cannot be read.
            InputError: it is silent from start to end.
        """
        heard = (one for batch in self.hear([Recording(audio, sampling_rate)]) for one in batch)
        rows = list(average(heard))
        if rows[-1].error is not None:
            raise rows[-1].error
        if rows[0].embed is None:
            raise InputError("query", "is silent", "Use a recording in which something can be heard")
        return rows[0].embed[None]

    @torch.no_grad()
    def bridge_rows(self, embeds: torch.Tensor, rows_at_a_time: int = 4096) -> torch.Tensor:
        """Any number of audio embeddings → text-like ones.

        Args:
            embeds: (N, D) floats.
            rows_at_a_time: how many the link maps at once.

        Returns:
            (N, D) unit rows, float32, on the CPU.

        Raises:
            InputError: the pipeline has no link.
        """
        if self.link is None:
            raise InputError("bridge", "is asked for, but the pipeline has no link", "Use a pipeline that has one")
        if not len(embeds):
            return embeds
        parts = [self.bridge(part, "audio").float().cpu() for part in embeds.split(rows_at_a_time)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def hear(
        self,
        recordings: Iterable[Recording],
        *,
        batch_size: int = 32,
        hop_seconds: float = WINDOW_SECONDS,
        max_duration: float | None = None,
    ) -> Iterator[list[Heard]]:
        """The windows of many recordings with their embeddings, batch by batch; see `listening.hear`.

        Raises:
            InputError: ``batch_size`` below 1, or ``hop_seconds`` out of range.
        """
        check_batch_size(batch_size)
        return self._hear(recordings, batch_size, hop_seconds, max_duration)

    def _encode(self, windows: np.ndarray) -> torch.Tensor:
        return super()._encode(windows).float().cpu()
