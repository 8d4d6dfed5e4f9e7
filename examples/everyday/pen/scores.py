"""Honest scores: agreement of caption and sound to a calibrated probability, hedged captions, silence by level."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SILENCE_DBFS = -66.0  # the loudest 50 ms of a recording that says nothing
HEDGED, UNKNOWN = 0.35, 0.12  # below: "Possibly …"; "An unknown sound"


@dataclass(frozen=True)
class Calibration:
    """p = 1 / (1 + exp(-(bias + Σ weight · feature))).

    Features: the cosine of audio and caption embedding; the decoder's mean log-probability per token; the number of
    events that the caption names less one (a caption of two events is right more seldom).
    """

    bias: float
    weights: tuple[float, ...]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N, F) → (N,) probabilities that the caption names what is heard."""
        return 1 / (1 + np.exp(-(self.bias + np.asarray(features) @ np.array(self.weights))))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        values = json.loads(path.read_text())
        return cls(values["bias"], tuple(values["weights"]))

    @classmethod
    def fit(cls, features: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None, ridge: float = 1e-2):
        """Logistic regression by Newton's method. (N, F), (N,) bool; ``weight`` (N,) balances kinds of scenes."""
        x = np.concatenate([np.ones((len(features), 1)), features], 1)
        w = np.ones(len(x)) if weight is None else weight / weight.mean()
        beta = np.zeros(x.shape[1])
        penalty = ridge * np.eye(len(beta))
        penalty[0, 0] = 0
        for _ in range(50):
            p = 1 / (1 + np.exp(-x @ beta))
            step = np.linalg.solve(
                (x * (w * p * (1 - p))[:, None]).T @ x + penalty, x.T @ (w * (right - p)) - penalty @ beta
            )
            beta += step
            if np.abs(step).max() < 1e-8:
                break
        return cls(float(beta[0]), tuple(map(float, beta[1:])))


def calibration_error(p: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equally filled bins."""
    parts = np.array_split(np.argsort(p), bins)
    return float(sum(len(k) * abs(p[k].mean() - right[k].mean()) for k in parts if len(k)) / len(p))


def report(features: np.ndarray, right: np.ndarray, groups: np.ndarray, folds: int = 5, seed: int = 0) -> dict:
    """Figures of held-out groups: error of calibration, share right of those that say .8, share that says so."""
    names = np.unique(groups)
    fold_of = dict(zip(np.random.default_rng(seed).permutation(names), np.arange(len(names)) % folds))
    fold = np.array([fold_of[g] for g in groups])
    p = np.empty(len(right))
    for k in range(folds):
        p[fold == k] = Calibration.fit(features[fold != k], right[fold != k])(features[fold == k])
    sure, unknown = p >= 0.8, p < UNKNOWN
    return {
        "calibration_error": calibration_error(p, right), "n": len(p), "right": float(right.mean()),
        "share_sure": float(sure.mean()), "right_if_sure": float(right[sure].mean()) if sure.any() else math.nan,
        "share_unknown": float(unknown.mean()), "right_if_unknown": float(right[unknown].mean()) if unknown.any() else math.nan,
        "auc": _auc(p, right),
    }  # fmt: skip


def _auc(p: np.ndarray, right: np.ndarray) -> float:
    rank = np.empty(len(p))
    rank[np.argsort(p)] = np.arange(1, len(p) + 1)
    n = right.sum()
    return float((rank[right].sum() - n * (n + 1) / 2) / max(1, n * (len(p) - n)))


def loudest_dbfs(samples: np.ndarray, sampling_rate: int) -> float:
    """Level of the loudest 50 ms in dB of full scale."""
    n = max(1, int(0.05 * sampling_rate))
    if len(samples) < n:
        samples = np.pad(samples, (0, n - len(samples)))
    pieces = samples[: len(samples) // n * n].reshape(-1, n).astype(np.float64)
    pieces = pieces - pieces.mean(1, keepdims=True)  # a constant offset is no sound
    return 10 * math.log10(max(float((pieces**2).mean(1).max()), 1e-12))


def hedged(caption: str, probability: float) -> str:
    """The caption as it may be said with that probability."""
    if probability < UNKNOWN:
        return f"An unknown sound, perhaps {caption[0].lower()}{caption[1:]}"
    return f"Possibly {caption[0].lower()}{caption[1:]}" if probability < HEDGED else caption
