"""Trackers by name: what they are given of a run."""

from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.bridge_metrics import S_STAR_GRID, bridge_metrics
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.trackers import (
    available_tracker,
    flat_figures,
    log_captions,
    plain_fields,
    start_tracker,
)
from diffusion_link_hf.training.train import train
from support.models import EMBEDDING_DIM, make_link
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache


def events(output) -> EventAccumulator:
    """Of all files below ``output``, merged."""
    (file,) = [path for path in output.rglob("events.out.tfevents*") if path.parent.parent.name == "logs"]
    return EventAccumulator(str(file)).Reload()


def test_a_link_run_logs_its_curves(tmp_path):
    make_cache().save(tmp_path / "cache")
    options = {"max_steps": 20, "log_every": 5, "validate_every": 10, "max_train_timestep": 300}
    recipe = bridge_arguments(tmp_path / "cache", tmp_path / "out", report_to="tensorboard", **options)
    metrics = train(recipe)
    log = events(tmp_path / "out")
    assert [event.step for event in log.Scalars("train/loss")] == [5, 10, 15, 20]
    assert [event.step for event in log.Scalars("validation/matched_audio")] == [10, 20]
    assert log.Scalars("validation/matched_audio")[-1].value == pytest.approx(metrics["matched_audio"], abs=1e-6)
    for figure in ("gradient_norm", "rows_per_second", "learning_rate"):
        assert [event.step for event in log.Scalars(f"train/{figure}")] == [5, 10, 15, 20]
        assert all(event.value > 0 for event in log.Scalars(f"train/{figure}"))
    assert list(metrics["s_star"]) == ["20", "50", "100", "200", "300"]
    assert log.Scalars("result/s_star/200")[0].value == pytest.approx(metrics["s_star"]["200"], abs=1e-6)


def test_a_decoder_run_logs_captions_and_padding(tmp_path):
    make_cache().save(tmp_path / "cache")
    base = make_base(tmp_path / "base")
    options = {"max_steps": 6, "warmup_steps": 1, "log_every": 3, "validate_every": 3}
    recipe = decoder_arguments(tmp_path / "cache", base, tmp_path / "out", report_to="tensorboard", **options)
    metrics = train_decoder(recipe)
    log = events(tmp_path / "out")
    assert [event.step for event in log.Scalars("validation/loss")] == [3, 6]
    assert log.Scalars("train/padding_share")[0].value == pytest.approx(metrics["padding_share"], abs=1e-4)
    assert 0 <= metrics["padding_share"] < 0.2
    rows, tokens = (log.Scalars(f"train/{unit}_per_second")[0].value for unit in ("rows", "tokens"))
    assert tokens >= 2 * rows  # a word and its end
    texts = [tag for tag in log.Tags()["tensors"] if tag.startswith("captions")]
    table = log.Tensors(texts[0])[-1].tensor_proto.string_val[0].decode()
    assert table.startswith("| reference | caption |")
    assert table.count("\n| ") == 5  # a rule and four captions


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_the_gradient_norm_is_that_before_clipping(tmp_path, monkeypatch, stage):
    make_cache().save(tmp_path / "cache")
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *args, **options: norms.append(real(*args, **options)) or norms[-1]
    )
    options = {"max_steps": 3, "log_every": 1, "max_grad_norm": 1e-3, "report_to": "tensorboard"}
    if stage == "bridge":
        train(bridge_arguments(tmp_path / "cache", tmp_path / "out", **options))
    else:
        base = make_base(tmp_path / "base")
        train(decoder_arguments(tmp_path / "cache", base, tmp_path / "out", warmup_steps=0, **options))
    logged = [event.value for event in events(tmp_path / "out").Scalars("train/gradient_norm")]
    assert logged == pytest.approx([norm.item() for norm in norms], rel=1e-5)
    assert min(logged) > 1e-3


def test_project_and_run_have_names(tmp_path, monkeypatch):
    """A folder of TensorBoard; elsewhere an argument of the tracker's own."""
    make_cache(40).save(tmp_path / "cache")
    options = {"max_steps": 1, "log_every": 1, "report_to": "tensorboard", "project": "bridges", "run_name": "first"}
    train(bridge_arguments(tmp_path / "cache", tmp_path / "out", **options))
    assert list((tmp_path / "out" / "logs" / "bridges" / "first").glob("events.out.tfevents*"))
    calls = []
    accelerator = SimpleNamespace(init_trackers=lambda *args, **options: calls.append((args[0], options)))
    start_tracker(accelerator, bridge_arguments("a", "b", **options | {"report_to": "wandb"}))
    assert calls == [("bridges", {"init_kwargs": {"wandb": {"name": "first"}}})]
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["aim"])
    with pytest.raises(RecipeError, match="run_name: is 'first', which aim is not told here"):
        available_tracker(bridge_arguments("a", "b", report_to="aim", run_name="first"))


def test_captions_go_to_every_tracker():
    """As a table where a tracker has tables, as text elsewhere, and from the main process alone."""
    calls = []
    table = SimpleNamespace(name="wandb", log_table=lambda name, **table: calls.append((name, table)))
    plain = SimpleNamespace(name="trackio", log=lambda values, step: calls.append((values, step)))
    rows = [("a dog", "a cat"), ("rain", "rain")]
    log_captions(SimpleNamespace(trackers=[table, plain], is_main_process=True), rows, 7)
    assert calls == [
        ("captions", {"columns": ["reference", "caption"], "data": [["a dog", "a cat"], ["rain", "rain"]], "step": 7}),
        ({"captions/0": "a dog → a cat", "captions/1": "rain → rain"}, 7),
    ]
    log_captions(SimpleNamespace(trackers=[table], is_main_process=False), rows, 8)
    assert len(calls) == 2


def test_hyper_parameters_are_plain():
    fields = plain_fields(bridge_arguments("a", "b", model={"width": 64, "add_noise": False}))
    assert (fields["model.width"], fields["model.add_noise"], fields["batch_size"]) == (64, False, 64)
    assert all(isinstance(value, (int, float, str, bool)) for value in fields.values())
    assert flat_figures({"a": 1, "b": {"c": 2.0, "d": {"e": 3}}, "f": "x", "g": None}) == {
        "a": 1,
        "b/c": 2.0,
        "b/d/e": 3,
    }


def test_the_s_star_curve_stays_within_the_training():
    link = make_link(num_inference_steps=50)
    rows = torch.randn(12, EMBEDDING_DIM, generator=torch.Generator().manual_seed(0))
    pairs = SimpleNamespace(source=rows, target=rows.flip(0), group=torch.zeros(12))
    found = bridge_metrics(link, pairs, pairs, max_train_timestep=150)["s_star"]
    assert list(found) == ["50", "100"]
    expected = torch.nn.functional.cosine_similarity(
        link.bridge(rows, noise_timestep=50), link.target(rows.flip(0))
    ).mean()
    assert found["50"] == pytest.approx(expected.item(), abs=1e-6)
    assert tuple(sorted(S_STAR_GRID)) == S_STAR_GRID
