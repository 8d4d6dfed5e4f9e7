"""The frozen CLAP: windows of audio, or captions, to unit embeddings in one space."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ClapConfig, ClapModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..audio import WINDOW_SAMPLES
from ..errors import InputError, ModelFolderError
from ..loading import (
    BaseReference,
    LoadPath,
    check_vocabulary,
    drop_local_names,
    includes_base,
    load_strict,
    load_tokenizer,
    locate,
    read_json,
    refuse_pickles,
    safetensors_folder,
    save_tokenizer,
)
from ..loading_options import LoadingOptions, as_dtype, refuse_unknown
from ..pickled_weights import PICKLED_WEIGHTS
from ..tensors import cast_floats, dense_floats
from .front_end_files import read_front_end, write_front_end
from .log_mel import ClapLogMel

REFERENCE_FILE = "reference.json"
EVERYDAY_CLAP = "everyday_clap"  # model_type of `EverydayClapModel`
CLIPS_AT_A_TIME = 4  # on a CPU: the activations of more leave its cache between two layers, which takes a fifth longer


class ClapEncoder(nn.Module):
    """A `transformers.ClapModel` (fused or unfused), frozen and always in eval mode, with its front end and tokenizer.

    Args:
        model: the CLAP.
        tokenizer: for `encode_text`; may be None where only audio is embedded.
        front_end: the log-mel front end that the checkpoint was trained with.
        source: the Hub repository that the weights come from, or None.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import ClapEncoder
        >>> clap = ClapEncoder.from_pretrained("tiny")
        >>> audio = clap.encode_audio(0.1 * torch.randn(1, 480_000))
        >>> text = clap.encode_text(["Rain is falling", "A dog barks"])
        >>> audio.shape, (audio @ text.T).shape  # cosines, since rows have norm 1
        (torch.Size([1, 512]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        model: ClapModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        front_end: ClapLogMel | None = None,
        source: BaseReference | None = None,
    ):
        super().__init__()
        self.fused = bool(model.config.audio_config.enable_fusion)
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.front_end = front_end or ClapLogMel(mel_scale="htk" if self.fused else "slaney")
        self.source = source
        self.eval()

    def train(self, mode: bool = True) -> "ClapEncoder":
        """Stays in eval mode: a frozen encoder's dropout and batch norm must not follow the model around it."""
        return super().train(False)

    @property
    def config(self) -> ClapConfig:
        return self.model.config

    @property
    def embedding_dim(self) -> int:
        """D, width of the joint space."""
        return self.model.config.projection_dim

    @property
    def settings(self) -> str:
        """What embeddings depend on beside the weights and the front end; part of a cache's identity."""
        return ""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.no_grad()
    def forward(
        self,
        waveforms: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed one kind of input; offloading hooks see this call.

        Args:
            waveforms: (B, 480000) finite floats at 48 kHz; B may be 0.
            input_features: (B, 1, 1001, 64) log-mel dB, instead of waveforms.
            input_ids, attention_mask: (B, L) token ids and mask.

        Returns:
            (B, D) unit rows, float32.

        Raises:
            InputError: none or several kinds of input; waveforms of another length or dtype, or with NaN or infinity.
        """
        if sum(value is not None for value in (waveforms, input_features, input_ids)) != 1:
            raise InputError(
                "ClapEncoder", "got none or several kinds of input", "Pass waveforms, input_features or input_ids"
            )
        if input_ids is not None:
            embeds = self.model.get_text_features(
                input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device)
            ).pooler_output
        else:
            if waveforms is not None:
                check_waveforms(waveforms)
                if not len(waveforms):
                    return torch.empty(0, self.embedding_dim, device=self.device)
                input_features = self.front_end(waveforms.to(self.device))
            features = input_features.to(self.device, self.dtype)
            at_a_time = CLIPS_AT_A_TIME if self.device.type == "cpu" else max(len(features), 1)
            embeds = torch.cat([self._embed_features(part) for part in features.split(at_a_time)])
        return F.normalize(embeds.float(), dim=-1)

    def _embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 1, 1001, 64) → (B, D)."""
        # A window is at most 10 s long, so a fused model always gets four equal views and no long-audio branch.
        # The stock extractor marks a random clip of the batch as long here.
        is_longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self.device)
        if self.fused:
            features = features.expand(-1, 4, -1, -1)
        return self.model.get_audio_features(input_features=features, is_longer=is_longer).pooler_output

    def log_certainty(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) audio embeddings → (B,) float32, the logarithm of how sure of them the encoder is; 0 is sure.

        Encoders that know their doubt override it.
        """
        return embeds.new_zeros(len(embeds), dtype=torch.float32)

    def encode_audio(self, waveforms: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Windows of ten seconds at 48 kHz → embeddings.

        Args:
            waveforms: (B, 480000) finite floats, full scale ±1, such as `audio.split_windows` cuts and pads; B may
                be 0.

        Returns:
            (B, D) unit rows, float32.

        Raises:
            InputError: no tensor or array, another shape or dtype, NaN or infinity.
        """
        return self(waveforms=dense_floats(waveforms, "waveforms"))

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Captions → (B, D) unit rows; padding is masked, so a caption's embedding does not depend on its batch.

        Raises:
            InputError: no tokenizer, a bare string, or an item that is not a string.
        """
        if self.tokenizer is None:
            raise InputError("ClapEncoder", "has no tokenizer", "Load it with from_pretrained, or pass tokenizer=")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(
                "texts", f"is {type(texts).__name__} with items that are not strings", "Pass a list of strings"
            )
        parts = [torch.empty(0, self.embedding_dim, device=self.device)]
        for first in range(0, len(texts), batch_size):
            tokens = self.tokenizer(
                list(texts[first : first + batch_size]),
                padding=True,
                truncation=True,
                return_tensors="pt",
                max_length=min(
                    self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings - 2
                ),
            )
            parts.append(self(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]))
        return torch.cat(parts)

    def save_pretrained(
        self, save_directory: LoadPath, include_base: bool | None = None, dtype: torch.dtype | str | None = None
    ) -> None:
        """Write configuration, front end, tokenizer, and the weights or a reference to them.

        Args:
            save_directory: created if absent.
            include_base: whether the weights are copied; None copies them unless a `source` can be referenced.
            dtype: of the stored weights, that of the model by default.

        Raises:
            InputError: ``include_base=False`` without a source.
        """
        folder, dtype = Path(save_directory), as_dtype(dtype)
        include_base = includes_base(include_base, self.source)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REFERENCE_FILE).unlink(missing_ok=True)  # a stale one would be followed instead of the weights
        if include_base:
            self.model.save_pretrained(folder, state_dict=cast_floats(self.model.state_dict(), dtype))
        else:
            self.model.config.save_pretrained(folder)
            (folder / REFERENCE_FILE).write_text(json.dumps(self.source.as_json(), indent=2) + "\n", encoding="utf-8")
        self._write_front_end(folder)
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)
        drop_local_names(folder / "config.json")

    def _write_front_end(self, folder: Path) -> None:
        write_front_end(self.front_end, folder)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: LoadPath,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: LoadPath | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> "ClapEncoder":
        """Load any CLAP of transformers' format: a folder, a Hub id, or a folder that references one.

        Of the folder of a pipeline, and of "tiny", it is the one inside. Where there are no safetensors, as in LAION's
        repositories, ``pytorch_model.bin`` is converted once into the user's cache. A folder of an
        `EverydayClapEncoder` gives one.

        Args:
            revision: branch, tag or commit of a Hub id.
            options: ``dtype`` (float32 by default, whatever the file holds), ``device_map`` (a device), ``variant``
                and the others of `LoadingOptions` but for quantization.

        Raises:
            ModelFolderError, HubAccessError: see `loading`; also a front end that the audio part cannot follow, such as
                one of another sampling rate than 48 kHz, and a tokenizer larger than the model's vocabulary.
            InputError: a revision of a local folder, or an option that cannot be used.
        """
        how = LoadingOptions.take(options, "quantization_config")
        refuse_unknown("ClapEncoder.from_pretrained", options)
        hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder, source = locate(name_or_path, "clap", revision, **hub)
        if source is None:
            refuse_pickles(folder, PICKLED_WEIGHTS)
        if cls is not ClapEncoder or _is_everyday(folder):
            return _everyday_class()._from_folder(folder, source, how)
        config = _read_config(folder)
        front_end = read_front_end(folder, config)
        model = load_strict(
            ClapModel.from_pretrained,
            safetensors_folder(folder, source, **hub),
            config=config,
            local_files_only=True,
            **how.for_model(),
        )
        tokenizer = _read_tokenizer(folder)
        if tokenizer is not None:
            check_vocabulary(tokenizer, model.config.text_config.vocab_size, folder)
        return cls(model, tokenizer, front_end, source)

    @classmethod
    def from_config(cls, folder: LoadPath, **overrides) -> "ClapEncoder":
        """The architecture of ``folder/config.json`` with random weights; ``overrides`` change its audio config."""
        folder = Path(folder)
        if _is_everyday(folder):
            return _everyday_class().from_config(folder, **overrides)
        config = _read_config(folder)
        for name, value in overrides.items():
            setattr(config.audio_config, name, value)
        front_end = read_front_end(folder, config)
        return cls(ClapModel(config), _read_tokenizer(folder), front_end, BaseReference.read(folder))


def check_waveforms(waveforms: torch.Tensor) -> None:
    """Raises InputError for what is no batch of windows: (B, 480000) finite dense floats."""
    dense_floats(waveforms, "waveforms")
    if waveforms.ndim != 2 or waveforms.shape[1] != WINDOW_SAMPLES:
        raise InputError(
            "waveforms",
            f"has shape {tuple(waveforms.shape)}",
            f"CLAP takes (B, {WINDOW_SAMPLES}); split_windows cuts and pads recordings to that",
        )
    bad = ~torch.isfinite(waveforms).all(1)
    if bad.any():
        raise InputError("waveforms", f"row {int(bad.nonzero()[0])} holds NaN or infinity", "Leave those rows out")


def _is_everyday(folder: Path) -> bool:
    return read_json(folder / "config.json").get("model_type") == EVERYDAY_CLAP


def _everyday_class() -> type[ClapEncoder]:
    from .. import EverydayClapEncoder  # by its public name, as its module imports this one

    return EverydayClapEncoder


def _read_config(folder: Path) -> ClapConfig:
    path = folder / "config.json"
    values = read_json(path)
    try:
        return ClapConfig.from_dict(values)
    except Exception as error:  # whatever the values make it stumble over
        raise ModelFolderError(path, f"describes no CLAP ({error})", "See transformers.ClapConfig") from error


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    has_tokenizer = (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()
    return load_tokenizer(folder) if has_tokenizer else None
