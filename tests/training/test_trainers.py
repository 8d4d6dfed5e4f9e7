"""Both training stages: they learn, they resume to the same bits, they end in a pipeline that captions."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkModel, EmbeddingCache
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, ModelFolderError, RecipeError
from diffusion_link_hf.training.bridge_metrics import mean_cosine
from diffusion_link_hf.training.bridge_run import BridgeRun
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.recipes import load_recipe
from diffusion_link_hf.training.train import train
from support.models import make_clap
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache, relative_difference


@pytest.fixture
def cache(tmp_path):
    make_cache().save(tmp_path / "cache")
    return tmp_path / "cache"


def test_link_closes_the_gap(tmp_path):
    """In a space that a rotation solves, so that ridge regression bounds what can be had."""
    cache = tmp_path / "cache"
    make_cache(1000).save(cache)
    metrics = train(bridge_arguments(cache, tmp_path / "out", max_steps=800, learning_rate=5e-3))
    assert metrics["centered"] < 0.1
    assert 0.8 < metrics["matched_audio"] < metrics["ridge"]
    link = DiffusionLinkModel.from_pretrained(tmp_path / "out" / "link")
    loaded = EmbeddingCache.load(cache)
    _, validation = loaded.split(0.2, 0)
    target = link.normalize(validation.text, "text")
    assert mean_cosine(link.bridge(validation.audio), target) == pytest.approx(metrics["matched_audio"], abs=1e-6)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 800


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"topology_source": "both"}},
        {"loss": {"text_to_text": False}},
        {"max_grad_norm": 1.0},
        {"loss": {"topology_reduction": "sum"}},
    ],
)
def test_variants_run(cache, tmp_path, changes):
    assert train(bridge_arguments(cache, tmp_path / "out", max_steps=5, **changes))["matched_audio"] > -1


def test_captions_without_audio_join_the_text_branch(tmp_path):
    whole = make_cache()
    owners = whole.caption_audio.clone()
    owners[::3] = -1
    used = (owners >= 0).nonzero()[:, 0]
    remap = torch.full((len(owners) + 1,), -1, dtype=torch.long)
    remap[used] = torch.arange(len(used))
    EmbeddingCache(
        whole.audio[used], whole.text, remap[owners], whole.captions, [whole.audio_names[i] for i in used.tolist()], {}
    ).save(tmp_path / "cache")
    metrics = train(bridge_arguments(tmp_path / "cache", tmp_path / "out"))
    assert metrics["matched_audio"] > metrics["centered"] + 0.3


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path / "base")


@pytest.mark.parametrize(("mode", "lora"), [("supervised", True), ("zeroshot", True), ("supervised", False)])
def test_decoder_learns_the_words(cache, base, tmp_path, mode, lora):
    changes = {} if lora else {"lora": None, "learning_rate": 3e-3}
    metrics = train_decoder(decoder_arguments(cache, base, tmp_path / "out", mode=mode, **changes))
    assert metrics["loss"] < 0.5
    assert (tmp_path / "out" / "decoder" / "adapter_model.safetensors").is_file() == lora


def test_results_tell_what_they_were_trained_on(base, tmp_path):
    """So `push` needs neither the cache nor the bridge's folder, which may be gone by then."""
    clap = make_clap()
    clap.save_pretrained(tmp_path / "clap")
    cache = make_cache(clap=clap)
    cache.manifest["data"] = "me/sounds@0a1b"
    cache.save(tmp_path / "cache")
    short = {"max_steps": 1, "checkpoint_every": 10, "validate_every": 10}
    train(bridge_arguments(tmp_path / "cache", tmp_path / "bridge", **short))
    output, link = tmp_path / "decoder", str(tmp_path / "bridge" / "link")
    train(
        decoder_arguments(
            tmp_path / "cache", base, output, link=link, clap=str(tmp_path / "clap"), warmup_steps=1, **short
        )
    )
    kept = output / "recipes" / "bridge.yaml"
    assert kept.read_bytes() == (tmp_path / "bridge" / "recipe.yaml").read_bytes()
    for recipe in (kept, output / "recipe.yaml"):
        assert "# trained on: me/sounds@0a1b\n" in recipe.read_text()
        load_recipe(recipe)


def test_decoder_stage_ends_in_a_pipeline(base, tmp_path):
    clap = make_clap()
    clap.save_pretrained(tmp_path / "clap")
    make_cache(clap=clap).save(tmp_path / "cache")
    train(bridge_arguments(tmp_path / "cache", tmp_path / "link", max_steps=20))
    arguments = decoder_arguments(
        tmp_path / "cache",
        base,
        tmp_path / "pipe",
        clap=str(tmp_path / "clap"),
        link=str(tmp_path / "link" / "link"),
        max_steps=20,
        include_base=True,
        weights_dtype="float16",
        bridge_noise="fresh",
        gradient_accumulation_steps=2,
    )
    train_decoder(arguments)
    pipe = AudioCaptionPipeline.from_pretrained(tmp_path / "pipe")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(np.random.default_rng(0).uniform(-0.1, 0.1, 48_000), 48_000).errors == [None]
    stored = load_file(tmp_path / "pipe" / "projector" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    other = make_clap()
    other.model.audio_projection.linear1.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="was made by CLAP"):
        train_decoder(
            decoder_arguments(
                tmp_path / "cache", base, tmp_path / "x", clap=str(tmp_path / "other"), max_steps=1, warmup_steps=1
            )
        )


def recipe_file(tmp_path, arguments) -> str:
    import dataclasses

    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(arguments)))
    return str(path)


def weights_of(output) -> dict[str, bytes]:
    return {str(f.relative_to(output)): f.read_bytes() for f in sorted(output.rglob("*.safetensors"))}


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_a_killed_run_goes_on_to_the_same_bits(cache, base, tmp_path, pytestconfig, stage):
    """kill -9 after a checkpoint, the same command again: the weights of an uninterrupted run."""

    def command(output):
        if stage == "bridge":
            arguments = bridge_arguments(
                cache,
                output,
                max_steps=400,
                checkpoint_every=40,
                model={"width": 32, "time_embed_dim": 8, "dropout": 0.1},
            )
        else:
            arguments = decoder_arguments(
                cache, base, output, max_steps=60, checkpoint_every=10, lora={"r": 4, "lora_dropout": 0.1}
            )
        return [sys.executable, str(pytestconfig.rootpath / "examples" / "train.py"), recipe_file(tmp_path, arguments)]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, capture_output=True)
    process = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((broken / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not weights_of(broken), "the run ended before it could be killed"
    subprocess.run(command(broken), check=True, capture_output=True)
    assert weights_of(broken) == weights_of(whole)


def test_a_checkpoint_of_another_recipe_is_refused(cache, tmp_path):
    train(bridge_arguments(cache, tmp_path / "out", max_steps=30, checkpoint_every=10))
    with pytest.raises(RecipeError, match="another recipe"):
        train(bridge_arguments(cache, tmp_path / "out", max_steps=30, checkpoint_every=10, learning_rate=1e-4))
    make_cache(seed=1).save(cache)
    with pytest.raises(RecipeError, match="another data"):
        train(bridge_arguments(cache, tmp_path / "out", max_steps=30, checkpoint_every=10))


def test_old_checkpoints_are_removed(cache, tmp_path):
    train(bridge_arguments(cache, tmp_path / "out", max_steps=60, checkpoint_every=10))
    assert [p.name for p in sorted((tmp_path / "out" / "checkpoints").iterdir())] == ["step-00000050", "step-00000060"]


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_finished_run_can_be_prolonged(cache, tmp_path, schedule):
    """Where the rate does not depend on the end, to the bits of a run that was long from the start."""
    options = {"lr_schedule": schedule, "lr_decay_every": 7, "lr_decay": 0.5, "checkpoint_every": 10}
    rates = {}
    real = BridgeRun.train_step

    def noted(run):
        rates.setdefault(run.total_steps, []).append(run.optimizer.param_groups[0]["lr"])
        return real(run)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BridgeRun, "train_step", noted)
        for steps in (15, 40):
            assert train(bridge_arguments(cache, tmp_path / "long", max_steps=steps, **options))["steps"] == steps
        assert [len(rates[steps]) for steps in (15, 40)] == [15, 25]
        prolonged = rates.pop(40)
        train(bridge_arguments(cache, tmp_path / "whole", max_steps=40, **options))
    assert prolonged == rates[40][15:]  # each step has the rate of the longer schedule
    files = [tmp_path / run / "link" / "diffusion_pytorch_model.safetensors" for run in ("long", "whole")]
    assert (files[0].read_bytes() == files[1].read_bytes()) == (schedule == "step")
    again = train(bridge_arguments(cache, tmp_path / "long", max_steps=40, **options))  # there is nothing left to do
    assert again["steps"] == 40
    with pytest.raises(RecipeError, match=r"max_steps: means 30 steps, but a checkpoint in .* has 40"):
        train(bridge_arguments(cache, tmp_path / "long", max_steps=30, **options))


def test_a_decoder_can_be_prolonged(cache, base, tmp_path):
    options = {"max_steps": 0, "warmup_steps": 0, "warmup_epochs": 0.5, "batch_size": 64}
    steps = [
        train_decoder(decoder_arguments(cache, base, tmp_path / "out", epochs=epochs, **options))["steps"]
        for epochs in (1, 3)
    ]
    assert steps == [3, 9]


def test_a_warm_start(cache, base, tmp_path):
    """At a rate of nothing the result has the weights of the start; the statistics are those of the new data."""
    still = {"learning_rate": 1e-30, "max_grad_norm": 0.0}
    make_cache(seed=3).save(tmp_path / "new")
    train(bridge_arguments(cache, tmp_path / "a", max_steps=20))
    train(bridge_arguments(tmp_path / "new", tmp_path / "b", max_steps=1, init_from=str(tmp_path / "a"), **still))
    links = [DiffusionLinkModel.from_pretrained(tmp_path / run / "link") for run in "ab"]
    for one, other in zip(links[0].parameters(), links[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(links[0].text_mean, links[1].text_mean)
    few = {"max_steps": 3, "warmup_steps": 0}
    train_decoder(decoder_arguments(cache, base, tmp_path / "c", **few))
    still |= few | {"weight_decay": 0.0}
    train_decoder(decoder_arguments(cache, base, tmp_path / "d", init_from=str(tmp_path / "c"), **still))
    for file in ("projector/diffusion_pytorch_model.safetensors", "decoder/adapter_model.safetensors"):
        one, other = (load_file(tmp_path / run / file) for run in "cd")
        assert all(torch.equal(one[name], other[name]) for name in {**one, **other})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"width": 32, "time_embed_dim": 16}}, r"init_from: has link\..* of shape .*64.*, this recipe .*32"),
        ({"method": "ridge", "model": {}}, "init_from: is given, but ridge is fitted in closed form"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(cache, tmp_path, changes, words):
    train(bridge_arguments(cache, tmp_path / "a", max_steps=1))
    with pytest.raises(RecipeError, match=words):
        train(bridge_arguments(cache, tmp_path / "b", init_from=str(tmp_path / "a"), **changes))


def test_a_decoders_start_that_does_not_fit_is_refused(cache, base, tmp_path):
    few = {"max_steps": 1, "warmup_steps": 0}
    train_decoder(decoder_arguments(cache, base, tmp_path / "a", **few))
    train_decoder(decoder_arguments(cache, base, tmp_path / "full", lora=None, **few))
    start = {"init_from": str(tmp_path / "a"), **few}
    for changes in ({"projector": {"num_prefix_tokens": 3}}, {"lora": {"r": 2, "target_modules": ["q_proj"]}}):
        with pytest.raises(RecipeError, match="init_from: has "):
            train_decoder(decoder_arguments(cache, base, tmp_path / "b", **start, **changes))
    with pytest.raises(ModelFolderError, match="adapter_model"):
        train_decoder(decoder_arguments(cache, base, tmp_path / "b", init_from=str(tmp_path / "full"), **few))


def test_validation_data_of_their_own(cache, base, tmp_path):
    """Nothing is held out, and the figures are those of the other data."""
    make_cache(n=60, seed=9).save(tmp_path / "val")
    own = {"validation_cache": str(tmp_path / "val"), "validation_fraction": 0.0, "max_steps": 3}
    metrics = train(bridge_arguments(cache, tmp_path / "a", keep="best", validate_every=1, **own))
    link, pairs = DiffusionLinkModel.from_pretrained(tmp_path / "a" / "link"), EmbeddingPairs.load(tmp_path / "val")
    cosine = mean_cosine(link.bridge(pairs.source), link.target(pairs.target))
    assert metrics["matched_audio"] == pytest.approx(cosine, abs=1e-5)
    whole = EmbeddingPairs.load(cache)
    torch.testing.assert_close(link.text_mean, torch.nn.functional.normalize(whole.target).mean(0))
    assert "loss" in train_decoder(decoder_arguments(cache, base, tmp_path / "b", warmup_steps=0, **own))
    make_cache(n=70, seed=9).save(tmp_path / "val")
    with pytest.raises(RecipeError, match="another validation"):
        train(bridge_arguments(cache, tmp_path / "a", keep="best", validate_every=1, **own))
    with pytest.raises(RecipeError, match="does not exist") as caught:
        train(bridge_arguments(cache, tmp_path / "c", **own | {"validation_cache": str(tmp_path / "none")}))
    assert "validation_fraction=0.05" in caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_compiled_models_train_alike(cache, base, tmp_path, stage):
    """Really compiled, which takes minutes; weights have their usual names."""
    few = {"max_steps": 6, "warmup_steps": 1} if stage == "decoder" else {"max_steps": 6}
    for on in (False, True):
        options = few | {"torch_compile": on}
        if stage == "bridge":
            train(bridge_arguments(cache, tmp_path / str(on), **options))
        else:
            train(decoder_arguments(cache, base, tmp_path / str(on), **options))
    assert relative_difference(tmp_path / "False", tmp_path / "True") < 1e-3


def test_tensorboard_log(cache, tmp_path):
    train(bridge_arguments(cache, tmp_path / "out", max_steps=20, log_every=5, report_to="tensorboard"))
    assert list((tmp_path / "out" / "logs").rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_installed_is_refused(cache, tmp_path):
    with pytest.raises(RecipeError, match="comet"):
        train(bridge_arguments(cache, tmp_path / "out", report_to="comet_ml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage: lnk", "stage"),
        ("- a", "list"),
        ("stage: bridge\nmethod: diffusion-link\ncache: a\noutput: b\nlerning_rate: 1", "lerning_rate"),
        ("stage: bridge\nmethod: diffusion-link\ncache: a\noutput: b\nbatch_size: many", "int"),
        ("stage: bridge\nmethod: diffusion-link\ncache: a\noutput: b\nlearning_rate: 0", "positive"),
        ("stage: bridge\nmethod: diffusion-link\noutput: b", "cache"),
        ("stage: decoder\ncache: a\noutput: b", "base_model"),
        ("stage: decoder\ncache: a\noutput: b\nbase_model: c\nmode: telepathy", "telepathy"),
        ("a: [", "cannot be read"),
        ("stage: bridge\nmethod: diffusion-link\ncache: a\noutput: b\nmax_train_timestep: 2000", "2000"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, text, words):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert caught.value.remedy


def test_overrides(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "stage: bridge\nmethod: diffusion-link\ncache: a\noutput: b\nlearning_rate: 1e-3\n"
    )
    arguments = load_recipe(tmp_path / "r.yaml", ["model.width=64", "output=c", "mixed_precision=no"])
    assert (arguments.learning_rate, arguments.model, arguments.output) == (1e-3, {"width": 64}, "c")
