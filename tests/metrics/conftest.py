"""Rows of AudioCaps, captions whose tokens need no Java, stand-ins for Java, and tiny text models."""

import csv
import importlib.util
import shutil
import stat
from collections import defaultdict

import pytest

from diffusion_link_hf.metrics import Captions

WORDS = "a the dog cat barks meows loudly while rain falls and man speaks engine hums near birds chirp".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def ptb():
    """Skips where the PTB tokenizer and METEOR cannot run."""
    if shutil.which("java") is None:
        pytest.skip("no Java on the PATH")
    if importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("pycocoevalcap is not installed")


@pytest.fixture(scope="session")
def audiocaps(shared_data, ptb):
    """Captions of the AudioCaps test set, one of each clip's five as candidate; tokenized once for all tests."""
    clips = defaultdict(list)
    with open(shared_data / "audiocaps" / "test.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            clips[row["youtube_id"]].append(row["caption"])
    rows = [
        (texts[k % len(texts)], texts[: k % len(texts)] + texts[k % len(texts) + 1 :])
        for k, texts in enumerate(clips.values())
    ]
    captions = Captions(*zip(*rows, strict=True))
    assert len(captions) == 975
    assert captions.tokens.candidates
    return captions


@pytest.fixture
def stand_in_java(tmp_path, monkeypatch):
    """Function that puts a shell script in the place of ``java`` (and ``javac``)."""

    def install(script: str):
        folder = tmp_path / "java_home" / "bin"
        folder.mkdir(parents=True)
        for name in ("java", "javac"):
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("JAVA_HOME", str(folder.parent))

    return install


@pytest.fixture
def no_java(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A random two-layer BERT with a vocabulary of a few words, as base of both networks."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sbert_folder(bert_folder, tmp_path_factory):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers import models

    folder = tmp_path_factory.mktemp("sbert")
    transformer = models.Transformer(str(bert_folder), max_seq_length=64)
    pooling = models.Pooling(16, pooling_mode="mean")
    sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def detector_folder(bert_folder, tmp_path_factory):
    import torch
    from transformers import AutoTokenizer, BertConfig

    from diffusion_link_hf.metrics.fluency_detector import FluencyErrorDetector

    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(bert_folder, num_labels=6)
    FluencyErrorDetector(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(folder)
    return folder
