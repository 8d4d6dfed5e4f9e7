"""The decoder stage finds out before its first step what could not end well, and takes every bridge for its link."""

import json
import shutil

import pytest
import torch

from diffusion_link_hf import AudioCaptionPipeline, EmbeddingCache, loading
from diffusion_link_hf.bridges.centering import MeanCentering
from diffusion_link_hf.bridges.sampling import make_scheduler
from diffusion_link_hf.errors import DataError, DiffusionLinkError, InputError, ModelFolderError, RecipeError
from diffusion_link_hf.loading import BaseReference
from diffusion_link_hf.training import decoder as decoder_stage
from diffusion_link_hf.training import parts
from diffusion_link_hf.training.bridge import METHODS, train_bridge
from diffusion_link_hf.training.decoder import embeds_of, train_decoder
from diffusion_link_hf.training.parts import build_parts, load_link, locate_base
from support.bridges import SIZES
from support.models import EMBEDDING_DIM, make_clap, make_decoder, make_tokenizer
from support.training import decoder_arguments, make_base, make_cache


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """CLAP, the cache that it made, a link on that cache, and a base model; nobody changes them."""
    root = tmp_path_factory.mktemp("room")
    clap = make_clap()
    clap.save_pretrained(root / "clap")
    cache = make_cache(60, clap=clap)
    cache.save(root / "cache")
    train_bridge("centering", cache, root / "link", progress=False)
    make_base(root / "base")
    return root


def arguments(room, output, **changes):
    """A recipe of all parts."""
    options = {"clap": str(room / "clap"), "link": str(room / "link" / "link"), "max_steps": 2, "warmup_steps": 0}
    base = changes.pop("base_model", room / "base")
    return decoder_arguments(room / "cache", base, output, **{**options, **changes})


def changed(room, tmp_path, name, file, change):
    """A copy of a folder of the room in which ``change`` was applied to a JSON file."""
    shutil.copytree(room / name, tmp_path / name)
    values = json.loads((tmp_path / name / file).read_text())
    (tmp_path / name / file).write_text(json.dumps({**values, **change}))
    return tmp_path / name


@pytest.fixture
def no_steps(monkeypatch):
    def never(*_):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(decoder_stage.CaptionModel, "forward", never)


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"lora": {"rank": 3}}, RecipeError, "lora.rank.*lora_alpha"),
        ({"lora": {"r": 4, "target_modules": ["nose"]}}, RecipeError, "lora: cannot be applied"),
        ({"lora": {"r": 4, "task_type": "SEQ_CLS"}}, RecipeError, "lora.task_type"),
        ({"projector": {"depth": 3}}, RecipeError, "projector.depth.*num_layers"),
        ({"projector": {"hidden_size": 7}}, RecipeError, "projector.hidden_size: is 7"),
        ({"projector": {"embedding_dim": 7}}, RecipeError, "projector.embedding_dim: is 7"),
        ({"include_base": False}, RecipeError, "include_base.*base_model is a folder"),
        ({"include_base": False, "clap": None}, RecipeError, "include_base.*base_model is a folder"),
        ({"link": "./nowhere"}, RecipeError, "nowhere"),
        ({"clap": "./nowhere"}, ModelFolderError, "nowhere"),
        ({"base_model": "./nowhere"}, ModelFolderError, "nowhere"),
    ],
)
def test_refused_before_the_first_step(room, tmp_path, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        train_decoder(arguments(room, tmp_path / "out", **changes))
    assert caught.value.remedy


def test_include_base_is_checked_before_anything_is_loaded(room, tmp_path, monkeypatch):
    """A CLAP in a folder cannot be referenced, though the base model, from the Hub, could."""

    def never(*_, **__):
        raise AssertionError("something was loaded or fetched")

    for name in ("load_causal_lm", "locate_base", "ClapEncoder"):
        monkeypatch.setattr(parts, name, never)
    monkeypatch.setattr(EmbeddingCache, "load", never)
    with pytest.raises(RecipeError, match="include_base: is false, but clap is a folder"):
        train_decoder(arguments(room, tmp_path / "out", base_model="owner/base", include_base=False))


@pytest.mark.usefixtures("no_steps")
def test_a_tokenizer_larger_than_the_embeddings_is_refused(room, tmp_path):
    base = shutil.copytree(room / "base", tmp_path / "base")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(base)
    with pytest.raises(ModelFolderError, match=r"ids up to 260, its model a vocabulary of 260\. .*resize"):
        train_decoder(arguments(room, tmp_path / "out", base_model=base))


@pytest.mark.usefixtures("no_steps")
@pytest.mark.parametrize("name", ["instruction", "projector", "caption"])
def test_too_few_positions_are_refused(room, tmp_path, name):
    """128 of them: for BOS, instruction, prefix, the longest caption and EOS."""
    changes = {"instruction": {"instruction": "x" * 130}, "projector": {"projector": {"num_prefix_tokens": 126}}}
    cache = EmbeddingCache.load(room / "cache")
    if name == "caption":
        cache.captions[3] = "x" * 130
    cache.save(tmp_path / "cache")
    args = arguments(room, tmp_path / "out", **changes.get(name, {}))
    args.cache = str(tmp_path / "cache")
    with pytest.raises(InputError, match=r"longest caption: needs \d+ positions .* the base model has 128"):
        train_decoder(args)


@pytest.mark.usefixtures("no_steps")
def test_too_few_positions_for_what_validations_write(room, tmp_path):
    """40 tokens, though all captions of the data are short."""
    with pytest.raises(InputError, match="max_new_tokens: needs 40 positions"):
        train_decoder(arguments(room, tmp_path / "out", instruction="x" * 95))


@pytest.mark.usefixtures("no_steps")
def test_another_clap_is_noticed_before_the_first_step(room, tmp_path):
    torch.manual_seed(987)  # whatever seed an earlier test left: these weights must be others
    other = make_clap()
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="was made by CLAP"):
        train_decoder(arguments(room, tmp_path / "out", clap=str(tmp_path / "other")))
    narrow = make_clap(embedding_dim=16)  # of a cache that does not say who made it
    narrow.save_pretrained(tmp_path / "narrow")
    make_cache(60).save(tmp_path / "cache")
    recipe = arguments(room, tmp_path / "out", clap=str(tmp_path / "narrow"))
    recipe.cache = str(tmp_path / "cache")
    with pytest.raises(DiffusionLinkError, match="wide"):
        train_decoder(recipe)


def test_a_base_from_the_hub_that_is_trained_whole_must_be_included(room, tmp_path, monkeypatch):
    """What would be saved as a mere reference would be lost."""
    monkeypatch.setattr("diffusion_link_hf.loading.download_snapshot", lambda *_, **__: room / "base")
    cache = EmbeddingCache.load(room / "cache")
    for include_base in (None, False):
        with pytest.raises(RecipeError, match="include_base"):
            build_parts(
                arguments(room, tmp_path, clap=None, lora=None, base_model="owner/base", include_base=include_base),
                cache,
            )
    build_parts(arguments(room, tmp_path, clap=None, lora=None, base_model="owner/base", include_base=True), cache)


def test_the_base_of_a_pipeline(room, tmp_path):
    """Its weights and its tokenizer, which lie in two folders; by name, the embedded one's."""
    train_decoder(decoder_arguments(room / "cache", room / "base", tmp_path / "out", max_steps=2, warmup_steps=0))
    for name in (tmp_path / "out" / "decoder", "tiny"):
        found = locate_base(str(name), None)
        assert (found.weights.name, found.tokenizer.name, found.source) == ("base", "decoder", None)
        options = {"max_steps": 2, "warmup_steps": 0, "validation_fraction": 0.0}
        made = tmp_path / f"from-{found.weights.parts[-3]}"
        train_decoder(decoder_arguments(room / "cache", name, made, **options))
        assert (made / "decoder" / "tokenizer.json").is_file()
    assert locate_base(str(room / "base"), None).fingerprint == locate_base(str(room / "base"), None).fingerprint


def test_the_base_that_a_decoder_references(tmp_path, monkeypatch):
    decoder = make_decoder()
    decoder.source = BaseReference("owner/model", "abc")
    decoder.save_pretrained(tmp_path / "decoder")
    snapshots = {("owner/model", "abc"): tmp_path}
    monkeypatch.setattr(loading, "download_snapshot", lambda name, revision, **_: snapshots[name, revision])
    found = locate_base(str(tmp_path / "decoder"), None)
    assert (found.weights, found.tokenizer, found.source.id) == (tmp_path, tmp_path, "owner/model")


def test_links_that_do_not_fit(room, tmp_path):
    cache = make_cache(8)
    cache.manifest["clap"] = "mine"
    folder = tmp_path / "run"
    train_bridge("identity", cache, folder, progress=False)
    link, scheduler = load_link(folder / "link", cache)
    assert not link.training
    assert scheduler.config.prediction_type == "sample"
    cache.manifest["clap"] = "other"
    with pytest.raises(RecipeError, match="trained on embeddings of CLAP mine, the cache is of other"):
        load_link(folder / "link", cache)
    for unknown in (None, "mine"):
        cache.manifest["clap"] = unknown
        load_link(folder / "link", cache)
    (folder / "metrics.json").unlink()
    cache.manifest["clap"] = "other"
    load_link(folder / "link", cache)
    cache.audio, cache.text = cache.audio[:, :16], cache.text[:, :16]
    with pytest.raises(RecipeError, match=f"{EMBEDDING_DIM} wide, the cache's are 16 wide"):
        load_link(folder / "link", cache)
    config = folder / "scheduler" / "scheduler_config.json"
    cache = make_cache(8)
    for damage in ("{", "[]", json.dumps({"beta_schedule": "no"}), json.dumps({"clip_sample": True})):
        config.write_text(damage)
        with pytest.raises(DiffusionLinkError):
            load_link(folder / "link", cache)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(ModelFolderError, match=r"scheduler.*is missing"):
        load_link(folder / "link", cache)


def test_an_exchanged_model_is_noticed_when_a_run_goes_on(room, tmp_path):
    """Folders may move, their contents may not change."""
    train_decoder(arguments(room, tmp_path / "out", max_steps=2, checkpoint_every=1))
    moved = shutil.copytree(room / "link", tmp_path / "moved")
    train_decoder(arguments(room, tmp_path / "out", checkpoint_every=1, link=str(moved / "link")))
    other = changed(room, tmp_path, "link", "link/config.json", {"scale": 7.0})
    with pytest.raises(RecipeError, match="another link"):
        train_decoder(arguments(room, tmp_path / "out", checkpoint_every=1, link=str(other / "link")))
    with pytest.raises(RecipeError, match="another link"):
        train_decoder(arguments(room, tmp_path / "out", checkpoint_every=1, link=None))
    base = changed(room, tmp_path, "base", "config.json", {"rms_norm_eps": 1e-3})
    with pytest.raises(RecipeError, match="another base_model"):
        train_decoder(arguments(room, tmp_path / "out", checkpoint_every=1, base_model=base))
    with pytest.raises(RecipeError, match=r"another recipe \(weight_decay 0.01, now 0.5\)"):
        train_decoder(arguments(room, tmp_path / "out", checkpoint_every=1, weight_decay=0.5))


@pytest.mark.parametrize("method", METHODS)
def test_every_bridge_is_a_link(method, tmp_path):
    """Trained, saved, loaded by whatever class the folder names, and asked for embeddings as training asks."""
    cache = make_cache(24)
    bridge = train_bridge(method, cache, tmp_path, steps=1, batch_size=8, model=SIZES.get(method, {}), progress=False)
    link, scheduler = load_link(tmp_path / "link", cache)
    assert type(link) is type(bridge)
    for mode, rows, modality in (("zeroshot", cache.text, "text"), ("supervised", cache.audio, "audio")):
        if (method, mode) == ("c3", "zeroshot"):
            continue  # noised row by row: see the next test
        found = embeds_of(cache, torch.arange(5), mode, link, scheduler, "cpu", torch.Generator().manual_seed(1))
        expected = bridge.bridge(rows[:5], modality, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_c3_corrupts_each_row_by_itself_and_only_while_training():
    cache, scheduler = make_cache(24), make_scheduler()
    link = MeanCentering(EMBEDDING_DIM, add_noise=True).fit(cache.audio, cache.text)
    rows = torch.tensor([3, 3])

    def embeds(mode, seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return embeds_of(cache, rows, mode, link, scheduler, "cpu", generator)

    clean = link.bridge(cache.text[rows], "text", add_noise=False)
    first = embeds("zeroshot", 0)
    noise = torch.randn(2, EMBEDDING_DIM, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first, torch.nn.functional.normalize(clean + 0.016**0.5 * noise, dim=1))
    assert not torch.allclose(first[0], first[1], atol=0.1)
    assert not torch.allclose(first, embeds("zeroshot", 1), atol=0.1)
    torch.testing.assert_close(embeds("zeroshot"), clean)
    torch.testing.assert_close(embeds("supervised", 0), link.bridge(cache.audio[rows], "audio"))
    link.register_to_config(add_noise=False)
    torch.testing.assert_close(embeds("zeroshot", 0), clean)


def test_c3_ends_in_a_pipeline(room, tmp_path):
    train_bridge("c3", room / "cache", tmp_path / "c3", validation_fraction=0.3, progress=False)
    recipe = arguments(
        room, tmp_path / "out", mode="zeroshot", link=str(tmp_path / "c3" / "link"), gradient_accumulation_steps=2
    )
    metrics = train_decoder(recipe)
    pipeline = AudioCaptionPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(pipeline.link, MeanCentering)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["loss"] == metrics["loss"]
    measured = json.loads((tmp_path / "c3" / "metrics.json").read_text())
    assert written["bridge"] == {name: measured[name] for name in ("matched_audio", "matched_text")}
    assert written["clap"] == json.loads((room / "cache" / "manifest.json").read_text())["clap"]


def test_nothing_held_out_and_no_audio(room, tmp_path):
    recipe = arguments(room, tmp_path / "out", clap=None, validation_fraction=0)
    assert "loss" not in train_decoder(recipe)
    cache = make_cache(6)
    cache.audio, cache.audio_names = cache.audio[:1], cache.audio_names[:1]
    cache.caption_audio = torch.tensor([0, -1, -1, -1, -1, -1])
    cache.save(tmp_path / "cache")
    recipe.cache, recipe.validation_fraction = str(tmp_path / "cache"), 0.9  # the only recording is held out
    with pytest.raises(DataError, match="no audio embeddings"):
        train_decoder(recipe)
