"""The main pipeline: recordings in, captions out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging

from ..audio import AudioInput, AudioWindow, load_audio, split_windows
from ..clap import ClapEncoder
from ..decoder import CaptionDecoder
from ..errors import AudioError, InputError, ModelFolderError
from ..hub.loading import LoadPath, read_json, resolve_folder
from ..hub.pipeline_folder import INDEX, FolderPipeline
from ..models.bridge import BridgeModel, Modality
from ..models.prefix_projector import PrefixProjector
from ..sampling import check_scheduler, make_scheduler
from .output import AudioCaptionPipelineOutput, CaptionSegment

logger = logging.get_logger(__name__)

LONG_AUDIO = ("windows", "average")
Span = tuple[int, float, float]  # item, start and end in seconds


class AudioCaptionPipeline(FolderPipeline):
    """Audio captioning through CLAP, a link that closes its modality gap, and a language model (arXiv 2510.11330).

    Args:
        clap: frozen CLAP.
        link: bridge from audio to text-like embeddings, or None: the paper's baseline, raw CLAP embeddings.
        scheduler: noise process of the link.
        projector: embedding to soft prefix.
        decoder: causal language model that reads the prefix.
    """

    model_cpu_offload_seq = "clap->link->projector->decoder"
    _optional_components: ClassVar[list[str]] = ["link", "scheduler"]
    _hub_components = ("clap", "decoder")

    def __init__(
        self,
        clap: ClapEncoder,
        projector: PrefixProjector,
        decoder: CaptionDecoder,
        link: BridgeModel | None = None,
        scheduler: DDIMScheduler | None = None,
    ):
        super().__init__()
        self.register_modules(
            clap=clap,
            projector=projector,
            decoder=decoder,
            link=link,
            scheduler=make_scheduler() if link is not None and scheduler is None else scheduler,
        )

    def check_components(self, item: object) -> None:
        width = self.clap.embedding_dim
        for name, component in (("link", self.link), ("projector", self.projector)):
            if component is not None and component.config.embedding_dim != width:
                raise ModelFolderError(
                    item,
                    f"{name} takes embeddings {component.config.embedding_dim} wide, clap makes them {width} wide",
                    "Use components that were trained together",
                )
        if self.projector.config.hidden_size != self.decoder.hidden_size:
            raise ModelFolderError(
                item,
                f"projector is {self.projector.config.hidden_size} wide, decoder {self.decoder.hidden_size}",
                "Use components that were trained together",
            )
        if self.scheduler is not None:
            try:
                check_scheduler(self.scheduler)
            except InputError as error:
                raise ModelFolderError(item, f"{error.item} {error.problem}", error.remedy) from error

    @classmethod
    def from_config(
        cls, folder: LoadPath | None = None, *, clap: dict | None = None, decoder: dict | None = None, **components
    ):
        """Build the architecture of a folder with random weights, without a network.

        Args:
            folder: as for `from_pretrained`; only configuration files are read.
            clap, decoder: overrides of the audio config and of the base model's config, to build it smaller; the
                projector follows the decoder's width.
            components: ready-made ones, by name.
        """
        folder = resolve_folder(folder)
        index = read_json(folder / INDEX)
        parts: dict[str, Any] = {
            "clap": ClapEncoder.from_config(folder / "clap", **(clap or {})),
            "decoder": CaptionDecoder.from_config(folder / "decoder", **(decoder or {})),
        } | components
        for name in ("link", "projector", "scheduler"):
            if name in parts:
                continue
            if index.get(name) == [None, None]:
                parts[name] = None
                continue
            component_class = cls._component_class(folder, name, index.get(name))
            config = component_class.load_config(folder / name)
            if name == "projector":
                config["hidden_size"] = parts["decoder"].hidden_size
            parts[name] = component_class.from_config(config)
            if isinstance(parts[name], torch.nn.Module):
                parts[name].eval()
        pipeline = cls(**parts)
        pipeline.check_components(folder)
        return pipeline

    def check_inputs(
        self,
        batch_size: int,
        long_audio: str,
        generator: torch.Generator | None = None,
        generation: Mapping[str, Any] | None = None,
        generation_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises InputError for options that `__call__` cannot use, before anything is read or computed."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError("batch_size", f"is {batch_size!r}", "Use a whole number of at least 1")
        if long_audio not in LONG_AUDIO:
            raise InputError(
                "long_audio", f"is {long_audio!r}", "Use 'windows' (a caption each) or 'average' (one caption)"
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError("generator", f"is a {type(generator).__name__}", "Pass one torch.Generator")
        if generation_kwargs is not None and not isinstance(generation_kwargs, Mapping):
            raise InputError("generation_kwargs", f"is a {type(generation_kwargs).__name__}", "Pass a mapping")
        generation, more = generation or {}, generation_kwargs or {}
        twice = sorted(set(generation) & set(more))
        if twice:
            raise InputError("generation_kwargs", f"has {', '.join(twice)}", "Pass that as an argument of its own")
        self.decoder.generation_config(**generation, **more)

    def encode_audio(self, windows: torch.Tensor | np.ndarray | Sequence[AudioWindow]) -> torch.Tensor:
        """Ten-second windows at 48 kHz, (B, 480000) floats or `AudioWindow` objects → (B, D) unit CLAP embeddings."""
        if not isinstance(windows, (torch.Tensor, np.ndarray)):
            windows = np.stack([window.samples for window in windows])
        return self.clap(waveforms=torch.as_tensor(windows).to(self._execution_device))

    def bridge(self, embeds: torch.Tensor, modality: Modality = "audio", **options) -> torch.Tensor:
        """(B, D) CLAP embeddings → (B, D) text-like ones, unchanged without a link; see `DiffusionLinkModel.bridge`."""
        if self.link is None:
            return embeds
        return self.link.bridge(embeds.to(self._execution_device), modality, scheduler=self.scheduler, **options)

    def decode(self, embeds: torch.Tensor, **options) -> list[list[str]]:
        """(B, D) text-like embeddings → B lists of captions. Options as `CaptionDecoder.generate`."""
        prefix = self.projector(embeds.to(self._execution_device, self.projector.dtype))
        return self.decoder.generate(prefix, **options)

    @torch.no_grad()
    def __call__(
        self,
        audio: AudioInput | Iterable[AudioInput],
        sampling_rate: int | None = None,
        *,
        generator: torch.Generator | None = None,
        num_inference_steps: int | None = None,
        noise_timestep: int | None = None,
        add_noise: bool | None = None,
        batch_size: int = 32,
        long_audio: str = "windows",
        num_return_sequences: int = 1,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        do_sample: bool = False,
        generation_kwargs: Mapping[str, Any] | None = None,
        return_dict: bool = True,
    ) -> AudioCaptionPipelineOutput | tuple:
        """Caption one recording, or many.

        Args:
            audio: whatever `load_audio` takes (path, bytes, array, {"array", "sampling_rate"} …), or a list or other
                iterable of those, such as a column of `datasets`.
            sampling_rate: Hz, of bare arrays.
            generator: noise of the link and randomness of sampling; without one the link's noise is fixed.
            num_inference_steps, noise_timestep, add_noise: override the link's configuration.
            batch_size: windows computed at once; captions do not depend on it, sampled ones excepted.
            long_audio: beyond 10 s, "windows" captions each ten-second window, "average" captions the mean embedding.
            num_return_sequences: captions per window; more than one needs ``num_beams`` or ``do_sample``.
            max_new_tokens, num_beams, do_sample: as `transformers` generation.
            generation_kwargs: further fields of `transformers.GenerationConfig`.
            return_dict: whether to return an `AudioCaptionPipelineOutput` or a tuple of its fields.

        Returns:
            Captions, segments and errors, input by input. In a list, an item that cannot be read is reported in
            ``errors`` and the others are captioned.

        Raises:
            AudioError: the one recording, given alone, cannot be read.
            InputError: an option out of range, found before any recording is read where it can be.

        Example:
            >>> pipe = AudioCaptionPipeline.from_pretrained("tiny")
            >>> pipe("dog.ogg").captions
            ['A dog barks']
        """
        generation = {
            "num_return_sequences": num_return_sequences,
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
            "do_sample": do_sample,
        }
        self.check_inputs(batch_size, long_audio, generator, generation, generation_kwargs)
        single = _is_one(audio)
        items = [audio] if single else list(audio)
        if not single and items and isinstance(items[0], (int, float)):
            raise InputError("audio", "is a list of numbers", "Pass samples as an array, with sampling_rate=")
        # Every batch shares one draw of noise, or a caption would depend on the batch that it is in.
        noise_seed = None if generator is None else _seed(generator)
        spans, embeds, errors = self._encode_items(items, sampling_rate, single, batch_size)
        if long_audio == "average":
            spans, embeds = _average(spans, embeds)
        texts: list[list[str]] = []
        for k in range(0, len(spans), batch_size):
            bridged = self.bridge(
                embeds[k : k + batch_size],
                "audio",
                generator=None if noise_seed is None else torch.Generator().manual_seed(noise_seed),
                num_inference_steps=num_inference_steps,
                noise_timestep=noise_timestep,
                add_noise=add_noise,
            )
            texts += self.decode(bridged, generator=generator, **generation, **(generation_kwargs or {}))
        self.maybe_free_model_hooks()

        segments: list[list[CaptionSegment]] = [[] for _ in items]
        for (owner, start, end), row in zip(spans, texts, strict=True):
            segments[owner].append(CaptionSegment(start, end, row[0], tuple(row[1:])))
        captions: list[str | None] = []
        for own in segments:
            for k in range(num_return_sequences):
                parts = [(segment.text, *segment.alternatives)[k] for segment in own]
                captions.append(". ".join(parts) if parts else None)
        if not return_dict:
            return captions, segments, errors
        return AudioCaptionPipelineOutput(captions=captions, segments=segments, errors=errors)

    def _encode_items(self, items: list, sampling_rate: int | None, single: bool, batch_size: int):
        """(item, start, end) of all windows, their embeddings (N, D), errors by item; holds one batch of samples."""
        spans: list[Span] = []
        errors: list[AudioError | None] = [None] * len(items)
        embeds: list[torch.Tensor] = []
        waiting: list[np.ndarray] = []
        for i, item in enumerate(self.progress_bar(items)):
            bare = isinstance(item, np.ndarray) or (hasattr(item, "__array__") and not isinstance(item, Mapping))
            try:
                samples = load_audio(
                    item, sampling_rate if bare or single else None, name=None if single else _name(item, i)
                )
            except AudioError as error:
                if single:
                    raise
                logger.warning("No caption for %s", error)
                errors[i] = error
                continue
            for window in split_windows(samples):
                spans.append((i, window.start, window.end))
                waiting.append(window.samples)
                if len(waiting) == batch_size:
                    embeds.append(self.encode_audio(np.stack(waiting)))
                    waiting.clear()
        if waiting:
            embeds.append(self.encode_audio(np.stack(waiting)))
        return spans, torch.cat(embeds) if embeds else torch.empty(0, self.clap.embedding_dim), errors


def _name(item: Any, index: int) -> str | None:
    """How errors call an item of a batch; None where its path says it already."""
    has_path = isinstance(item.get("path") if isinstance(item, Mapping) else item, (str, os.PathLike))
    return None if has_path else f"audio[{index}]"


def _is_one(audio: Any) -> bool:
    """Whether this is one recording; otherwise it is an iterable of them."""
    if isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview, Mapping)):
        return True
    return hasattr(audio, "__array__") or hasattr(audio, "read") or not isinstance(audio, Iterable)


def _seed(generator: torch.Generator) -> int:
    """A seed drawn from a generator, which moves on: two calls with it differ, two equal generators agree."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def _average(spans: list[Span], embeds: torch.Tensor) -> tuple[list[Span], torch.Tensor]:
    """One entry per recording: its windows' mean embedding, renormalised, from its start to its end."""
    own: dict[int, list[int]] = {}
    for k, (owner, _, _) in enumerate(spans):
        own.setdefault(owner, []).append(k)
    if not own:
        return spans, embeds
    means = torch.stack([embeds[rows].mean(0) for rows in own.values()])
    merged = [(owner, spans[rows[0]][1], spans[rows[-1]][2]) for owner, rows in own.items()]
    return merged, torch.nn.functional.normalize(means, dim=-1)
