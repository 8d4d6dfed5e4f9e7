"""The main pipeline: recordings in, captions out."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging

from ..audio import (
    WINDOW_SECONDS,
    AudioInput,
    check_sampling_rate,
    is_decoded,
)
from ..bridges.base import BridgeModel
from ..errors import AudioError, InputError, ModelFolderError
from ..loading import INDEX, LoadPath, read_json, resolve_folder
from ..models.caption_scorer import SILENCE_CAPTION, CaptionScorer, check_unknown_below
from ..models.clap import ClapEncoder
from ..models.decoder import CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from ..tensors import check_embeddings, draw_seed, rescale_rows
from .listening import Heard, Recording, average
from .output import AudioCaptionPipelineOutput, CaptionSegment
from .sounds import SoundPipeline, check_batch_size

logger = logging.get_logger(__name__)

LONG_AUDIO = ("windows", "average")


class AudioCaptionPipeline(SoundPipeline):
    """Audio captioning through CLAP, a link that closes its modality gap, and a language model (arXiv 2510.11330).

    It shows no progress bar unless asked to: ``pipe.set_progress_bar_config(disable=False)``.

    Args:
        clap: frozen CLAP.
        link: bridge from audio to text-like embeddings, or None: the paper's baseline, raw CLAP embeddings.
        scheduler: noise process of the link.
        projector: embedding to soft prefix.
        decoder: causal language model that reads the prefix.
        scorer: makes a score for every caption, hedges where it is low, and tells silence; or None.
    """

    model_cpu_offload_seq = "clap->link->projector->decoder"
    _hub_components = ("clap", "decoder")
    _large_component = "decoder"

    def __init__(
        self,
        clap: ClapEncoder,
        projector: PrefixProjector,
        decoder: CaptionDecoder,
        link: BridgeModel | None = None,
        scheduler: DDIMScheduler | None = None,
        scorer: CaptionScorer | None = None,
    ):
        super().__init__(clap, link, scheduler, scorer)
        self.register_modules(projector=projector, decoder=decoder)

    def check_components(self, item: object) -> None:
        super().check_components(item)
        self._check_width(item, "projector", self.projector)
        if self.projector.config.hidden_size != self.decoder.hidden_size:
            raise ModelFolderError(
                item,
                f"projector is {self.projector.config.hidden_size} wide, decoder {self.decoder.hidden_size}",
                "Use components that were trained together",
            )

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
        for name in ("link", "projector", "scheduler", "scorer"):
            if name in parts:
                continue
            if index.get(name) == [None, None] or (name in cls._newer_components and name not in index):
                parts[name] = None
                continue
            component_class = cls._component_class(folder, name, index.get(name))
            if name == "scorer":  # it has no weights
                parts[name] = component_class.from_pretrained(folder / name)
                continue
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
        unknown_below: float | None = None,
    ) -> None:
        """Raises InputError for options that `__call__` cannot use, before anything is read or computed."""
        check_batch_size(batch_size)
        if long_audio not in LONG_AUDIO:
            raise InputError(
                "long_audio", f"is {long_audio!r}", "Use 'windows' (a caption each) or 'average' (one caption)"
            )
        if unknown_below is not None:
            check_unknown_below(unknown_below)
            if self.scorer is None:
                raise InputError("unknown_below", f"is {unknown_below}", "This pipeline has no scorer: leave it out")
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
        return self.decoder.generate(self._prefix(embeds), **options)

    def _prefix(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) of any norm → (B, m, h) soft prefix."""
        unit = torch.nn.functional.normalize(rescale_rows(embeds).float(), dim=-1)
        return self.projector(unit.to(self._execution_device, self.projector.dtype))

    @torch.no_grad()
    def caption_features(
        self, embeds: torch.Tensor, captions: Sequence[str], bridged: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What a `CaptionScorer` judges captions by.

        Args:
            embeds: (B, D) audio embeddings of `encode_audio`.
            captions: one for each row.
            bridged: (B, D) what `bridge` makes of ``embeds``, where it is known already.

        Returns:
            (B, 4) float32: cosine of audio and caption embedding, mean log-probability per token, number of tokens, and
            `ClapEncoder.log_certainty`. A row does not depend on the others.

        Raises:
            InputError: see `bridge`; or another number of captions.
        """
        if isinstance(captions, str) or len(captions) != len(embeds):
            raise InputError("captions", f"are not {len(embeds)} of them", "Pass a list with one for each row")
        if not len(embeds):
            return torch.empty(0, 4)
        bridged = self.bridge(embeds) if bridged is None else bridged
        rows = [self._features(*row) for row in zip(embeds.split(1), bridged.split(1), captions, strict=True)]
        return torch.stack(rows)

    def _features(self, embed: torch.Tensor, bridged: torch.Tensor, caption: str) -> torch.Tensor:
        text = self.clap.encode_text([caption])
        cosine = torch.nn.functional.cosine_similarity(embed.to(text), text)
        log_probability, tokens = self.decoder.log_probabilities(self._prefix(bridged), [caption])
        values = (cosine, log_probability, tokens, self.clap.log_certainty(embed))
        return torch.cat([value.float().cpu() for value in values])

    def _scored(self, embeds: torch.Tensor, bridged: torch.Tensor, texts: list[list[str]]) -> list[list[float]]:
        """Of a batch's captions: B lists of scores, empty without a scorer."""
        if self.scorer is None:
            return [[] for _ in texts]
        scored = []
        for embed, row, own in zip(embeds.split(1), bridged.split(1), texts, strict=True):
            features = self.caption_features(embed.expand(len(own), -1), own, row.expand(len(own), -1))
            scored.append(self.scorer.scores(features).tolist())
        return scored

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
        hop_seconds: float = WINDOW_SECONDS,
        max_duration: float | None = None,
        num_return_sequences: int = 1,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        do_sample: bool = False,
        generation_kwargs: Mapping[str, Any] | None = None,
        unknown_below: float | None = None,
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
            hop_seconds: seconds from one window's start to the next one's, 0.1 to 10; less than 10 makes them overlap.
            max_duration: seconds; a longer recording is an error.
            num_return_sequences: captions per window; more than one needs ``num_beams`` or ``do_sample``.
            max_new_tokens, num_beams, do_sample: as `transformers` generation.
            generation_kwargs: further fields of `transformers.GenerationConfig`; `CaptionDecoder.generate` says which
                are refused (``max_length``, assisted decoding, guidance …).
            unknown_below: captions with a lower score begin with "An unknown sound, perhaps"; by default as the scorer
                is configured. 0 hedges none.
            return_dict: whether to return an `AudioCaptionPipelineOutput` or a tuple of captions, segments and errors.

        Returns:
            Captions, segments, errors and scores, input by input. In a list, an item that cannot be read is reported in
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
        self.check_inputs(batch_size, long_audio, generator, generation, generation_kwargs, bridging, unknown_below)
        audio = _unpacked(audio)
        single = _is_one(audio)
        items = [audio] if single else list(audio)
        if not single and items and isinstance(items[0], (int, float)):
            raise InputError("audio", "is a list of numbers", "Pass samples as an array, with sampling_rate=")
        if not single and sampling_rate is not None:
            check_sampling_rate(items, sampling_rate)
        if single:
            recordings = [Recording(audio, sampling_rate)]
        else:
            recordings = (
                Recording(item, sampling_rate if is_decoded(item) else None, _name(item, i))
                for i, item in enumerate(self.progress_bar(items))
            )
        batches = self._hear(recordings, batch_size, hop_seconds, max_duration)
        # All is heard before the first caption: with the models offloaded, each moves to the device once.
        heard = [one for batch in batches for one in batch]
        errors: list[AudioError | None] = [one.error for one in heard if one.ended]
        if single and errors[0] is not None:
            raise errors[0]
        for error in filter(None, errors):
            logger.warning("No caption for %s", error)
        # A recording may turn out to be unusable after some of its windows: none of them is captioned then.
        chosen = average(heard) if long_audio == "average" else heard
        windows = [one for one in chosen if not one.ended and errors[one.item] is None]
        segments: list[list[CaptionSegment]] = [[] for _ in items]
        caption = self._captioner(generator, bridging, generation | dict(generation_kwargs or {}), unknown_below)
        for first in range(0, len(windows), batch_size):
            part = windows[first : first + batch_size]
            for window, segment in zip(part, caption(part), strict=True):
                segments[window.item].append(segment)
        self.maybe_free_model_hooks()

        captions: list[str | None] = []
        means: list[float | None] = []
        for own in segments:
            for k in range(num_return_sequences):
                parts = [(segment.text, *segment.alternatives)[k] for segment in own]
                captions.append(". ".join(parts) if parts else None)
                values = [(segment.score, *segment.alternative_scores)[k] for segment in own] if self.scorer else []
                means.append(sum(values) / len(values) if values else None)
        if not return_dict:
            return captions, segments, errors
        return AudioCaptionPipelineOutput(captions=captions, segments=segments, errors=errors, scores=means)

    def stream(
        self,
        audio: AudioInput,
        sampling_rate: int | None = None,
        *,
        batch_size: int = 8,
        hop_seconds: float = WINDOW_SECONDS,
        max_duration: float | None = None,
        **options: Any,
    ) -> Iterator[CaptionSegment]:
        """Caption one recording of any length, window by window: memory does not grow with its length.

        Args:
            audio, sampling_rate: as `__call__`, of one recording.
            batch_size: windows computed at once, and thus how many come at once.
            hop_seconds: seconds from one window's start to the next one's, 0.1 to 10.
            max_duration: seconds, after which the recording is refused.
            options: ``generator``, ``num_return_sequences``, ``unknown_below`` … as `__call__`.

        Yields:
            A `CaptionSegment` for each window, in order.

        Raises:
            AudioError: where it is found; the segments before it are good.
            InputError: as `__call__`.

        Examples:
            >>> import numpy as np
            >>> from diffusion_link_hf import AudioCaptionPipeline
            >>> pipe = AudioCaptionPipeline.from_pretrained("tiny")
            >>> noise = np.random.default_rng(0).normal(0, 0.05, 12 * 44_100)
            >>> [(segment.start, segment.end) for segment in pipe.stream((noise, 44_100))]
            [(0.0, 10.0), (10.0, 12.0)]
        """
        recordings = [Recording(audio, sampling_rate)]
        options |= {"batch_size": batch_size, "hop_seconds": hop_seconds, "max_duration": max_duration}
        for _, segment in self.stream_all(recordings, **options):
            if isinstance(segment, AudioError):
                raise segment
            if segment is not None:
                yield segment

    def stream_all(
        self,
        recordings: Iterable[Recording],
        *,
        batch_size: int = 32,
        hop_seconds: float = WINDOW_SECONDS,
        max_duration: float | None = None,
        generator: torch.Generator | None = None,
        unknown_below: float | None = None,
        long_audio: str = "windows",
        num_inference_steps: int | None = None,
        noise_timestep: int | None = None,
        add_noise: bool | None = None,
        **generation: Any,
    ) -> Iterator[tuple[int, CaptionSegment | AudioError | None]]:
        """Caption many recordings as they come, in batches that span them.

        Args:
            recordings: `Recording` objects; those ahead are read while a batch is computed.
            generation: ``num_return_sequences``, ``num_beams``, ``max_new_tokens`` and whatever
                `CaptionDecoder.generate` takes.

        Yields:
            (number of the recording, segment) in order, and behind the last segment of each (number, None), or (number,
            error) if the recording turned out to be unusable.
        """
        bridging = {
            "num_inference_steps": num_inference_steps,
            "noise_timestep": noise_timestep,
            "add_noise": add_noise,
        }
        self.check_inputs(batch_size, long_audio, generator, generation, None, bridging, unknown_below)
        caption = self._captioner(generator, bridging, generation, unknown_below)
        batches = self._hear(recordings, batch_size, hop_seconds, max_duration)
        if long_audio == "average":
            batches = ([one] for one in average(one for batch in batches for one in batch))
        for batch in batches:
            segments = iter(caption([one for one in batch if not one.ended]))
            for one in batch:
                yield one.item, one.error if one.ended else next(segments)
        self.maybe_free_model_hooks()

    def _captioner(
        self,
        generator: torch.Generator | None,
        bridging: Mapping[str, Any],
        generation: Mapping[str, Any],
        unknown_below: float | None,
    ) -> Callable[[list[Heard]], list[CaptionSegment]]:
        """A function from a batch of windows to their segments."""
        # Every batch shares one draw of noise, or a caption would depend on the batch that it is in.
        noise_seed = None if generator is None else draw_seed(generator)

        @torch.no_grad()
        def caption(windows: list[Heard]) -> list[CaptionSegment]:
            rows = [window.embed for window in windows if window.embed is not None]
            found = iter(())
            if rows:
                embeds = torch.stack(rows)
                noise = None if noise_seed is None else torch.Generator().manual_seed(noise_seed)
                bridged = self.bridge(embeds, "audio", generator=noise, **bridging)
                texts = self._decode(bridged, generator=generator, **generation)
                found = zip(texts, self._scored(embeds, bridged, texts), strict=True)
            count = generation.get("num_return_sequences", 1)
            return [
                self._segment(window, *(([], []) if window.silent else next(found)), count, unknown_below)
                for window in windows
            ]

        return caption

    def _segment(
        self, window: Heard, texts: list[str], scores: list[float], count: int, unknown_below: float | None
    ) -> CaptionSegment:
        """A window's captions as they may be said."""
        if window.silent:
            texts, scores = [SILENCE_CAPTION] * count, [1.0] * count
        elif self.scorer is not None:
            texts = [self.scorer.hedge(*each, unknown_below) for each in zip(texts, scores, strict=True)]
        score = scores[0] if scores else None
        return CaptionSegment(window.start, window.end, texts[0], tuple(texts[1:]), score, tuple(scores[1:]))


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
