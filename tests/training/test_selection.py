"""Which weights a stage ends with: the last or the best, early stop, CIDEr-D, and the record of the recipe."""

import dataclasses
import json
import shutil

import pytest
import torch

from diffusion_link_hf import DiffusionLinkModel
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, RecipeError
from diffusion_link_hf.metrics.errors import MetricDependencyError
from diffusion_link_hf.training import optimize
from diffusion_link_hf.training.bridge_metrics import validation_cosines
from diffusion_link_hf.training.bridge_run import BridgeRun
from diffusion_link_hf.training.decoder import DecoderRun
from diffusion_link_hf.training.methods import METHODS
from diffusion_link_hf.training.recipes import load_recipe
from diffusion_link_hf.training.train import train
from diffusion_link_hf.training.validation import CaptionValidation
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache

# At this rate the weights are thrown about: the best step is not the last.
UNSTABLE = {"max_steps": 60, "validate_every": 10, "learning_rate": 3.0, "ema_decay": 0.0, "keep": "best"}
UNSTABLE["loss"] = {"dim_reduction": "sum"}  # with means, the last of these happens to be the best


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a cache of several captions per recording, and a base model."""
    folder = tmp_path_factory.mktemp("room")
    make_cache().save(folder / "cache")
    make_base(folder / "base")
    return folder


def decoder(room, output, **changes):
    return decoder_arguments(room / "cache", room / "base", output, **{"max_steps": 20, "warmup_steps": 2, **changes})


def spy_on(monkeypatch, owner, name):
    """Calls ``owner.name`` as ever, and keeps what it returned."""
    real, returned = getattr(owner, name), []

    def spy(*args, **kwargs):
        returned.append(real(*args, **kwargs))
        return returned[-1]

    monkeypatch.setattr(owner, name, spy)
    return returned


def test_the_best_link_is_kept(room, tmp_path, monkeypatch):
    measured = spy_on(monkeypatch, BridgeRun, "validate")
    metrics = train(bridge_arguments(room / "cache", tmp_path, **UNSTABLE))
    cosines = [figures["matched_audio"] for figures in measured]
    best = max(cosines)
    assert best > cosines[-1]
    assert metrics["steps"] == 10 * (cosines.index(best) + 1)
    link = DiffusionLinkModel.from_pretrained(tmp_path / "link")
    validation = EmbeddingPairs.load(room / "cache").split(0.2, 0)[1]
    assert validation_cosines(link, validation)["matched_audio"] == pytest.approx(best, abs=1e-6)


def test_the_last_link_is_the_default(room, tmp_path):
    changes = {**UNSTABLE, "keep": "last"}
    assert train(bridge_arguments(room / "cache", tmp_path, **changes))["steps"] == 60


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_the_best_survives_an_interruption(room, tmp_path, monkeypatch, stage):
    """The checkpoint holds it: the best of the first part of the run may be the best of all."""
    if stage == "bridge":
        arguments = bridge_arguments(room / "cache", tmp_path / "whole", **UNSTABLE, checkpoint_every=35)
    else:
        # The highest loss is the first; four validations later the training ends.
        monkeypatch.setattr(CaptionValidation, "score", lambda self, figures: figures["loss"])
        changes = {"validate_every": 3, "checkpoint_every": 8, "keep": "best", "patience": 4}
        arguments = decoder(room, tmp_path / "whole", **changes)
    train(arguments)
    real = optimize.save_checkpoint

    def dies_after_saving(*args):
        real(*args)
        raise KeyboardInterrupt

    broken = dataclasses.replace(arguments, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patched:
        patched.setattr(optimize, "save_checkpoint", dies_after_saving)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(broken)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "broken")]
    assert metrics[0]["steps"] == metrics[1]["steps"] < arguments.max_steps


def test_patience_ends_the_training(room, tmp_path, monkeypatch):
    """Three validations without a better loss, where nothing can get better."""
    measured = spy_on(monkeypatch, DecoderRun, "validate")
    changes = {"learning_rate": 1e-12, "validate_every": 2, "patience": 3, "weight_decay": 0.0}
    monkeypatch.setattr(CaptionValidation, "score", lambda *_: 0.0)
    assert train(decoder(room, tmp_path, **changes))["steps"] == 8
    assert len(measured) == 4


@pytest.mark.skipif(shutil.which("java") is None, reason="CIDEr-D needs Java for its tokenizer")
def test_captions_are_scored_while_training(room, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    measured = spy_on(monkeypatch, DecoderRun, "validate")
    changes = {"max_steps": 120, "validate_every": 60, "validate_metric": "cider_d", "validation_captions": 12}
    metrics = train(decoder(room, tmp_path, **changes, keep="best"))
    assert [set(figures) for figures in measured] == [{"loss", "perplexity", "cider_d"}] * 2
    # One word per caption: unigrams alone count, a quarter of CIDEr-D's 10, for those that are right.
    assert metrics["cider_d"] == pytest.approx(2.5)
    assert metrics["loss"] < 0.5


def test_a_metric_that_cannot_be_computed_is_refused_before_anything_is_loaded(room, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    recipe = decoder(room, tmp_path, validate_metric="cider_d", keep="best")
    with pytest.raises(MetricDependencyError, match="Java"):
        train(dataclasses.replace(recipe, base_model=str(tmp_path / "no such model")))


@pytest.mark.parametrize(
    "changes", [{"keep": "best"}, {"patience": 1, "validate_every": 1}, {"validate_metric": "cider_d", "keep": "best"}]
)
def test_a_choice_without_recordings_is_refused(room, tmp_path, changes):
    with pytest.raises(RecipeError, match="holds out 0 usable recordings"):
        train(decoder(room, tmp_path, validation_fraction=0.001, **changes))
    if changes == {"keep": "best"}:
        with pytest.raises(RecipeError, match="no recording is held out"):
            train(bridge_arguments(room / "cache", tmp_path, validation_fraction=0.001, **changes))


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_the_recipe_trains_again(room, tmp_path, stage):
    """recipe.yaml beside the result: the arguments, defaults among them, and what it was run with."""
    if stage == "bridge":
        arguments = bridge_arguments(room / "cache", tmp_path, max_steps=2)
        train(arguments)
    else:
        arguments = decoder(room, tmp_path, max_steps=2)
        train(arguments)
    text = (tmp_path / "recipe.yaml").read_text()
    if stage == "bridge":  # with every option of the loss, so that it means the same when a default changes
        arguments = dataclasses.replace(arguments, loss=METHODS["diffusion-link"].all_loss_options(arguments.loss))
    assert load_recipe(tmp_path / "recipe.yaml") == arguments
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert f"# torch {torch.__version__}" in head
    assert any(line.startswith("# data: fingerprint ") for line in head)
    assert any(line.startswith("# base_model: fingerprint ") for line in head) == (stage == "decoder")
    assert not any("/" in line for line in head)


def test_the_cosine_schedule(room, tmp_path, monkeypatch):
    rates = []
    real = BridgeRun.train_step

    def noted(run):
        rates.append(run.optimizer.param_groups[0]["lr"])
        return real(run)

    monkeypatch.setattr(BridgeRun, "train_step", noted)
    train(bridge_arguments(room / "cache", tmp_path, max_steps=11, lr_schedule="cosine", learning_rate=1e-3))
    expected = [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * k / 11)).item()) / 2 for k in range(11)]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_figures_that_are_never_numbers_are_reported(room, tmp_path, monkeypatch, stage):
    nan = {"matched_audio": float("nan"), "matched_text": 0.0}
    monkeypatch.setattr("diffusion_link_hf.training.bridge.validation_cosines", lambda *_: nan)
    monkeypatch.setattr(CaptionValidation, "score", lambda *_: float("nan"))
    changes = {"max_steps": 3, "keep": "best"}
    link = bridge_arguments(room / "cache", tmp_path, **changes)
    with pytest.raises(DataError, match="was NaN at every validation"):
        train(link if stage == "bridge" else decoder(room, tmp_path, **changes))
    assert not (tmp_path / "metrics.json").exists()
