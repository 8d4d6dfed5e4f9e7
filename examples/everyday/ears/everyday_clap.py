"""A CLAP of the everyday world: aiSFX's network, tags over time, and their place in the text tower's space.

Draft of src/diffusion_link_hf/models/everyday_clap.py: `EverydayClapEncoder` has the interface of `ClapEncoder`
(waveforms of 480,000 samples at 48 kHz, or captions, to unit rows of one space), and says which sounds it hears.

The joint space, 512 wide, has four parts, each scaled by the root of its share of the energy: a sentence (384: MiniLM's
embedding of a caption, centered), events (96: sum of fixed codes of the classes heard), order (29: code of the first
event less that of the last), and relation (3: single, overlap, sequence). The text tower was distilled to it; the audio
side fills it from the tags' probabilities, so doubt between two sounds is a place between them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ears_head import WINDOW_STEPS, WINDOW_STRIDE, TagHead
from safetensors.torch import load_file, save_file
from sfx_network import FRAMES_PER_STEP, HOP, SAMPLING_RATE, SECONDS_PER_STEP, SfxLogMel, SfxNetwork
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextConfig, ClapTextModelWithProjection, PretrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

INPUT_RATE, WINDOW_SAMPLES = 48_000, 480_000
RESAMPLED = WINDOW_SAMPLES * SAMPLING_RATE // INPUT_RATE  # 441,000
CLIPS_AT_A_TIME = 4
CLUES = 27
RELATIONS = ("single", "overlap", "sequence", "silence")


class EverydayClapConfig(PretrainedConfig):
    """What `EverydayClap` is made of.

    Args:
        tags: names of the classes, in the order of the scores.
        hidden_size: of the tag head.
        num_heads: tag heads, whose logits are averaged.
        band_limit: Hz, above which nothing is listened to.
        window_weight: share of the best window in a clip's score, the rest is the whole clip's.
        tag_temperature: the logits are divided by it before the softmax; fitted on unheard origins.
        silence_dbfs: a window whose loudest 186 ms are fainter is silence.
        energy: share of the four parts of the space.
        projection_dim: width of the space.
        text_config: of the text tower, a `ClapTextConfig`.
    """

    model_type = "everyday_clap"

    def __init__(
        self,
        tags: Sequence[str] = ("silence",),
        hidden_size: int = 768,
        num_heads: int = 1,
        band_limit: float | None = 15_000.0,
        window_weight: float = 0.5,
        tag_temperature: float = 1.0,
        silence_dbfs: float = -62.0,
        energy: dict[str, float] | None = None,
        projection_dim: int = 512,
        text_config: dict[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.tags, self.hidden_size, self.num_heads, self.band_limit = list(tags), hidden_size, num_heads, band_limit
        self.window_weight, self.tag_temperature, self.silence_dbfs = window_weight, tag_temperature, silence_dbfs
        self.energy = energy or {"sentence": 0.55, "events": 0.30, "order": 0.10, "relation": 0.05}
        self.projection_dim, self.text_config = projection_dim, text_config


def resample(waveforms: torch.Tensor) -> torch.Tensor:
    """(B, 480000) at 48 kHz → (B, 441000) at 44.1 kHz, by cutting the spectrum of the whole window."""
    rows = [torch.fft.irfft(torch.fft.rfft(row)[: RESAMPLED // 2 + 1], n=RESAMPLED) for row in waveforms.float()]
    return torch.stack(rows) * (RESAMPLED / WINDOW_SAMPLES)


def loudest_dbfs(waveforms: torch.Tensor) -> torch.Tensor:
    """(B, n) at 44.1 kHz → (B,) dB relative to full scale: root mean square of the loudest step of 186 ms."""
    n = FRAMES_PER_STEP * HOP
    steps = waveforms[:, : waveforms.shape[1] // n * n].unflatten(1, (-1, n))
    return 10 * torch.log10(steps.square().mean(-1).amax(1) + 1e-12)


def several(clip: torch.Tensor, windows: torch.Tensor, kept: int = 6) -> torch.Tensor:
    """Probabilities (B, C) where more than one sound is expected: the first must not drown the second.

    Half the clip's, half the best window's; of the few largest the root, less that of the next.
    """
    q = (0.5 * clip + 0.5 * windows.amax(1)).sqrt()
    q = (q - q.topk(kept + 1, -1).values[:, -1:]).clamp_min(0)
    return q / q.sum(1, keepdim=True).clamp_min(1e-6)


class JointSpace(nn.Module):
    """Tags over time → unit rows of the joint space. Everything fixed but the small network that tells the relation."""

    def __init__(self, num_tags: int, silence_index: int, energy: dict[str, float]):
        super().__init__()
        self.register_buffer("sentences", torch.zeros(num_tags, 384))  # mean sentence of a class's captions
        self.register_buffer("codes", torch.zeros(num_tags, 96))
        self.register_buffer("orders", torch.zeros(num_tags, 29))
        self.relation = nn.Sequential(nn.Linear(CLUES, 48), nn.GELU(), nn.Linear(48, len(RELATIONS)))
        self.silence_index, self.energy = silence_index, energy

    @staticmethod
    def part(windows: torch.Tensor, loud: torch.Tensor, some: slice) -> torch.Tensor:
        """Mean probabilities (B, C) of some windows, the louder the weightier."""
        weight = loud[:, some] / loud[:, some].sum(1, keepdim=True).clamp_min(1e-6)
        return (windows[:, some] * weight[..., None]).sum(1)

    def clues(self, clip: torch.Tensor, windows: torch.Tensor, loud: torch.Tensor) -> torch.Tensor:
        """(B, 27): how peaked the probabilities are, and how alike the two halves: signs of one event or several."""
        weight = loud / loud.sum(1, keepdim=True).clamp_min(1e-6)
        mean = (windows * weight[..., None]).sum(1)
        halves = [self.part(windows, loud, slice(0, 6)), self.part(windows, loud, slice(6, None))]
        top = [p.topk(4, -1).values for p in (clip, mean, windows.amax(1), *halves)]
        alike = [F.cosine_similarity(halves[0], halves[1], dim=-1), F.cosine_similarity(clip, mean, dim=-1)]
        entropy = [-(p * p.clamp_min(1e-9).log()).sum(-1) for p in (clip, mean)]
        spread = entropy[1] + ((windows * windows.clamp_min(1e-9).log()).sum(-1) * weight).sum(1)
        quiet = [loud.mean(1) * 10, loud.amax(1) * 10]
        return torch.cat([*top, torch.stack([*alike, *entropy, spread, *quiet], 1)], 1)

    def forward(
        self, clip: torch.Tensor, windows: torch.Tensor, loud: torch.Tensor, silent: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities of clips (B, C) and windows (B, W, C), loudness of windows (B, W), silence (B,) → (B, 512)."""
        relation = self.relation(self.clues(clip, windows, loud)).softmax(-1)
        relation = torch.where(silent[:, None], F.one_hot(torch.tensor(3), 4).to(relation), relation)
        first, last = self.part(windows, loud, slice(0, 6)), self.part(windows, loud, slice(6, None))
        p = relation[:, :1] * clip + relation[:, 1:3].sum(1, keepdim=True) * several(clip, windows)
        nothing = F.one_hot(torch.tensor(self.silence_index), clip.shape[1]).to(p)
        p = p * (1 - relation[:, 3:]) + relation[:, 3:] * nothing
        sentence = F.normalize(p @ self.sentences, dim=-1) * self.energy["sentence"] ** 0.5
        events = F.normalize(p @ self.codes, dim=-1) * self.energy["events"] ** 0.5
        order = F.normalize((first - last) @ self.orders, dim=-1) * self.energy["order"] ** 0.5 * relation[:, 2:3]
        kinds = relation[:, :3] / relation[:, :3].norm(dim=-1, keepdim=True).clamp_min(1e-6)
        kinds = kinds * self.energy["relation"] ** 0.5
        return F.normalize(torch.cat([sentence, events, order, 2 * kinds], 1), dim=-1)


class EverydayClap(nn.Module):
    """Audio tower and text tower; see the module's docstring."""

    def __init__(self, config: EverydayClapConfig):
        super().__init__()
        self.config = config
        self.front_end = SfxLogMel(config.band_limit)
        self.network = SfxNetwork()
        self.tagger = TagHead(len(config.tags), config.hidden_size, heads=config.num_heads)
        self.space = JointSpace(len(config.tags), list(config.tags).index("silence"), config.energy)
        self.text = ClapTextModelWithProjection(ClapTextConfig(**config.text_config)) if config.text_config else None

    def probabilities(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, 512) → probabilities of clips (B, C) and windows (B, W, C), which add to one; loudness (B, W)."""
        clip, windows = self.tagger(features)
        loud = (features - self.tagger.silence).abs().mean(-1).unfold(1, WINDOW_STEPS, WINDOW_STRIDE).mean(-1)
        heat = self.config.tag_temperature
        return (clip / heat).softmax(-1), (windows / heat).softmax(-1), loud

    def listen(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 480000) at 48 kHz → features (B, 53, 512) and whether a row is silent (B,)."""
        sound = resample(waveforms)
        return self.network.frame_features(self.front_end(sound)), loudest_dbfs(sound) < self.config.silence_dbfs


class EverydayClapEncoder(nn.Module):
    """`EverydayClap`, frozen and always in eval mode, with its tokenizer: the interface of `ClapEncoder`.

    Args:
        model: the CLAP.
        tokenizer: for `encode_text`; may be None where only audio is embedded.
    """

    sampling_rate = INPUT_RATE

    def __init__(self, model: EverydayClap, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__()
        self.model, self.tokenizer = model.requires_grad_(False), tokenizer
        self.eval()

    def train(self, mode: bool = True) -> "EverydayClapEncoder":
        """Stays in eval mode."""
        return super().train(False)

    @property
    def config(self) -> EverydayClapConfig:
        return self.model.config

    @property
    def embedding_dim(self) -> int:
        """D, width of the joint space."""
        return self.config.projection_dim

    @property
    def tags(self) -> list[str]:
        """Names of the sounds it knows, in the order of `tag_scores`."""
        return list(self.config.tags)

    @property
    def device(self) -> torch.device:
        return self.model.space.codes.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.space.codes.dtype

    @torch.no_grad()
    def forward(
        self,
        waveforms: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed one kind of input: (B, 480000) at 48 kHz, or token ids and mask (B, L) → (B, D) unit rows, float32."""
        if (waveforms is None) == (input_ids is None):
            raise ValueError("pass either waveforms or input_ids")
        if input_ids is not None:
            output = self.model.text(input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device))
            return F.normalize(output.text_embeds.float(), dim=-1)
        return self.hear(waveforms)["embeds"]

    @torch.no_grad()
    def hear(self, waveforms: torch.Tensor | np.ndarray) -> dict[str, torch.Tensor]:
        """All at once: ``embeds`` (B, D), ``scores`` (B, C), ``window_scores`` (B, W, C), ``silent`` (B,)."""
        waveforms = torch.as_tensor(waveforms)
        if waveforms.ndim != 2 or waveforms.shape[1] != WINDOW_SAMPLES or not waveforms.is_floating_point():
            raise ValueError(f"waveforms have shape {tuple(waveforms.shape)}; pass floats (B, {WINDOW_SAMPLES})")
        if not torch.isfinite(waveforms).all():
            raise ValueError("waveforms hold NaN or infinity")
        parts: list[dict[str, torch.Tensor]] = []
        for row in waveforms.to(self.device)[:, None]:  # one by one: a row's bits do not depend on its batch
            features, silent = self.model.listen(row)
            clip, windows, loud = self.model.probabilities(features)
            share = self.config.window_weight
            scores = (1 - share) * clip + share * windows.amax(1)
            nothing = F.one_hot(torch.tensor(self.model.space.silence_index), clip.shape[1]).to(clip)
            parts.append({
                "embeds": self.model.space(clip, windows, loud, silent).float(),
                "scores": torch.where(silent[:, None], nothing, scores),
                "window_scores": torch.where(silent[:, None, None], nothing, windows),
                "silent": silent,
            })  # fmt: skip
        if not parts:
            width, windows = len(self.tags), 12
            return {"embeds": torch.empty(0, self.embedding_dim), "scores": torch.empty(0, width),
                    "window_scores": torch.empty(0, windows, width), "silent": torch.empty(0, dtype=torch.bool)}  # fmt: skip
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def encode_audio(self, waveforms: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(B, 480000) finite floats at 48 kHz → (B, D) unit rows, float32; B may be 0."""
        return self(waveforms=torch.as_tensor(waveforms))

    def tag_scores(self, waveforms: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(B, 480000) at 48 kHz → (B, C), how probable each sound of `tags` is, between 0 and 1."""
        return self.hear(waveforms)["scores"]

    def tags_over_time(self, waveforms: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, W, C) scores of windows of 1.7 s, and the times of their centers (W,) in seconds."""
        scores = self.hear(waveforms)["window_scores"]
        return scores, (torch.arange(scores.shape[1]) * WINDOW_STRIDE + WINDOW_STEPS / 2) * SECONDS_PER_STEP

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Captions → (B, D) unit rows; padding is masked, so a caption's embedding does not depend on its batch."""
        if self.tokenizer is None or self.model.text is None:
            raise ValueError("no tokenizer or text tower")
        parts = [torch.empty(0, self.embedding_dim, device=self.device)]
        for first in range(0, len(texts), batch_size):
            tokens = self.tokenizer(list(texts[first : first + batch_size]), padding=True, truncation=True,
                                    return_tensors="pt", max_length=self.tokenizer.model_max_length)  # fmt: skip
            parts.append(self(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]))
        return torch.cat(parts)

    def save_pretrained(self, save_directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer; ``dtype`` is that of the stored weights."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        state = {key: value.to(dtype) if dtype and value.is_floating_point() else value
                 for key, value in self.model.state_dict().items()}  # fmt: skip
        save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EverydayClapEncoder":
        """Load a folder that `save_pretrained` wrote; weights are float32 whatever the file holds."""
        folder = Path(folder)
        model = EverydayClap(EverydayClapConfig(**json.loads((folder / "config.json").read_text())))
        state = load_file(folder / "model.safetensors")
        model.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in state.items()})
        has_tokenizer = (folder / "tokenizer.json").is_file()
        return cls(model, AutoTokenizer.from_pretrained(folder) if has_tokenizer else None)
