"""FENSE from its parts, the detector's decisions, and the conversion of FENSE's own checkpoint."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from diffusion_link_hf.errors import ModelFolderError
from diffusion_link_hf.metrics import Captions, MetricDependencyError, score
from diffusion_link_hf.metrics import fense as module
from diffusion_link_hf.metrics.captions import CaptionScores
from diffusion_link_hf.metrics.fense import fense, fetch_fluency_detector, fluency_error
from diffusion_link_hf.metrics.fluency_detector import convert_fense_checkpoint, load_fluency_detector

CANDIDATES = [
    "A dog barks!",
    "rain falls and",
    "birds chirp near the the man",
    "a cat",
    "engine hums loudly and",
    "man",
]
REFERENCES = [
    ["a dog barks"],
    ["rain falls"],
    ["birds chirp", "a man"],
    ["a cat meows"],
    ["an engine"],
    ["a man speaks"],
]


@pytest.fixture
def metrics_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LINK_METRICS", str(tmp_path / "metrics"))
    return tmp_path / "metrics"


def error_probability(encoder, head, tokenizer, text):
    """FENSE's classifier, written out: the first token's last hidden state, one linear layer, the last class."""
    with torch.no_grad():
        state = encoder(**tokenizer([text], return_tensors="pt")).last_hidden_state[0, 0]
        return torch.sigmoid(head(state))[-1].item()


def test_decisions_of_the_detector(detector_folder, monkeypatch):
    detector, tokenizer = load_fluency_detector(detector_folder)
    texts = ["a dog barks", *CANDIDATES[1:]]  # as it reads them
    expected = [error_probability(detector.bert, detector.classifier, tokenizer, text) for text in texts]
    threshold = float(np.median(expected))
    monkeypatch.setattr(module, "THRESHOLD", threshold)
    captions = Captions([*CANDIDATES, ""], [*REFERENCES, ["a dog"]])
    scores = fluency_error(captions, detector_folder, batch_size=2)
    assert scores.per_caption["fluency_error"].tolist() == [*(float(p > threshold) for p in expected), 1.0]
    assert scores.corpus["fluency_error"] == pytest.approx(4 / 7)
    turned = Captions(CANDIDATES[::-1], REFERENCES[::-1])
    found = fluency_error(turned, detector_folder).per_caption["fluency_error"]
    assert found[::-1].tolist() == scores.per_caption["fluency_error"][:-1].tolist()


def test_fense_cuts_the_similarity_of_disfluent_captions():
    similarity = CaptionScores.mean_of("sbert_similarity", [0.8, 0.6, -0.1, 0.5])
    error = CaptionScores.mean_of("fluency_error", [False, True, True, False])
    scores = fense(similarity, error)
    assert scores.per_caption["fense"] == pytest.approx([0.8, 0.06, -0.01, 0.5])
    assert scores.corpus["fense"] == pytest.approx(1.35 / 4)


def test_fense_through_the_registry(sbert_folder, detector_folder, monkeypatch):
    monkeypatch.setattr(module, "THRESHOLD", 0.5)
    names = ["fense", "sbert_similarity", "fluency_error"]
    scores = score(CANDIDATES, REFERENCES, names, sbert_model=sbert_folder, fluency_model=detector_folder).per_caption
    np.testing.assert_allclose(scores["fense"], scores["sbert_similarity"] * (1 - 0.9 * scores["fluency_error"]))


def test_without_a_detector_nothing_is_scored(metrics_folder, sbert_folder):
    with pytest.raises(MetricDependencyError, match="Run once: diffusion-link score --fetch fluency"):
        score(["a"], [["a"]], ["fense"], sbert_model=sbert_folder)


def test_detectors_that_are_damaged(detector_folder, bert_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(ModelFolderError, match=r"cannot be loaded|lacks"):
        load_fluency_detector(bert_folder)  # a BERT without a head
    weights = load_file(detector_folder / "model.safetensors")
    for path in detector_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({**weights, "classifier.bias": weights["classifier.bias"] * float("nan")}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"classifier\.bias holds NaN"):
        load_fluency_detector(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        load_fluency_detector(tmp_path)


@pytest.fixture
def checkpoint(bert_folder, tmp_path):
    """FENSE's form: the encoder with its unused pooling layer and a buffer of old versions, and the head."""
    torch.manual_seed(2)
    encoder, head = AutoModel.from_pretrained(bert_folder).eval(), torch.nn.Linear(16, 6)
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    weights["encoder.embeddings.position_ids"] = torch.arange(80)[None]
    weights |= {f"clf.{key}": value for key, value in head.state_dict().items()}
    assert any(".pooler." in key for key in weights)
    path = tmp_path / "echecker.ckpt"
    torch.save({"model_type": str(bert_folder), "num_classes": 6, "state_dict": weights}, path)
    return path, encoder, head


def test_the_converted_checkpoint_is_the_same_network(checkpoint, bert_folder, tmp_path):
    path, encoder, head = checkpoint
    detector, tokenizer = load_fluency_detector(convert_fense_checkpoint(path, tmp_path / "converted"))
    assert detector.config.id2label[5] == "error"
    for text in ("a dog barks", "birds chirp near the"):
        inputs = tokenizer([text], return_tensors="pt", padding="max_length", max_length=64)
        with torch.no_grad():
            found = torch.sigmoid(detector(**inputs))[0, -1].item()
        expected = error_probability(encoder, head, AutoTokenizer.from_pretrained(bert_folder), text)
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_fetched_checkpoint_is_found_by_default(checkpoint, bert_folder, metrics_folder, monkeypatch):
    import hashlib

    path = checkpoint[0]
    with pytest.raises(MetricDependencyError, match="SHA-256"):
        fetch_fluency_detector(path)
    monkeypatch.setattr(module, "DETECTOR_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(module, "DETECTOR_BASE", str(bert_folder))
    fetch_fluency_detector(path)
    assert fluency_error(Captions(["a dog"], [["a dog"]])).corpus["fluency_error"] in (0.0, 1.0)
    with pytest.raises(MetricDependencyError, match="there is no file"):
        fetch_fluency_detector(path.with_name("missing.ckpt"))


def test_files_that_are_no_such_checkpoint(tmp_path, bert_folder, checkpoint):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    for name in ("text.ckpt", "other.ckpt", "missing.ckpt"):
        with pytest.raises(ModelFolderError, match="not a fluency detector"):
            convert_fense_checkpoint(tmp_path / name, tmp_path / "out")
    saved = torch.load(checkpoint[0])
    del saved["state_dict"]["clf.bias"]
    torch.save(saved, tmp_path / "part.ckpt")
    with pytest.raises(ModelFolderError, match="do not fit"):
        convert_fense_checkpoint(tmp_path / "part.ckpt", tmp_path / "out")
