"""The main pipeline: recordings in, captions out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging

from ..audio import (
    WINDOW_SAMPLES,
    AudioInput,
    AudioWindow,
    check_sampling_rate,
    is_decoded,
    load_audio,
    split_windows,
)
from ..bridges.base import BridgeModel, Modality, check_call, check_noise_is_used
from ..bridges.sampling import check_scheduler, make_scheduler
from ..errors import AudioError, InputError, ModelFolderError
from ..loading import INDEX, LoadPath, read_json, resolve_folder
from ..models.clap import ClapEncoder
from ..models.decoder import CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from ..tensors import check_embeddings, dense_floats, rescale_rows
from .base import FolderPipeline
from .output import AudioCaptionPipelineOutput, CaptionSegment

logger = logging.get_logger(__name__)

LONG_AUDIO = ("windows", "average")
Span = tuple[int, float, float]  # item, start and end in seconds


class AudioCaptionPipeline(FolderPipeline):
    """Audio captioning through CLAP, a link that closes its modality gap, and a language model (arXiv 2510.11330).

    It shows no progress bar unless asked to: ``pipe.set_progress_bar_config(disable=False)``.

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
    _large_component = "decoder"

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
        bridging: Mapping[str, Any] | None = None,
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
        prefix_tokens = self.projector.config.num_prefix_tokens
        self.decoder.check_length(prefix_tokens, generation.get("max_new_tokens", 1))
        # The link itself knows what it takes, and an empty batch costs it nothing.
        self.bridge(torch.empty(0, self.clap.embedding_dim), **(bridging or {}))

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

    def decode(self, embeds: torch.Tensor, **options) -> list[list[str]]:
        """Text-like embeddings → captions.

        Args:
            embeds: (B, D) dense floats of any norm but zero: rows are L2-normalized, as the projector was trained.
            options: as `CaptionDecoder.generate`.

        Returns:
            B lists of ``num_return_sequences`` captions.

        Raises:
            InputError: a wrong shape, width or dtype; NaN, infinite or all-zero rows; see `CaptionDecoder.generate`.
        """
        check_embeddings(embeds, self.clap.embedding_dim)
        return self._decode(embeds, **options)

    def _decode(self, embeds: torch.Tensor, **options) -> list[list[str]]:
        """`decode` of what the link returned: one that was never trained returns zeros, which are no user's mistake."""
        unit = torch.nn.functional.normalize(rescale_rows(embeds).float(), dim=-1)
        prefix = self.projector(unit.to(self._execution_device, self.projector.dtype))
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
            audio: whatever `load_audio` takes (path, bytes, array, (tensor, Hz), {"array", "sampling_rate"} …), or a
                list or other iterable of those, such as a column of `datasets` or of a data frame.
            sampling_rate: Hz, of arrays that come without one, alone or in a list; in a list of encoded audio alone,
                and beside a mapping that says another, it is refused.
            generator: noise of the link and randomness of sampling; without one the link's noise is fixed. Unused
                where nothing is noised or sampled.
            num_inference_steps, noise_timestep, add_noise: override the link's configuration; checked, but of no
                effect, without a link.
            batch_size: windows computed at once; captions do not depend on it, sampled ones excepted.
            long_audio: beyond 10 s, "windows" captions each ten-second window, "average" captions the mean embedding.
            num_return_sequences: captions per window; more than one needs ``num_beams`` or ``do_sample``.
            max_new_tokens, num_beams, do_sample: as `transformers` generation.
            generation_kwargs: further fields of `transformers.GenerationConfig`; `CaptionDecoder.generate` says which
                are refused (``max_length``, assisted decoding, guidance …).
            return_dict: whether to return an `AudioCaptionPipelineOutput` or a tuple of its fields.

        Returns:
            Captions, segments and errors, input by input. In a list, an item that cannot be read is reported in
            ``errors`` and the others are captioned.

        Raises:
            AudioError: the one recording, given alone, cannot be read; or ``sampling_rate`` does not fit the list.
            InputError: an option out of range, found before any recording is read where it can be.

        Examples:
            >>> import numpy as np
            >>> from diffusion_link_hf import AudioCaptionPipeline
            >>> pipe = AudioCaptionPipeline.from_pretrained("tiny")
            >>> noise = np.random.default_rng(0).normal(0, 0.05, 12 * 44_100)  # twelve seconds: two windows
            >>> output = pipe(noise, 44_100, long_audio="average")
            >>> isinstance(output.captions[0], str), output.errors
            (True, [None])
            >>> [(segment.start, segment.end) for segment in pipe((noise, 44_100)).segments[0]]
            [(0.0, 10.0), (10.0, 12.0)]
        """
        generation = {
            "num_return_sequences": num_return_sequences,
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
            "do_sample": do_sample,
        }
        bridging = {
            "num_inference_steps": num_inference_steps,
            "noise_timestep": noise_timestep,
            "add_noise": add_noise,
        }
        self.check_inputs(batch_size, long_audio, generator, generation, generation_kwargs, bridging)
        audio = _unpacked(audio)
        single = _is_one(audio)
        items = [audio] if single else list(audio)
        if not single and items and isinstance(items[0], (int, float)):
            raise InputError("audio", "is a list of numbers", "Pass samples as an array, with sampling_rate=")
        if not single and sampling_rate is not None:
            check_sampling_rate(items, sampling_rate)
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
                **bridging,
            )
            texts += self._decode(bridged, generator=generator, **generation, **(generation_kwargs or {}))
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
            rate = sampling_rate if single or is_decoded(item) else None
            try:
                samples = load_audio(item, rate, name=None if single else _name(item, i))
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


def _unpacked(audio: Any) -> Any:
    """A column of paths or rows, as NumPy and data frames have it, as a list; anything else as it is."""
    if isinstance(audio, (torch.Tensor, Mapping)) or not hasattr(audio, "__array__"):
        return audio
    try:
        array = np.asarray(audio)
    except Exception:  # of a library of its own; `load_audio` says what is wrong with it
        return audio
    return array.tolist() if array.dtype.kind in "OTU" and array.ndim < 2 else audio


def _is_one(audio: Any) -> bool:
    """Whether this is one recording; otherwise it is an iterable of them."""
    if isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview, Mapping)):
        return True
    return is_decoded(audio) or hasattr(audio, "read") or not isinstance(audio, Iterable)


def _seed(generator: torch.Generator) -> int:
    """A seed drawn from a generator, which moves on: two calls with it differ, two equal generators agree."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def _average(spans: list[Span], embeds: torch.Tensor) -> tuple[list[Span], torch.Tensor]:
    """One entry per recording: its windows' mean embedding, renormalized, from its start to its end."""
    own: dict[int, list[int]] = {}
    for k, (owner, _, _) in enumerate(spans):
        own.setdefault(owner, []).append(k)
    if not own:
        return spans, embeds
    means = torch.stack([embeds[rows].mean(0) for rows in own.values()])
    merged = [(owner, spans[rows[0]][1], spans[rows[-1]][2]) for owner, rows in own.items()]
    return merged, torch.nn.functional.normalize(means, dim=-1)
