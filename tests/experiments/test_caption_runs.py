"""Runs in a folder: which there are, done once, resumed after a kill, refused to another recipe."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffusion_link_hf.analysis.captioning import HeldOut, Run
from diffusion_link_hf.embeddings.cache import EmbeddingCache
from diffusion_link_hf.errors import DataError, InputError, RecipeError
from diffusion_link_hf.experiments import caption_runs
from diffusion_link_hf.experiments.caption_runs import MODES, CaptionRuns, plan_runs
from diffusion_link_hf.metrics import CaptionScores
from diffusion_link_hf.training.parts import locate_base
from support.captioning import SMALL_DECODER, fit_small, make_captioned_cache, make_finished, make_recipe


@pytest.fixture
def parts(tmp_path):
    """Training cache's folder, held-out recordings, and a function that makes the runs' folder."""
    train, test = make_captioned_cache().split(0.2, 0)
    train.save(tmp_path / "cache")
    recipe = make_recipe(tmp_path)

    def runs(name="runs", keep=False, **changes):
        return CaptionRuns(tmp_path / name, replace(recipe, **changes), fit_small(train), keep)

    return tmp_path / "cache", HeldOut.from_cache(test), runs


def test_all_runs_a_seed_at_a_time():
    planned = plan_runs(["ridge", "none", "ridge"], ["supervised", "zeroshot"], [3, 1, 3])
    assert planned == [
        Run(mode, method, seed)
        for seed in (3, 1)
        for mode in ("zeroshot", "supervised")
        for method in ("ridge", "none")
    ]


def test_c3_is_not_repeated_where_it_is_centering():
    both = plan_runs(["centering", "c3"], ["zeroshot", "supervised"], [0])
    assert both == [Run("zeroshot", "centering", 0), Run("zeroshot", "c3", 0), Run("supervised", "centering", 0)]
    assert plan_runs(["c3"], ["supervised"], [0]) == [Run("supervised", "c3", 0)]


def test_heads_and_prompt_are_the_papers(tmp_path):
    recipe = make_recipe(tmp_path)
    zero_shot = recipe.arguments("zeroshot", 4, tmp_path, tmp_path, None)
    supervised = recipe.arguments("supervised", 4, tmp_path, tmp_path, tmp_path / "link")
    assert (zero_shot.mode, zero_shot.projector["num_prefix_tokens"], zero_shot.projector["num_layers"]) == (
        MODES["zeroshot"]["mode"],
        1,
        1,
    )
    assert (supervised.mode, supervised.projector["num_prefix_tokens"], supervised.projector["num_layers"]) == (
        "supervised",
        10,
        2,
    )
    assert (zero_shot.instruction, supervised.instruction) == ("Say: ", None)
    assert (zero_shot.link, supervised.link) == (None, str(tmp_path / "link"))
    for arguments in (zero_shot, supervised):
        assert (arguments.seed, arguments.max_steps, arguments.validation_fraction) == (4, 4, 0.0)
    with pytest.raises(RecipeError, match="learning_rate"):
        replace(recipe, decoder={**SMALL_DECODER, "learning_rate": -1.0}).arguments(
            "zeroshot", 0, tmp_path, tmp_path, None
        )


@pytest.mark.parametrize(
    ("mode", "method"), [("zeroshot", "c3"), ("supervised", "diffusion-bridge"), ("zeroshot", "none")]
)
def test_a_run_is_done_once_and_read_again(mode, method, parts, monkeypatch):
    cache, held_out, runs = parts
    run = Run(mode, method, 1)
    assert not runs().is_finished(run)
    stale = run.inside(runs().folder) / "scores.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    done = runs().do(run, cache, held_out)
    assert not stale.exists()
    assert len(done.captions) == len(held_out)
    assert runs().is_finished(run)
    monkeypatch.setattr(caption_runs, "train_decoder", lambda *_: pytest.fail("trained again"))
    assert runs().finished(run, len(held_out)) == done
    # The bridge serves the other mode too, until all is done.
    bridge = runs().folder / "bridges" / method / "seed1"
    assert bridge.is_dir() == (method != "none")
    if method == "c3":
        assert done.bridge == "MeanCentering"
        assert json.loads((bridge / "link" / "config.json").read_text())["add_noise"] is True
    runs().clean()
    assert not bridge.exists()
    assert not (run.inside(runs().folder) / "decoder").exists()


def test_a_killed_run_goes_on_and_ends_the_same(parts, monkeypatch):
    cache, held_out, runs = parts
    run = Run("zeroshot", "c3", 2)
    decoder = {**SMALL_DECODER, "max_steps": 6, "checkpoint_every": 2}
    whole = runs("whole", decoder=decoder).do(run, cache, held_out)
    bridges = []
    killed = runs("killed", decoder=decoder)
    fit, killed.fit = killed.fit, lambda *which: (bridges.append(which), fit(*which))
    with monkeypatch.context() as patch:
        patch.setattr(caption_runs, "train_decoder", _killed_after(caption_runs.train_decoder))
        with pytest.raises(KeyboardInterrupt):
            killed.do(run, cache, held_out)
    assert not killed.is_finished(run)
    assert list((run.inside(killed.folder) / "decoder" / "checkpoints").iterdir())
    again = killed.do(run, cache, held_out)
    assert again.captions == whole.captions
    assert again.seconds["decoder"] is None  # of which it saw a part only
    assert len(bridges) == 1


def _killed_after(train_decoder):
    """`train_decoder` that is interrupted when its second checkpoint is written."""

    def train(arguments, progress):
        from diffusion_link_hf.training import optimize

        save, saved = optimize.save_checkpoint, []

        def save_and_die(*args, **kwargs):
            save(*args, **kwargs)
            saved.append(args)
            if len(saved) == 2:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimize, "save_checkpoint", save_and_die)
            return train_decoder(arguments, progress)

    return train


def test_a_folder_belongs_to_one_recipe(tmp_path):
    cache = make_captioned_cache()
    train, test = cache.split(0.2, 0)
    recipe = make_recipe(tmp_path)
    base = locate_base(recipe.base_model, None).fingerprint

    def record(recipe=recipe, train=train, test=test):
        CaptionRuns(tmp_path / "runs", recipe, fit=print).record(recipe.conditions(train, test, base))

    record()
    record()
    changed = [
        (replace(recipe, generation={"num_beams": 2, "max_new_tokens": 6}), "generation.num_beams 1, now 2"),
        (replace(recipe, bridge={**recipe.bridge, "steps": 9}), "bridge.steps 3, now 9"),
        (replace(recipe, decoder={**SMALL_DECODER, "lora": None}), "decoder.lora"),
        (replace(recipe, instruction=None), "instruction Say: , now None"),
    ]
    for other, words in changed:
        with pytest.raises(InputError, match=words) as caught:
            record(other)
        assert str(tmp_path / "runs") in caught.value.remedy
    with pytest.raises(InputError, match="train "):
        record(train=cache)
    reworded = EmbeddingCache(
        test.audio, test.text, test.caption_audio, ["rain"] * len(test.captions), test.audio_names, {}
    )
    with pytest.raises(InputError, match="held_out "):
        record(test=reworded)
    record()
    (tmp_path / "runs" / "recipe.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        record()


def test_another_base_model_is_another_recipe(tmp_path):
    train, test = make_captioned_cache().split(0.2, 0)
    recipe = make_recipe(tmp_path)
    before = recipe.conditions(train, test, locate_base(recipe.base_model, None).fingerprint)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text() + " ")
    assert recipe.conditions(train, test, locate_base(recipe.base_model, None).fingerprint) != before


def test_damaged_runs_are_refused(tmp_path):
    runs, run = CaptionRuns(tmp_path, make_recipe(tmp_path), fit=print), Run("zeroshot", "none", 0)
    path = run.inside(tmp_path) / "captions.json"
    path.parent.mkdir(parents=True)
    whole = {"captions": ["a dog", "rain"], "bridge": None, "bridge_steps": 0, "seconds": {}}
    path.write_text(json.dumps(whole))
    assert runs.finished(run, 2).captions == whole["captions"]
    for damaged in ("{", "[]", json.dumps({**whole, "captions": ["one"]}), json.dumps({"captions": whole["captions"]})):
        path.write_text(damaged)
        with pytest.raises(DataError) as caught:
            runs.finished(run, 2)
        assert "Remove this file" in caught.value.remedy


def test_scores_are_computed_once_for_each_choice_of_metrics(tmp_path, monkeypatch):
    runs = CaptionRuns(tmp_path, make_recipe(tmp_path), fit=print)
    found, references = make_finished("none", 0, ["a dog", "rain", ""]), [["a dog"], ["rain"], ["wind"]]
    calls = []

    def score(candidates, references, metrics):
        calls.append(tuple(metrics))
        values = np.arange(len(candidates)) / 3
        return CaptionScores(dict.fromkeys(metrics, 0.1), dict.fromkeys(metrics, values))

    monkeypatch.setattr(caption_runs, "score", score)
    first, second = (runs.scores(found, references, ["rouge_l"]) for _ in range(2))
    assert calls == [("rouge_l",)]
    assert first.corpus == second.corpus
    assert (first.per_caption["rouge_l"] == second.per_caption["rouge_l"]).all()
    assert set(runs.scores(found, references, ["rouge_l", "cider_d"]).corpus) == {"rouge_l", "cider_d"}
    assert calls == [("rouge_l",), ("rouge_l", "cider_d")]
