"""FENSE (Zhou et al., 2022): sentence similarity, cut by nine tenths where a caption has a fluency error."""

import os
import re
from pathlib import Path

import numpy as np

from .captions import Captions, CaptionScores
from .downloads import check_sha256, download, metrics_folder
from .errors import MetricDependencyError
from .sbert import check_sentence_transformers

THRESHOLD = 0.9  # probability above which a caption counts as disfluent
PENALTY = 0.9
FETCH_COMMAND = "diffusion-link score --fetch fluency"
DETECTOR_URL = "https://github.com/blmoistawinde/fense/releases/download/V0.1/echecker_clotho_audiocaps_base.ckpt"
DETECTOR_SHA256 = "1a719f090af70614bbdb9f9437530b7e133c48cfa4a58d964de0d47fc974a2fa"
DETECTOR_BASE = "google-bert/bert-base-uncased"


def default_detector_folder() -> Path:
    """Where `fetch_fluency_detector` puts FENSE's detector."""
    return metrics_folder() / "echecker_clotho_audiocaps_base"


def fetch_fluency_detector(archive: str | os.PathLike | None = None) -> Path:
    """Installs FENSE's published detector (0.4 GB) where `fluency_error` finds it.

    Args:
        archive: a copy of echecker_clotho_audiocaps_base.ckpt; None fetches it. Its BERT's configuration and tokenizer
            come from the Hub in either case.

    Raises:
        MetricDependencyError: it cannot be fetched, or its checksum differs.
        HubAccessError, ModelFolderError: see `convert_fense_checkpoint`.
    """
    from .fluency_detector import convert_fense_checkpoint

    folder = default_detector_folder()
    checkpoint = Path(archive) if archive is not None else folder.with_suffix(".ckpt")
    if archive is None:
        download("fense", DETECTOR_URL, checkpoint, DETECTOR_SHA256)
    elif not checkpoint.is_file():
        raise MetricDependencyError("fense", f"there is no file {checkpoint}", f"Download it from {DETECTOR_URL}")
    check_sha256("fense", checkpoint, DETECTOR_SHA256)
    convert_fense_checkpoint(checkpoint, folder, DETECTOR_BASE)
    if archive is None:
        checkpoint.unlink()
    return folder


def check_fense(fluency_model: str | os.PathLike | None) -> None:
    """Raises MetricDependencyError where a package or, with None, the fetched detector is missing."""
    check_sentence_transformers()
    if fluency_model is None and not (default_detector_folder() / "config.json").is_file():
        raise MetricDependencyError(
            "fense",
            f"needs a fluency-error detector, and none is in {default_detector_folder()}",
            f"Run once: {FETCH_COMMAND}; or name a folder or Hub id as the fluency model",
        )


def fluency_error(
    captions: Captions, model: str | os.PathLike | None = None, device: str = "cpu", batch_size: int = 32
) -> CaptionScores:
    """Rate of candidates with a fluency error, in [0, 1]; 0 or 1 of a caption. An empty candidate is an error.

    Args:
        model: folder or Hub id of a `FluencyErrorDetector`; None takes the one that was fetched.

    Raises:
        MetricDependencyError: None, and none was fetched.
        HubAccessError, ModelFolderError: the detector cannot be had or loaded.
        InputError: a device that cannot be used.
    """
    check_fense(model)
    import torch

    from ..tensors import check_device

    check_device(device)

    from .fluency_detector import MAX_TOKENS, load_fluency_detector

    detector, tokenizer = load_fluency_detector(model if model is not None else default_detector_folder())
    detector.to(device)
    texts = sorted({_plain(text) for text in captions.candidates})
    probability = {}
    for first in range(0, len(texts), batch_size):
        part = texts[first : first + batch_size]
        batch = tokenizer(part, truncation=True, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            logits = detector(**batch.to(device))
        probability.update(zip(part, torch.sigmoid(logits[:, -1]).cpu().tolist(), strict=True))
    return CaptionScores.mean_of(
        "fluency_error",
        [not text.strip() or probability[_plain(text)] > THRESHOLD for text in captions.candidates],
    )


def fense(sbert_similarity: CaptionScores, fluency_error: CaptionScores) -> CaptionScores:
    """FENSE in [-1, 1] from both of its parts, of the same captions: similarity × (1 − 0.9 · error)."""
    similarity, error = sbert_similarity.per_caption["sbert_similarity"], fluency_error.per_caption["fluency_error"]
    return CaptionScores.mean_of("fense", np.where(error > 0, similarity * (1 - PENALTY), similarity))


def _plain(text: str) -> str:
    """Lower-cased and without punctuation, as the detector's training texts."""
    return re.sub(r"[^\w\s]", "", text).lower()
