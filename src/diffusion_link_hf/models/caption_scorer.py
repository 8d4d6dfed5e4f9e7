"""The caption scorer: how probable it is that a caption is right, when to hedge, and what is silence."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config

from ..errors import InputError, ModelFolderError
from ..loading import LoadPath, read_json

FEATURES = ("cosine", "log_probability", "tokens", "log_certainty")
SILENCE_CAPTION = "Silence"
NEWTON_STEPS = 50


class CaptionScorer(ConfigMixin):
    """A calibrated score for captions: logistic regression on what the captioner itself knows.

    The features of a caption are the cosine of its text embedding and the audio embedding, the decoder's mean
    log-probability per token, the number of tokens, and the logarithm of the encoder's own certainty, which is 0 for
    encoders that have none. Fit it on recordings that no training heard.

    Args:
        bias: of the regression.
        weights: of the four features.
        unknown_below: captions with a lower score are hedged, see `hedge`; 0 hedges none.
        silence_dbfs: dB relative to full scale; a window whose loudest 186 ms are fainter is called silence.

    Raises:
        InputError: another number of weights, a value that is not finite, or ``unknown_below`` outside 0 to 1.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import CaptionScorer
        >>> features = torch.tensor([[0.9, -0.4, 8, 0], [0.8, -0.6, 9, 0], [0.3, -2, 8, 0], [0.2, -1.5, 9, 0]])
        >>> scorer = CaptionScorer.fit(features, torch.tensor([True, True, False, False]))
        >>> [round(score) for score in scorer.scores(features).tolist()]
        [1, 1, 0, 0]
        >>> scorer.hedge("A dog barks", 0.05), scorer.hedge("A dog barks", 0.9)
        ('An unknown sound, perhaps a dog barks', 'A dog barks')
    """

    config_name = "scorer_config.json"

    @register_to_config
    def __init__(
        self,
        bias: float,
        weights: Sequence[float],
        unknown_below: float = 0.12,
        silence_dbfs: float = -62.0,
    ):
        if len(weights) != len(FEATURES):
            raise InputError("weights", f"has {len(weights)} values", f"One each for {', '.join(FEATURES)}")
        for name, value in (("bias", bias), *zip(FEATURES, weights, strict=True), ("silence_dbfs", silence_dbfs)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(name, f"is {value!r}", "Use a finite number")
        check_unknown_below(unknown_below)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """(N, 4) features → (N,) float64 probabilities that a caption is right."""
        weights = torch.tensor(list(self.config.weights), dtype=torch.float64)
        return torch.sigmoid(features.double().cpu() @ weights + self.config.bias)

    def hedge(self, caption: str, score: float, unknown_below: float | None = None) -> str:
        """The caption as it may be said with that score: below the threshold "An unknown sound, perhaps …".

        Args:
            unknown_below: the threshold instead of the configured one.
        """
        threshold = self.config.unknown_below if unknown_below is None else unknown_below
        if score >= threshold:
            return caption
        if not caption:
            return "An unknown sound"
        acronym = (
            len(caption) > 1 and caption[:2].isalpha() and caption[:2].isupper()
        )  # "TV noise" stays, "A dog" becomes "a dog"
        return f"An unknown sound, perhaps {caption if acronym else caption[0].lower() + caption[1:]}"

    @classmethod
    def fit(
        cls, features: torch.Tensor, right: torch.Tensor, ridge: float = 1e-2, **settings: float
    ) -> "CaptionScorer":
        """Logistic regression by Newton's method.

        Args:
            features: (N, 4) of captions of recordings that no training heard.
            right: (N,) bool, whether a caption is right.
            ridge: weight of the squared weights, which keeps them finite where a feature separates all.
            settings: ``unknown_below`` and ``silence_dbfs``.

        Raises:
            InputError: other shapes, or captions that are all right or all wrong.
        """
        if features.ndim != 2 or features.shape != (len(right), len(FEATURES)):
            raise InputError("features", f"has shape {tuple(features.shape)}", f"Pass ({len(right)}, {len(FEATURES)})")
        right = right.double()
        if not 0 < right.mean() < 1:
            raise InputError("right", "says the same of all captions", "Give some that are right and some that are not")
        x = features.double()
        mean, deviation = x.mean(0), x.std(0).clamp_min(1e-9)  # else the ridge would weigh on some features more
        x = torch.cat([x.new_ones(len(x), 1), (x - mean) / deviation], dim=1)
        penalty = ridge * torch.eye(x.shape[1], dtype=x.dtype)
        penalty[0, 0] = 0
        beta = x.new_zeros(x.shape[1])
        for _ in range(NEWTON_STEPS):
            p = torch.sigmoid(x @ beta)
            curvature = (x * (p * (1 - p))[:, None]).T @ x + penalty
            step = torch.linalg.solve(curvature, x.T @ (right - p) - penalty @ beta)
            beta += step
            if step.abs().max() < 1e-9:
                break
        weights = beta[1:] / deviation
        return cls(float(beta[0] - weights @ mean), weights.tolist(), **settings)

    def save_pretrained(self, save_directory: LoadPath) -> None:
        """Write ``scorer_config.json``."""
        self.save_config(save_directory)

    @classmethod
    def from_pretrained(cls, name_or_path: LoadPath) -> "CaptionScorer":
        """Of a folder that `save_pretrained` wrote.

        Raises:
            ModelFolderError: the file is missing or damaged, or a value is out of range.
        """
        path = Path(name_or_path) / cls.config_name
        values = {key: value for key, value in read_json(path).items() if not key.startswith("_")}
        try:
            return cls(**values)
        except (TypeError, InputError) as error:
            raise ModelFolderError(path, f"describes no scorer ({error})", "Save or download it again") from error


def check_unknown_below(value: object) -> None:
    """Raises InputError for what is no threshold of a score."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError("unknown_below", f"is {value!r}", "Use a score from 0 to 1; 0 hedges no caption")
