"""Similarity of sentence embeddings (Reimers and Gurevych, 2019) between a caption and its references."""

import os

import numpy as np

from ..errors import ModelFolderError
from .captions import Captions, CaptionScores
from .errors import MetricDependencyError
from .java import INSTALL_METRICS

DEFAULT_SBERT = "sentence-transformers/paraphrase-TinyBERT-L6-v2"  # FENSE's
# The Hub's folder also holds the same weights for other frameworks.
FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]


def check_sentence_transformers() -> None:
    """Raises MetricDependencyError where sentence-transformers is not installed."""
    import importlib.util

    if importlib.util.find_spec("sentence_transformers") is None:
        raise MetricDependencyError(
            "sbert_similarity",
            "needs the package sentence-transformers",
            f"Run: {INSTALL_METRICS}",
        )


def sbert_similarity(
    captions: Captions, model: str | os.PathLike = DEFAULT_SBERT, device: str = "cpu", batch_size: int = 32
) -> CaptionScores:
    """Cosine in [-1, 1] between the candidate's embedding and each reference's, averaged over the references.

    The texts are embedded as they are, without PTB tokenization, as in FENSE. An empty candidate scores 0.

    Args:
        model: folder or Hub id of a sentence-transformers model with safetensors weights.

    Raises:
        MetricDependencyError: sentence-transformers is not installed.
        HubAccessError, ModelFolderError: the model cannot be had or loaded.
        InputError: a device that cannot be used.
    """
    encoder = load_sentence_encoder(model, device)
    texts = [*captions.candidates, *(text for row in captions.references for text in row)]
    # A fixed order of work, whatever the order of the rows, and no text twice.
    distinct = sorted(set(texts))
    vectors = encoder.encode(
        distinct, batch_size=batch_size, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    ).astype(np.float64)
    vector = dict(zip(distinct, vectors, strict=True))
    return CaptionScores.mean_of(
        "sbert_similarity",
        [
            float(np.mean([vector[candidate] @ vector[text] for text in row])) if candidate.strip() else 0.0
            for candidate, row in zip(captions.candidates, captions.references, strict=True)
        ],
    )


def load_sentence_encoder(model: str | os.PathLike, device: str = "cpu"):
    """The SentenceTransformer of a folder or Hub id, in float32 and evaluation mode.

    Raises:
        MetricDependencyError, HubAccessError, ModelFolderError, InputError: see `sbert_similarity`.
    """
    check_sentence_transformers()
    from sentence_transformers import SentenceTransformer

    from ..loading import check_finite, refuse_pickles, resolve_folder
    from ..tensors import check_device

    check_device(device)
    folder = resolve_folder(model, allow_patterns=FILES)
    refuse_pickles(folder)
    if not (folder / "modules.json").is_file():
        raise ModelFolderError(
            folder, "is not a sentence-transformers model: it has no modules.json", "Name such a model"
        )
    try:
        encoder = SentenceTransformer(str(folder), device=device, local_files_only=True)
    except Exception as error:  # whatever the loader raises, the user has to hear which folder it was
        raise ModelFolderError(folder, f"cannot be loaded ({error})", "Save or download it again") from error
    check_finite(encoder, folder)
    return encoder.eval()
