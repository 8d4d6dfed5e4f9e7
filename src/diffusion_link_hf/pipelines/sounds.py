"""What pipelines share that listen: CLAP, the link behind it, and the level of silence."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler

from ..audio import SAMPLING_RATE, WINDOW_SAMPLES, AudioWindow
from ..bridges.base import BridgeModel, Modality, check_call, check_noise_is_used
from ..bridges.sampling import check_scheduler, make_scheduler
from ..errors import InputError, ModelFolderError
from ..models.caption_scorer import CaptionScorer
from ..models.clap import ClapEncoder
from ..models.levels import loudest_dbfs
from ..tensors import dense_floats
from .base import FolderPipeline
from .listening import Heard, Recording, hear


class SoundPipeline(FolderPipeline):
    """Embeds sounds with CLAP, and bridges their embeddings.

    Args:
        clap: frozen CLAP.
        link: bridge from audio to text-like embeddings, or None.
        scheduler: noise process of the link.
        scorer: tells silence; or None.
    """

    _optional_components: ClassVar[list[str]] = ["link", "scheduler", "scorer"]
    _newer_components = ("scorer",)

    def __init__(
        self,
        clap: ClapEncoder,
        link: BridgeModel | None = None,
        scheduler: DDIMScheduler | None = None,
        scorer: CaptionScorer | None = None,
    ):
        super().__init__()
        self.register_modules(
            clap=clap,
            link=link,
            scheduler=make_scheduler() if link is not None and scheduler is None else scheduler,
            scorer=scorer,
        )

    def check_components(self, item: object) -> None:
        self._check_width(item, "link", self.link)
        if self.scheduler is not None:
            try:
                check_scheduler(self.scheduler)
            except InputError as error:
                raise ModelFolderError(item, f"{error.item} {error.problem}", error.remedy) from error

    def _check_width(self, item: object, name: str, component: ConfigMixin | None) -> None:
        width = self.clap.embedding_dim
        if component is not None and component.config.embedding_dim != width:
            raise ModelFolderError(
                item,
                f"{name} takes embeddings {component.config.embedding_dim} wide, clap makes them {width} wide",
                "Use components that were trained together",
            )

    def encode_audio(self, windows: torch.Tensor | np.ndarray | Sequence[AudioWindow]) -> torch.Tensor:
        """Ten-second windows at 48 kHz → CLAP embeddings.

        Args:
            windows: (B, 480000) finite floats, full scale ±1, or a list of `AudioWindow`; B may be 0.

        Returns:
            (B, D) unit rows, float32.

        Raises:
            InputError: anything else, such as windows of another length, or with NaN or infinity.
        """
        if isinstance(windows, (list, tuple)) and all(isinstance(window, AudioWindow) for window in windows):
            samples = [window.samples for window in windows]
            windows = np.stack(samples) if samples else np.empty((0, WINDOW_SAMPLES), np.float32)
        return self.clap(waveforms=dense_floats(windows, "windows").to(self._execution_device))

    def bridge(
        self,
        embeds: torch.Tensor,
        modality: Modality = "audio",
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        noise_timestep: int | None = None,
        add_noise: bool | None = None,
    ) -> torch.Tensor:
        """CLAP embeddings → text-like ones; without a link they come back as they are, after the same checks.

        Args, returns and raises as `BridgeModel.bridge`; also InputError for ``noise`` though ``add_noise`` is False.
        """
        options = {
            "scheduler": self.scheduler,
            "generator": generator,
            "noise": noise,
            "num_inference_steps": num_inference_steps,
            "noise_timestep": noise_timestep,
            "add_noise": add_noise,
        }
        check_noise_is_used(self.link, noise, add_noise)
        if self.link is None:
            check_call(embeds, modality, self.clap.embedding_dim, **options)
            return embeds
        return self.link.bridge(dense_floats(embeds, "embeds").to(self._execution_device), modality, **options)

    def _hear(
        self, recordings: Iterable[Recording], batch_size: int, hop_seconds: float, max_duration: float | None
    ) -> Iterator[list[Heard]]:
        return hear(recordings, self._encode, self._is_silent, batch_size, hop_seconds, max_duration)

    @torch.no_grad()
    def _encode(self, windows: np.ndarray) -> torch.Tensor:
        return self.encode_audio(windows)

    def _is_silent(self, samples: np.ndarray) -> bool:
        """(480000,) below the scorer's level of silence."""
        if self.scorer is None:
            return False
        level = loudest_dbfs(torch.from_numpy(samples)[None], SAMPLING_RATE)
        return bool(level < self.scorer.config.silence_dbfs)


def check_batch_size(batch_size: object) -> None:
    """Raises InputError for what is no number of windows."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError("batch_size", f"is {batch_size!r}", "Use a whole number of at least 1")
