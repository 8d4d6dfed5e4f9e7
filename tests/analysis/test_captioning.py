"""Captions from embeddings equal those of the pipeline; figures, intervals and event accuracy equal hand counts."""

import numpy as np
import pytest
import torch

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.analysis import captioning
from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.captioning import (
    CaptionResult,
    EventAccuracy,
    HeldOut,
    caption_embeddings,
    check_scoring,
    installed_metrics,
    measure_captions,
)
from diffusion_link_hf.analysis.event_words import KINDS, EventWords
from diffusion_link_hf.audio import SAMPLING_RATE
from diffusion_link_hf.errors import DataError
from diffusion_link_hf.metrics import MetricDependencyError
from diffusion_link_hf.metrics.registry import METRICS
from support.captioning import EVENTS, make_captioned_cache, make_scores
from support.models import make_pipeline


def test_captions_are_those_of_the_pipeline():
    pipe = make_pipeline()
    rng = np.random.default_rng(0)
    sounds = [rng.normal(scale=0.1, size=10 * SAMPLING_RATE).astype(np.float32) for _ in range(2)]
    embeds, parts = pipe.encode_audio(np.stack(sounds)), (pipe.projector, pipe.decoder)
    linked = pipe(sounds, SAMPLING_RATE, max_new_tokens=6).captions
    raw = [texts[0] for texts in pipe.decode(embeds, max_new_tokens=6)]
    assert len({*linked, *raw}) == 4
    for scale, batch_size in ((1.0, 64), (3.0, 1)):
        rows, options = scale * embeds, {"batch_size": batch_size, "max_new_tokens": 6}
        assert caption_embeddings(rows, *parts, pipe.link, pipe.scheduler, **options) == linked
        assert caption_embeddings(rows, *parts, **options) == raw


def test_held_out_recordings_have_their_own_references():
    cache = make_captioned_cache(4)
    mixed = cache.select(torch.tensor([5, 0, 4, 7]))  # recordings 2, 0, 2, 3
    held_out = HeldOut.from_cache(mixed)
    assert held_out.names == [cache.audio_names[k] for k in (0, 2, 3)]
    assert held_out.references == [[mixed.captions[1]], [mixed.captions[0], mixed.captions[2]], [mixed.captions[3]]]
    assert torch.equal(held_out.audio, cache.audio[[0, 2, 3]])


def test_recordings_without_captions_are_left_out_and_two_are_needed():
    cache = make_captioned_cache(3)
    owners = torch.where(cache.caption_audio == 1, -1, cache.caption_audio)
    fields = cache.audio, cache.text, owners, cache.captions, cache.audio_names, {}
    assert HeldOut.from_cache(EmbeddingCache(*fields)).names == [cache.audio_names[0], cache.audio_names[2]]
    text_only = EmbeddingCache(cache.audio[:0], cache.text, torch.full_like(owners, -1), cache.captions, [], {})
    with pytest.raises(DataError, match="none has captions"):
        HeldOut.from_cache(text_only)


def test_event_accuracy_counts_exact_sets_only():
    references = [["a dog"], ["a dog, then rain", "rain after a dog"], ["rain and a bell"], ["silence"], ["wind"]]
    candidates = ["dogs", "rain and a dog", "a bell", "a dog", "wind and a dog"]
    judge = EventAccuracy(EventWords(EVENTS), references)
    assert judge.counts == {KINDS[0]: 2, KINDS[1]: 1, KINDS[2]: 1}
    found = judge.estimates(candidates, GroupBootstrap(np.arange(5), 200))
    assert {name: estimate.value for name, estimate in found.items()} == {
        "event_accuracy": 0.5,
        f"event_accuracy, {KINDS[0]}": 0.5,
        f"event_accuracy, {KINDS[1]}": 0.0,
        f"event_accuracy, {KINDS[2]}": 1.0,
    }
    low, high = found["event_accuracy"].interval()
    assert low < 0.5 < high
    assert found[f"event_accuracy, {KINDS[2]}"].interval() == (1.0, 1.0)


def test_a_table_of_other_words_is_refused():
    with pytest.raises(DataError, match="any reference"):
        EventAccuracy(EventWords({"whale": ["whale"]}), [["a dog"], ["rain"]])


def test_means_have_resamples_and_corpus_scores_do_not():
    rng = np.random.default_rng(0)
    cider, meteor = rng.random(50), rng.random(50)
    boot = GroupBootstrap(np.arange(50), 500, 1)
    measured = measure_captions(["a dog"] * 50, make_scores(cider, meteor), boot)
    assert measured.corpus == {"meteor": pytest.approx(meteor.mean() / 2)}
    assert set(measured.estimates) == {"cider_d", "meteor_per_caption"}
    assert measured.estimates["cider_d"].value == pytest.approx(cider.mean())
    assert measured.estimates["meteor_per_caption"].value == pytest.approx(meteor.mean())
    # The resampled means spread as the central limit theorem says.
    assert measured.estimates["cider_d"].resampled.std() == pytest.approx(cider.std() / 50**0.5, rel=0.15)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    cider, meteor = rng.random(40), rng.random(40)
    boot = GroupBootstrap(np.arange(40), 100)

    def result(*shifts):
        return CaptionResult(
            tuple(measure_captions(["dog"] * 40, make_scores(cider + shift, meteor), boot) for shift in shifts)
        )

    difference = result(0.5, 0.7) - result(0.1, 0.1)
    assert difference.by_seed("cider_d") == pytest.approx([0.4, 0.6])
    # Each recording is better by the same: however they are drawn, so is the mean.
    assert difference.estimate("cider_d").interval() == pytest.approx((0.5, 0.5))
    assert difference.estimate("meteor_per_caption").interval() == (0.0, 0.0)


def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch):
    def refuse(options):
        raise MetricDependencyError("spice", "needs a parser", "Fetch it")

    monkeypatch.setitem(METRICS, "spice", type(METRICS["spice"])(**{**vars(METRICS["spice"]), "check": refuse}))
    names, missing = installed_metrics()
    assert missing["spice"] == missing["spider"] == "Fetch it"
    assert set(names) >= set(captioning.METRICS_ALWAYS)
    assert not {"spice", "spider"} & set(names)
    assert {*names, *missing} == {*captioning.METRICS_ALWAYS, *captioning.METRICS_IF_INSTALLED}


def test_a_rehearsal_finds_what_cannot_be_scored(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MetricDependencyError, match="Java"):
        check_scoring([["a dog"], ["rain"]], ["cider_d"])
