"""One entry fits every bridge: it learns, reloads, repeats to the same bits and resumes."""

import json
import runpy

import pytest
import torch
import yaml
from safetensors.torch import save_file

from diffusion_link_hf import DiffusionLinkPipeline
from diffusion_link_hf.bridges.diffusion_link import DiffusionLinkModel
from diffusion_link_hf.bridges.losses import diffusion_link_loss, diffusion_loss, topology_loss
from diffusion_link_hf.bridges.sampling import TrainingNoise, add_noise, make_scheduler
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, RecipeError
from diffusion_link_hf.training import optimize
from diffusion_link_hf.training.bridge import train_bridge
from diffusion_link_hf.training.bridge_metrics import validation_cosines
from diffusion_link_hf.training.methods import METHODS, build_bridge
from support.bridges import SIZES, make_pairs, make_rows, unit
from support.models import EMBEDDING_DIM, make_link

TRAINED = [name for name, method in METHODS.items() if method.trained]
QUICK = {"batch_size": 32, "learning_rate": 3e-3, "ema_decay": 0.95, "validation_fraction": 0.2, "progress": False}


@pytest.fixture(scope="module")
def pairs() -> EmbeddingPairs:
    source, target = make_pairs(400)
    return EmbeddingPairs(source, target, torch.arange(400) // 2, unpaired_target=make_pairs(50, 9)[1])


def fit(method, pairs, output, steps=250, **options):
    return train_bridge(method, pairs, output, steps=steps, model=SIZES.get(method, {}), **{**QUICK, **options})


# What each must add to the matched cosine of centering on pairs a rotation apart. Diffusion-Link has it harder than the
# others: one network has to keep text as it is and turn audio, and nothing tells it which it is given.
GAINS = {
    "ridge": 0.9,
    "procrustes": 0.9,
    "mlp": 0.75,
    "mlp-residual": 0.9,
    "diffgap": 0.6,
    "seed": 0.5,
    "diffusion-link": 0.2,
    "diffusion-link-shallow": 0.25,
}


@pytest.mark.parametrize("method", GAINS)
def test_methods_that_see_pairs_close_the_gap(method, pairs, tmp_path):
    matched = {}
    for name in ("centering", method):
        fit(name, pairs, tmp_path / name)
        matched[name] = json.loads((tmp_path / name / "metrics.json").read_text())["matched_audio"]
    assert matched[method] > matched["centering"] + GAINS[method]


def test_diffusion_bridge_learns_the_text(pairs, tmp_path):
    """From text alone: text survives its sampler, far better than before training."""
    bridge = fit("diffusion-bridge", pairs, tmp_path)
    text = pairs.unpaired_target[:20]
    untrained = build_bridge("diffusion-bridge", EMBEDDING_DIM, **SIZES["diffusion-bridge"]).fit(None, pairs.target)
    before = (untrained.bridge(text, "text") * untrained.target(text)).sum(1).mean()
    assert (bridge.bridge(text, "text") * bridge.target(text)).sum(1).mean() > before + 0.4


@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_a_component_and_repeats(method, pairs, tmp_path):
    steps = 2
    bridge = fit(method, pairs, tmp_path / "a", steps)
    again = fit(method, pairs, tmp_path / "b", steps)
    files = [tmp_path / run / "link" / "diffusion_pytorch_model.safetensors" for run in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in "ab"]
    assert metrics[0] | {"seconds": 0} == metrics[1] | {"seconds": 0}
    assert metrics[0]["steps"] == (steps if method in TRAINED else 0)
    loaded = type(bridge).from_pretrained(tmp_path / "a" / "link")
    rows = make_rows(3)
    torch.testing.assert_close(loaded.bridge(rows), again.bridge(rows), atol=1e-6, rtol=0)
    pipeline = DiffusionLinkPipeline.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(pipeline(rows).embeds, loaded.bridge(rows, scheduler=pipeline.scheduler))
    assert not bridge.training


def test_metrics_are_those_of_the_held_out_groups(pairs, tmp_path):
    bridge = fit("ridge", pairs, tmp_path, seed=3)
    train, validation = pairs.split(0.2, 3)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    goal = unit(validation.target / validation.target.norm(dim=1, keepdim=True) - bridge.text_mean)
    cosine = (bridge.bridge(validation.source) * goal).sum(1).mean().item()
    assert metrics["matched_audio"] == pytest.approx(cosine, abs=1e-5)
    assert metrics["matched_text"] == pytest.approx(1, abs=1e-5)
    expected = unit(torch.cat([train.target, train.unpaired_target])).mean(0)
    torch.testing.assert_close(bridge.text_mean, expected)


@pytest.mark.parametrize("method", ["diffgap", "diffusion-link", "mlp-residual"])
def test_an_interrupted_run_goes_on_to_the_same_bits(method, pairs, tmp_path, monkeypatch):
    fit(method, pairs, tmp_path / "whole", 12, checkpoint_every=5)

    real, calls = optimize.save_checkpoint, []

    def dies_after_saving(*args, **kwargs):
        real(*args, **kwargs)
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "save_checkpoint", dies_after_saving)
    with pytest.raises(KeyboardInterrupt):
        fit(method, pairs, tmp_path / "broken", 12, checkpoint_every=5)
    monkeypatch.undo()
    assert len(calls) == 1
    fit(method, pairs, tmp_path / "broken", 12, checkpoint_every=5)
    name = "link/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(RecipeError, match="another recipe"):
        fit(method, pairs, tmp_path / "broken", 12, checkpoint_every=5, learning_rate=1e-5)


def test_diffusion_link_loss():
    """Row by row from the definition; targets without a partner have the text branch alone."""
    link, scheduler = make_link(), make_scheduler()

    def noise() -> TrainingNoise:
        return TrainingNoise(scheduler, torch.Generator().manual_seed(2), 300)

    source, target = 5 * unit(make_rows(3)), 5 * unit(make_rows(5, 1))
    options = {"topology_weight": 0.7, "topology_source": "audio"}
    found = diffusion_link_loss(link, source, target, noise(), **options)
    generator = torch.Generator().manual_seed(2)
    predicted = []
    for clean in (target, source):
        timesteps = torch.randint(300, (len(clean),), generator=generator)
        state = add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps, scheduler)
        predicted.append(link(state, timesteps).sample)
    from_text, from_source = predicted
    errors = ((target - from_text).square().sum() + (target[:3] - from_source).square().sum()) / (5 * EMBEDDING_DIM)
    x, y = unit(target[:3]), unit(from_source)
    topology = 0.6 * 0.7 * (x @ x.T - x @ y.T).square().mean()
    torch.testing.assert_close(found.total, errors + topology)
    torch.testing.assert_close(found.diffusion + 0.7 * found.topology, found.total)
    whole = diffusion_link_loss(link, source, target[:3], noise())
    generator = torch.Generator().manual_seed(2)
    predicted = []
    for clean in (target[:3], source):
        timesteps = torch.randint(300, (3,), generator=generator)
        state = add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps, scheduler)
        predicted.append(link(state, timesteps).sample)
    torch.testing.assert_close(
        whole.total, diffusion_loss(target[:3], *predicted, "mean") + topology_loss(target[:3], predicted[1])
    )
    alone = diffusion_link_loss(link, source[:0], target, noise())
    assert alone.total.isfinite()
    assert alone.topology == 0
    one_branch = diffusion_link_loss(link, source, target[:3], noise(), text_to_text=False)
    generator = torch.Generator().manual_seed(2)
    timesteps = torch.randint(300, (3,), generator=generator)
    state = add_noise(source, torch.randn(3, EMBEDDING_DIM, generator=generator), timesteps, scheduler)
    torch.testing.assert_close(one_branch.diffusion, (target[:3] - link(state, timesteps).sample).square().mean())


def test_a_plain_file_in_either_direction(tmp_path):
    source, target = (rows.float() for rows in make_pairs(200))
    save_file({"source": source, "target": target}, tmp_path / "p.safetensors")
    there = fit("ridge", tmp_path / "p.safetensors", tmp_path / "there")
    back = fit("ridge", EmbeddingPairs.load(tmp_path / "p.safetensors").reversed(), tmp_path / "back")
    goal = there.target(target)
    assert (there.bridge(source) * goal).sum(1).mean() > 0.9
    assert (back.bridge(target) * back.target(source)).sum(1).mean() > 0.9
    torch.testing.assert_close(there.text_mean, back.audio_mean)


def test_text_alone_is_enough_where_no_pairs_are_needed(tmp_path):
    lone = EmbeddingPairs(make_rows(0), make_rows(0), unpaired_target=make_rows(60))
    for method in ("centering", "text-subspace", "memory", "diffusion-bridge"):
        fit(method, lone, tmp_path / method, steps=2)
    for method in ("ridge", "mlp", "diffgap"):
        with pytest.raises(DataError, match="matched pairs"):
            fit(method, lone, tmp_path / method, steps=2)


@pytest.mark.parametrize("method", ["ridge", "diffusion-link-shallow"])
def test_the_stage_of_a_recipe_is_the_function(method, pairs, tmp_path, pytestconfig, capsys):
    """``examples/train.py`` ends with the weights of `train_bridge`, and logs on the way."""
    pairs.save(tmp_path / "pairs.safetensors")
    recipe = {
        "stage": "bridge",
        "method": method,
        "cache": str(tmp_path / "pairs.safetensors"),
        "output": str(tmp_path / "recipe"),
        "model": SIZES.get(method, {}),
        "max_steps": 6,
        "log_every": 2,
        "validate_every": 3,
        **{name: value for name, value in QUICK.items() if name != "progress"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    path = pytestconfig.rootpath / "examples" / "train.py"
    assert runpy.run_path(str(path))["main"]([str(tmp_path / "recipe.yaml")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "recipe" / "metrics.json").read_text())
    fit(method, pairs, tmp_path / "function", 6)
    files = [tmp_path / name / "link" / "diffusion_pytorch_model.safetensors" for name in ("recipe", "function")]
    assert files[0].read_bytes() == files[1].read_bytes()
    bridged = DiffusionLinkPipeline.from_pretrained(tmp_path / "recipe")(make_rows(3)).embeds
    assert bridged.shape == (3, EMBEDDING_DIM)
    logs = b"".join(file.read_bytes() for file in (tmp_path / "recipe").rglob("events.out.tfevents*"))
    for name in (b"train/loss", b"train/topology", b"validation/matched_audio"):
        assert (name in logs) == (method != "ridge")


def test_overrides_reach_the_bridge_and_the_loss(pairs, tmp_path):
    bridge = train_bridge(
        "seed", pairs, tmp_path, steps=1, model={"width": 24, "num_blocks": 1}, loss={"topology_weight": 1.0}, **QUICK
    )
    assert (type(bridge), bridge.config.width, bridge.config.scale) == (DiffusionLinkModel, 24, EMBEDDING_DIM**0.5)
    assert validation_cosines(bridge, pairs).keys() == {"matched_audio", "matched_text"}


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("teleport", {}, "teleport"),
        ("ridge", {"model": {"depth": 3}}, "depth"),
        ("mlp", {"steps": 0}, "steps"),
        ("mlp", {"batch_size": 0}, "batch_size"),
        ("mlp", {"validation_fraction": 1.0}, "validation_fraction"),
        ("mlp", {"ema_decay": 1.0}, "ema_decay"),
        ("mlp", {"lr_decay": 0.0}, "lr_decay"),
        ("mlp", {"model": {"embedding_dim": 7}}, "embedding_dim"),
        ("ridge", {"loss": {"topology_weight": 1.0}}, "loss.topology_weight"),
        ("mlp", {"loss": {"topology_weight": 1.0}}, "loss.topology_weight"),
        ("seed", {"loss": {"topology": 1.0}}, "topology_weight"),
        ("diffusion-link", {"loss": {"preset": "sums"}}, "loss.preset: is 'sums'"),
        ("mlp", {"loss": {"preset": "paper"}}, "loss.preset"),
    ],
)
def test_wrong_arguments_are_refused(method, options, words, pairs, tmp_path):
    with pytest.raises(RecipeError, match=words) as caught:
        train_bridge(method, pairs, tmp_path, **{**QUICK, "steps": 1, **options})
    assert caught.value.remedy
