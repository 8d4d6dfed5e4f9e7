"""Sentence similarity with a tiny sentence-transformers model that was saved to disk."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.errors import HubAccessError, InputError, ModelFolderError
from diffusion_link_hf.metrics import Captions, MetricDependencyError, score
from diffusion_link_hf.metrics.sbert import sbert_similarity

ROWS = (
    ["a dog barks", "rain falls near the man", "birds chirp", "", "🐶"],
    [["the dog barks loudly", "a cat meows"], ["rain falls near the man"], ["engine hums"], ["a dog"], ["a dog"]],
)


def embed(folder, text):
    """Mean of the last hidden states over the tokens, scaled to length one."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    with torch.no_grad():
        vector = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].mean(0).double().numpy()
    return vector / np.linalg.norm(vector)


def test_mean_cosine_over_the_references(sbert_folder, bert_folder):
    scores = sbert_similarity(Captions(*ROWS), sbert_folder, batch_size=2)
    for k in (0, 1, 2, 4):
        expected = np.mean([embed(bert_folder, ROWS[0][k]) @ embed(bert_folder, text) for text in ROWS[1][k]])
        assert scores.per_caption["sbert_similarity"][k] == pytest.approx(expected, abs=1e-5)
    assert scores.per_caption["sbert_similarity"][1] == pytest.approx(1.0, abs=1e-6)
    assert scores.per_caption["sbert_similarity"][3] == 0.0
    assert scores.corpus["sbert_similarity"] == pytest.approx(scores.per_caption["sbert_similarity"].mean())
    assert np.ptp(scores.per_caption["sbert_similarity"][[0, 2, 4]]) > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neither_order_nor_batch_size_matters(sbert_folder, batch_size):
    expected = sbert_similarity(Captions(*ROWS), sbert_folder).per_caption["sbert_similarity"]
    turned = Captions(ROWS[0][::-1], [row[::-1] for row in ROWS[1][::-1]])
    found = sbert_similarity(turned, sbert_folder, batch_size=batch_size).per_caption["sbert_similarity"]
    np.testing.assert_allclose(found[::-1], expected, atol=1e-6)


def test_a_caption_of_100000_characters(sbert_folder):
    assert (
        -1 <= sbert_similarity(Captions(["dog " * 25_000], [["a dog"]]), sbert_folder).corpus["sbert_similarity"] <= 1
    )


def test_folders_that_are_no_such_model(sbert_folder, bert_folder, tmp_path):
    captions = Captions(["a"], [["a"]])
    with pytest.raises(ModelFolderError, match=r"has no modules\.json"):
        sbert_similarity(captions, bert_folder)
    with pytest.raises(ModelFolderError, match="no such folder"):
        sbert_similarity(captions, tmp_path / "missing")
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="is a pickle"):
        sbert_similarity(captions, tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        sbert_similarity(captions, tmp_path)


def test_a_hub_id_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubAccessError, match="somebody/no-such-sbert"):
        sbert_similarity(Captions(["a"], [["a"]]), "somebody/no-such-sbert")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_devices_that_are_not_there(sbert_folder, device):
    with pytest.raises(InputError, match="device: "):
        sbert_similarity(Captions(["a"], [["a"]]), sbert_folder, device=device)


def test_without_sentence_transformers(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MetricDependencyError, match=r"sentence-transformers.*diffusion-link-hf\[metrics\]"):
        score(["a"], [["a"]], metrics=["sbert_similarity"])
