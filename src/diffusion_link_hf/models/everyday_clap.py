"""A CLAP of everyday sounds: aiSFX's network, tags over time, and a text tower, in one joint space."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ClapTextConfig, ClapTextModelWithProjection, PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..audio import SAMPLING_RATE, WINDOW_SAMPLES
from ..errors import InputError, ModelFolderError
from ..loading import (
    BaseReference,
    LoadPath,
    check_vocabulary,
    load_strict,
    load_tokenizer,
    read_json,
)
from ..loading_options import LoadingOptions
from ..tensors import dense_floats
from .clap import EVERYDAY_CLAP, ClapEncoder, check_waveforms
from .levels import loudest_dbfs
from .pair_tagger import PairTagger
from .sfx_network import SFX_SAMPLING_RATE, STEP_SECONDS, SfxLogMel, SfxNetwork
from .sound_tagger import WINDOW_STEPS, WINDOW_STRIDE, SoundTagger
from .tag_embedding import DOUBT, EMBEDDING_DIM, EVENTS, HeardEvents, TagEmbedding

RESAMPLED = WINDOW_SAMPLES * SFX_SAMPLING_RATE // SAMPLING_RATE  # 441,000
NUM_WINDOWS = 12  # of 1.7 s, in ten seconds
SILENCE = "silence"  # the tag that every model has
LEAST_TAGS = 6


class EverydayClapConfig(PreTrainedConfig):
    """What `EverydayClapModel` is made of.

    Args:
        tags: names of the sound classes, in the order of the scores; at least six, "silence" among them.
        fine_tags: names of finer classes, which captions tell apart.
        hidden_size: width of the tagger's networks.
        num_networks: networks of the tagger, whose logits are averaged.
        band_limit: Hz, above which nothing is listened to; None listens to all.
        window_weight: share of the best window in a clip's score; the rest is the whole clip's.
        tag_temperature: logits of tags are divided by it.
        silence_dbfs: dB relative to full scale; a window whose loudest 186 ms are fainter is silence.
        pair_hidden_size: width of the pair tagger.
        alone_weight, pair_window_weight, pair_threshold: how one event or two are decided on, see `TagEmbedding`.
        text_config: of the text tower, fields of a `transformers.ClapTextConfig`.
    """

    model_type = EVERYDAY_CLAP

    def __init__(
        self,
        tags: list[str] | None = None,
        fine_tags: list[str] | None = None,
        hidden_size: int = 768,
        num_networks: int = 1,
        band_limit: float | None = 15_000.0,
        window_weight: float = 0.5,
        tag_temperature: float = 1.0,
        silence_dbfs: float = -62.0,
        pair_hidden_size: int = 512,
        alone_weight: float = 0.3,
        pair_window_weight: float = 0.8,
        pair_threshold: float = 0.7,
        text_config: dict[str, Any] | ClapTextConfig | None = None,
        **kwargs,
    ):
        self.tags = list(tags) if tags is not None else [SILENCE, "speech", "music", "animal", "machine", "noise"]
        self.fine_tags = list(fine_tags or ())
        self.hidden_size, self.num_networks, self.band_limit = hidden_size, num_networks, band_limit
        self.window_weight, self.tag_temperature, self.silence_dbfs = window_weight, tag_temperature, silence_dbfs
        self.pair_hidden_size, self.alone_weight = pair_hidden_size, alone_weight
        self.pair_window_weight, self.pair_threshold = pair_window_weight, pair_threshold
        text = text_config.to_dict() if isinstance(text_config, ClapTextConfig) else text_config or {}
        text = {key: value for key, value in text.items() if key != "_name_or_path"}  # of the machine that trained it
        self.text_config = ClapTextConfig(**{**text, "projection_dim": EMBEDDING_DIM})
        self.projection_dim = EMBEDDING_DIM
        if len(self.tags) < LEAST_TAGS or SILENCE not in self.tags or len(set(self.tags)) < len(self.tags):
            raise InputError("tags", f"are {self.tags}", f"Name at least {LEAST_TAGS} and {SILENCE!r} among them")
        super().__init__(**kwargs)


class EverydayClapModel(PreTrainedModel):
    """The weights of an `EverydayClapEncoder`: audio network, taggers, joint space and text tower."""

    config_class = EverydayClapConfig
    base_model_prefix = "everyday_clap"

    def __init__(self, config: EverydayClapConfig):
        super().__init__(config)
        self.network = SfxNetwork()
        self.tagger = SoundTagger(len(config.tags), config.hidden_size, config.num_networks)
        self.fine = nn.Linear(config.hidden_size, len(config.fine_tags))  # on the tagger's first network
        self.pair_tagger = PairTagger(len(config.tags), config.pair_hidden_size)
        self.space = TagEmbedding(
            len(config.tags),
            len(config.fine_tags),
            config.tags.index(SILENCE),
            config.alone_weight,
            config.pair_window_weight,
            config.pair_threshold,
        )
        self.text = ClapTextModelWithProjection(config.text_config)
        self.post_init()

    def probabilities(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, 512) → probabilities of clips (B, C) and windows (B, W, C), which add to one."""
        clip, windows = self.tagger(features)
        return (clip / self.config.tag_temperature).softmax(-1), (windows / self.config.tag_temperature).softmax(-1)

    def decide(self, features: torch.Tensor, clip: torch.Tensor, windows: torch.Tensor) -> HeardEvents:
        """The events of clips, from features (B, T, 512) and their `probabilities`."""
        pairs = self.pair_tagger.normalized(self.pair_tagger.pool(features))
        nothing = torch.full((len(pairs),), len(self.config.tags), device=pairs.device)
        alone = self.pair_tagger(pairs, nothing)[:, :-1].softmax(-1)
        loudness = self.tagger.window_loudness(features)
        return self.space.decide(
            clip, windows, loudness, alone, lambda given: self.pair_tagger(pairs, given).log_softmax(-1)
        )

    def embed(self, features: torch.Tensor, heard: HeardEvents, silent: torch.Tensor) -> torch.Tensor:
        """Features (B, T, 512), their events, and which rows are silent (B,) → (B, 512) unit rows."""
        pooled = self.tagger.normalized(self.tagger.pool(features))
        fine = self.fine(F.gelu(self.tagger.inner[0](pooled))).softmax(-1)
        return self.space(heard, fine, pooled, silent)


class HeardSounds(NamedTuple):
    """What `EverydayClapEncoder.hear` returns.

    Attributes:
        embeds: (B, D) unit rows, float32.
        scores: (B, C), how probable each sound of `EverydayClapEncoder.tags` is, between 0 and 1.
        window_scores: (B, 12, C) the same, in windows of 1.7 s.
        silent: (B,) bool, rows below the level of silence.
    """

    embeds: torch.Tensor
    scores: torch.Tensor
    window_scores: torch.Tensor
    silent: torch.Tensor


class EverydayClapEncoder(ClapEncoder):
    """`EverydayClapModel`, frozen and always in eval mode, with its front end and tokenizer.

    It is used as a `ClapEncoder`, and also says which sounds it hears, and when. `ClapEncoder.from_pretrained` returns
    one where a folder holds one. A row's bits do not depend on its batch.

    Args:
        model: the weights.
        tokenizer: for `encode_text`; may be None where only audio is embedded.
        source: the Hub repository that the weights come from, or None.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import EverydayClapEncoder
        >>> clap = EverydayClapEncoder.from_pretrained("tiny")
        >>> clap.encode_audio(0.1 * torch.randn(1, 480_000)).shape, clap.encode_text(["A dog barks"]).shape
        (torch.Size([1, 512]), torch.Size([1, 512]))
        >>> scores = clap.tag_scores(torch.zeros(1, 480_000))
        >>> clap.tags[int(scores.argmax())]
        'silence'
    """

    def __init__(
        self,
        model: EverydayClapModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        source: BaseReference | None = None,
    ):
        nn.Module.__init__(self)  # not the parent's, which is about a `transformers.ClapModel`
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.front_end = SfxLogMel(model.config.band_limit)
        self.source = source
        self.eval()

    @property
    def tags(self) -> list[str]:
        """Names of the sounds it knows, in the order of `tag_scores`."""
        return list(self.config.tags)

    @property
    def settings(self) -> str:
        """Fields of the configuration that embeddings depend on beside the weights, as JSON."""
        names = (
            "band_limit",
            "tag_temperature",
            "silence_dbfs",
            "alone_weight",
            "pair_window_weight",
            "pair_threshold",
        )
        return json.dumps({name: getattr(self.config, name) for name in names}, sort_keys=True)

    @torch.no_grad()
    def forward(
        self,
        waveforms: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed one kind of input; offloading hooks see this call.

        Args:
            waveforms: (B, 480000) finite floats at 48 kHz; B may be 0.
            input_ids, attention_mask: (B, L) token ids and mask.

        Returns:
            (B, D) unit rows, float32.

        Raises:
            InputError: none or both kinds of input; waveforms of another length or dtype, or with NaN or infinity.
        """
        if (waveforms is None) == (input_ids is None):
            raise InputError("EverydayClapEncoder", "got none or both kinds of input", "Pass waveforms or input_ids")
        if waveforms is not None:
            return self.hear(waveforms).embeds
        tokens = {"input_ids": input_ids.to(self.device), "attention_mask": attention_mask.to(self.device)}
        return F.normalize(self.model.text(**tokens).text_embeds.float(), dim=-1)

    @torch.no_grad()
    def hear(self, waveforms: torch.Tensor | np.ndarray) -> HeardSounds:
        """Embeddings and tags of ten-second windows.

        Args:
            waveforms: (B, 480000) finite floats at 48 kHz, full scale ±1; B may be 0.

        Raises:
            InputError: another shape or dtype, NaN or infinity.
        """
        waveforms = dense_floats(waveforms, "waveforms")
        check_waveforms(waveforms)
        if not len(waveforms):
            return self._nothing_heard()
        # One by one on a CPU: the bits of a row do not depend on its batch.
        at_a_time = 1 if self.device.type == "cpu" else len(waveforms)
        parts = [self._hear(part) for part in waveforms.to(self.device).float().split(at_a_time)]
        return HeardSounds(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _hear(self, waveforms: torch.Tensor) -> HeardSounds:
        sound = resample(waveforms)
        silent = loudest_dbfs(sound, SFX_SAMPLING_RATE) < self.config.silence_dbfs
        features = self.model.network.frame_features(self.front_end(sound).to(self.dtype))
        clip, windows = self.model.probabilities(features)
        embeds = self.model.embed(features, self.model.decide(features, clip, windows), silent)
        share = self.config.window_weight
        scores = (1 - share) * clip + share * windows.amax(1)
        nothing = F.one_hot(torch.tensor(self.config.tags.index(SILENCE)), clip.shape[1]).to(clip)
        return HeardSounds(
            embeds.float(),
            torch.where(silent[:, None], nothing, scores).float(),
            torch.where(silent[:, None, None], nothing, windows).float(),
            silent,
        )

    def _nothing_heard(self) -> HeardSounds:
        empty = torch.empty(0, self.embedding_dim, device=self.device)
        tags = empty.new_empty(0, len(self.tags))
        return HeardSounds(empty, tags, tags.new_empty(0, NUM_WINDOWS, len(self.tags)), tags.new_empty(0).bool())

    def log_certainty(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) audio embeddings → (B,) float32, the logarithm of how sure it was of the events, at most 0."""
        events, doubt = embeds[:, EVENTS].float().norm(dim=1), embeds[:, DOUBT].float()
        return (events.clamp_min(1e-6) / torch.hypot(events.clamp_min(1e-6), doubt)).log()

    def tag_scores(self, waveforms: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(B, 480000) at 48 kHz → (B, C), how probable each sound of `tags` is, between 0 and 1.

        Raises:
            InputError: see `hear`.
        """
        return self.hear(waveforms).scores

    def tags_over_time(self, waveforms: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of windows of 1.7 s, (B, 12, C), and the seconds of their centers, (12,).

        Raises:
            InputError: see `hear`.
        """
        centers = (torch.arange(NUM_WINDOWS) * WINDOW_STRIDE + WINDOW_STEPS / 2) * STEP_SECONDS
        return self.hear(waveforms).window_scores, centers

    def _write_front_end(self, folder: Path) -> None:
        """Nothing: the configuration of the model says it all."""

    @classmethod
    def _from_folder(cls, folder: Path, source: BaseReference | None, how: LoadingOptions) -> "EverydayClapEncoder":
        """Of the folder that `from_pretrained` found."""
        found = read_json(folder / "config.json").get("model_type")
        if found != EVERYDAY_CLAP:
            raise ModelFolderError(folder, f"holds a model of type {found!r}", "Load it with ClapEncoder")
        model = load_strict(EverydayClapModel.from_pretrained, folder, local_files_only=True, **how.for_model())
        tokenizer = _tokenizer(folder, model.config)
        if tokenizer is not None:
            check_vocabulary(tokenizer, model.config.text_config.vocab_size, folder)
        return cls(model, tokenizer, source)

    @classmethod
    def from_config(cls, folder: LoadPath, **overrides) -> "EverydayClapEncoder":
        """The architecture of ``folder/config.json`` with random weights; ``overrides`` change its fields."""
        folder = Path(folder)
        config = EverydayClapConfig.from_dict({**read_json(folder / "config.json"), **overrides})
        return cls(EverydayClapModel(config), _tokenizer(folder, config), BaseReference.read(folder))


def _tokenizer(folder: Path, config: EverydayClapConfig) -> PreTrainedTokenizerBase | None:
    return load_tokenizer(folder, config=config) if (folder / "tokenizer.json").is_file() else None


def resample(waveforms: torch.Tensor) -> torch.Tensor:
    """(B, 480000) float32 at 48 kHz → (B, 441000) at 44.1 kHz, by cutting the spectrum of the whole window."""
    rows = [torch.fft.irfft(torch.fft.rfft(row)[: RESAMPLED // 2 + 1], n=RESAMPLED) for row in waveforms]
    return torch.stack(rows) * (RESAMPLED / WINDOW_SAMPLES)
