"""The two read-outs of a bridge: formula, saving, independence of rows, shrinkage, choices on validation."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_link_hf import BridgeModel, EmbeddingPairs, fit_readouts
from diffusion_link_hf.bridges.linear import solve_ridge
from diffusion_link_hf.bridges.readout_fitting import gaussian_forms, leave_one_out_errors, mean_recall
from diffusion_link_hf.errors import DataError, InputError, ModelFolderError
from diffusion_link_hf.training.methods import METHODS
from support.bridges import make_bridge, make_pairs, make_rows, unit
from support.models import EMBEDDING_DIM

DOUBLE = {"atol": 1e-10, "rtol": 0}
FEW_STEPS = {"steps": 4, "batch_size": 32}


def pairs_of(source, target, group=None):
    return SimpleNamespace(source=source, target=target, group=group)


def split_pairs(rows=400, validation=100, seed=0):
    source, target = make_pairs(rows + validation, seed)
    return pairs_of(source[:rows], target[:rows]), pairs_of(source[rows:], target[rows:])


@pytest.fixture(scope="module")
def fitted():
    bridge = make_bridge("mlp")
    choice = fit_readouts(bridge, *split_pairs(), **FEW_STEPS)
    return bridge, choice


def normalized_double(bridge, rows, modality):
    return bridge.normalize(rows.double(), modality)


def test_the_score_is_its_formula(fitted):
    """Recomputed pair by pair from the buffers."""
    bridge, _ = fitted
    source, target = make_rows(9, 1, torch.float64), make_rows(7, 2, torch.float64)
    r = bridge.readouts
    x, y = normalized_double(bridge, source, "audio"), normalized_double(bridge, target, "text")
    features = x
    if r.score_needs_bridge:
        stack, r.stack = r.stack, None
        features = torch.cat([bridge.bridge(source) * bridge.config.scale, x], dim=1)
        r.stack = stack
    c = features @ r.predictor.double()
    G, C, B = r.cross.double(), r.source_form.double(), r.target_form.double()
    expected = torch.stack([torch.stack([ci @ G @ yj - 0.5 * ci @ C @ ci - 0.5 * yj @ B @ yj for yj in y]) for ci in c])
    u, v = bridge.retrieval_source(source), bridge.retrieval_target(target)
    assert u.shape == (9, EMBEDDING_DIM + 2)
    assert v.shape == (7, EMBEDDING_DIM + 2)
    torch.testing.assert_close(u @ v.T, expected, **DOUBLE)


def test_the_gaussian_score_is_the_log_ratio():
    """Against the densities of torch.distributions, up to one constant of all pairs."""
    x = make_rows(200, 1, torch.float64)
    y = x.roll(1, 1) + make_rows(200, 2, torch.float64)
    errors = 0.7 * make_rows(200, 3, torch.float64)
    G, C, B = gaussian_forms(errors, y, shrinkage=0.3)
    added = 0.3 * errors.square().sum(1).mean() / EMBEDDING_DIM * torch.eye(EMBEDDING_DIM, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal
    ours, theirs = [], []
    for ci, yi in zip(x[:5], y[:5], strict=True):
        given = normal(ci, errors.T @ errors / 200 + added).log_prob(yi)
        theirs.append(given - normal(0 * yi, y.T @ y / 200 + added).log_prob(yi))
        ours.append(ci @ G @ yi - 0.5 * ci @ C @ ci - 0.5 * yi @ B @ yi)
    apart = torch.stack(ours) - torch.stack(theirs)
    torch.testing.assert_close(apart, apart[:1].expand(5), **DOUBLE)


@pytest.mark.parametrize("sizes", [(1,) * 12, (3, 1, 1, 4, 2, 1)])
def test_errors_are_of_a_ridge_without_the_group(sizes):
    """Refitted without each group, with the λN of all rows."""
    x, y = make_rows(12, 1, torch.float64)[:, :5], make_rows(12, 2, torch.float64)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[torch.randperm(12)]
    errors = leave_one_out_errors(x, y, group, 0.1, solve_ridge(x, y, [0.1])[0])
    for item in group.unique():
        left = group != item
        weight = solve_ridge(x[left], y[left], [0.1 * 12 / int(left.sum())])[0]
        torch.testing.assert_close(errors[~left], y[~left] - x[~left] @ weight, **DOUBLE)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"diffusion-bridge-unet"}))
def test_every_bridge_takes_them_and_keeps_them(method, tmp_path):
    bridge, rows = make_bridge(method), make_rows(6)
    before, text = bridge.bridge(rows), bridge.bridge(rows, "text")
    choice = fit_readouts(bridge, *split_pairs(120, 60), **FEW_STEPS)
    after = bridge.bridge(rows)
    torch.testing.assert_close(after.norm(dim=1), torch.ones(6))
    assert torch.equal(bridge.bridge(rows, "text"), text)
    assert (choice.stack == "bridge alone") == torch.equal(after, before) == (bridge.readouts.stack is None)
    bridge.save_pretrained(tmp_path)
    loaded = BridgeModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.bridge(rows), after)
    assert torch.equal(loaded.retrieval_source(rows), bridge.retrieval_source(rows))
    assert torch.equal(loaded.retrieval_target(rows), bridge.retrieval_target(rows))
    other = make_bridge(method, seed=5)
    if method != "memory":  # whose memory has another number of rows
        other.load_state_dict(bridge.state_dict())
        assert torch.equal(other.retrieval_source(rows), bridge.retrieval_source(rows))


def test_a_row_does_not_depend_on_its_batch(fitted):
    bridge = torch.nn.Module.to(make_bridge("mlp"), torch.float64)
    fit_readouts(bridge, *split_pairs(), **FEW_STEPS)
    rows, order = make_rows(9, 3, torch.float64), torch.randperm(9)
    for read in (bridge.bridge, bridge.retrieval_source, bridge.retrieval_target):
        together = read(rows)
        torch.testing.assert_close(torch.cat([read(row[None]) for row in rows]), together, **DOUBLE)
        torch.testing.assert_close(read(rows[order]), together[order], **DOUBLE)
        torch.testing.assert_close(read(rows * 17), together, **DOUBLE)


def test_the_order_of_the_pairs_does_not_matter():
    train, held = split_pairs()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    shuffled = pairs_of(train.source[order], train.target[order])
    vectors = []
    for pairs in (train, shuffled):
        bridge = make_bridge("ridge")
        fit_readouts(bridge, pairs, held, steps=0)
        vectors.append(bridge.retrieval_source(make_rows(5, 4)))
    torch.testing.assert_close(*vectors, atol=1e-4, rtol=1e-5)


def test_what_is_chosen_is_the_best_on_validation(fitted):
    _, choice = fitted
    assert choice.stack_cosines[choice.stack] == max(choice.stack_cosines.values())
    assert choice.score_recalls[choice.score] == max(choice.score_recalls.values())
    assert choice.refined_recalls[choice.refined_steps] == max(choice.refined_recalls.values())
    assert 0 in choice.refined_recalls
    assert choice.refined_recalls[0] == pytest.approx(choice.score_recalls[choice.score])


def test_the_validation_figures_are_what_the_bridge_then_gives(fitted):
    bridge, choice = fitted
    _, held = split_pairs()
    matched = (bridge.bridge(held.source) * bridge.target(held.target)).sum(1).mean().item()
    assert matched == pytest.approx(choice.stack_cosines[choice.stack], abs=1e-6)
    u, v, items = bridge.retrieval_source(held.source), bridge.retrieval_target(held.target), torch.arange(100)
    assert mean_recall(u, items, v, items) == pytest.approx(choice.refined_recalls[choice.refined_steps], abs=1e-3)


def test_a_bridge_that_cannot_be_bettered_stays_as_it_is():
    target = make_rows(300, 1, torch.float64)
    bridge = make_bridge("identity")
    choice = fit_readouts(bridge, pairs_of(target[:200], target[:200]), pairs_of(target[200:], target[200:]), steps=0)
    assert choice.stack == "bridge alone"
    assert bridge.readouts.stack is None


def test_fitting_again_starts_from_the_bridge():
    bridge, (train, held) = make_bridge("centering"), split_pairs()
    once = fit_readouts(bridge, train, held, steps=0)
    kept = bridge.bridge(held.source)
    assert once.stack != "bridge alone"
    assert fit_readouts(bridge, train, held, steps=0) == once
    assert torch.equal(bridge.bridge(held.source), kept)
    fit_readouts(bridge, train, held, steps=0, stack=False)
    assert bridge.readouts.stack is None


@pytest.mark.parametrize("rows", [2, EMBEDDING_DIM // 4])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_fewer_rows_than_dimensions(rows, noise):
    """And errors that vanish, as on pairs that are exactly linear: all figures stay finite, forms positive."""
    source = make_rows(rows + 20, 1, torch.float64)
    target = source.roll(1, 1) + noise * make_rows(rows + 20, 2, torch.float64)
    bridge = make_bridge("centering")
    fit_readouts(bridge, pairs_of(source[:rows], target[:rows]), pairs_of(source[rows:], target[rows:]), **FEW_STEPS)
    assert all(torch.isfinite(tensor).all() for tensor in bridge.readouts.buffers())
    assert torch.isfinite(bridge.retrieval_source(source) @ bridge.retrieval_target(target).T).all()
    assert torch.isfinite(bridge.bridge(source)).all()


@pytest.mark.parametrize("shrinkage", [0.03, 1.0])
@pytest.mark.parametrize("errors", ["none", "one direction", "few"])
def test_the_gaussian_score_stays_positive_definite(errors, shrinkage):
    y = unit(make_rows(300, 1, torch.float64))
    found = {"none": 0 * y, "one direction": y[:, :1] * y[:1], "few": 0.1 * torch.cat([y[:3]] * 100)}[errors]
    G, C, B = gaussian_forms(found, y, shrinkage)
    for form in (G, C):
        assert torch.equal(form, form.T)
        assert torch.linalg.eigvalsh(form).min() > 0
        assert torch.isfinite(form).all()
    assert torch.equal(B, B.T)


def test_captions_of_one_recording_are_left_out_together():
    source, target = make_pairs(100)
    group = torch.arange(100).repeat_interleave(3)
    targets = target.repeat_interleave(3, 0) + 0.3 * make_rows(300, 7, torch.float64)
    pairs = EmbeddingPairs(source.repeat_interleave(3, 0), targets, group)
    train, held = pairs.split(0.3, seed=0)
    bridge = make_bridge("centering")
    choice = fit_readouts(bridge, train, held, **FEW_STEPS)
    assert 0.3 < choice.score_recalls[choice.score] <= 1


def test_recall():
    u, v = torch.eye(4), torch.eye(4)[[0, 2, 1, 3]]
    items = torch.arange(4)
    assert mean_recall(u, items, v, items) == pytest.approx((0.5 + 1 + 1) / 3)
    assert mean_recall(torch.zeros(20, 2), torch.arange(20), torch.zeros(20, 2), torch.arange(20)) == 0
    assert mean_recall(u * torch.nan, items, v, items) == 0


def test_half_precision(fitted):
    bridge = make_bridge("mlp")
    fit_readouts(bridge, *split_pairs(), **FEW_STEPS)
    rows = make_rows(5)
    exact, scores = bridge.bridge(rows), bridge.retrieval_source(rows) @ bridge.retrieval_target(rows).T
    bridge.to(torch.float16)
    torch.testing.assert_close(bridge.bridge(rows), exact, atol=2e-2, rtol=0)
    found = bridge.retrieval_source(rows) @ bridge.retrieval_target(rows).T
    torch.testing.assert_close(found, scores, atol=0.02 * scores.abs().max().item(), rtol=0)


def test_options_of_the_bridge_are_those_of_the_fit():
    bridge, (train, held) = make_bridge("diffusion-link"), split_pairs()
    choice = fit_readouts(bridge, train, held, steps=0, num_inference_steps=1, add_noise=False)
    ours = bridge.bridge(held.source, num_inference_steps=1, add_noise=False)
    matched = (ours * bridge.target(held.target)).sum(1).mean().item()
    assert matched == pytest.approx(choice.stack_cosines[choice.stack], abs=1e-5)
    with pytest.raises(TypeError):
        bridge.retrieval_source(held.source, temperature=1.0)


def test_a_damaged_file_is_refused(fitted, tmp_path):
    bridge, _ = fitted
    bridge.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    state = load_file(path)
    for broken in (
        {name: value for name, value in state.items() if name != "readouts.cross"},
        state | {"readouts.else": torch.zeros(2)},
        state | {"readouts.cross": torch.full((2, 2), torch.nan)},
    ):
        save_file(broken, path)
        with pytest.raises(ModelFolderError):
            BridgeModel.from_pretrained(tmp_path)


def test_wrong_input_is_refused(fitted):
    train, held = split_pairs(20, 10)
    bare = make_bridge("centering")
    for read in (bare.retrieval_source, bare.retrieval_target):
        with pytest.raises(InputError, match="has no read-outs"):
            read(train.source)
    with pytest.raises(DataError, match="validation"):
        fit_readouts(bare, train, pairs_of(held.source[:1], held.target[:1]))
    with pytest.raises(DataError, match="has shape"):
        fit_readouts(bare, pairs_of(train.source[:, :3], train.target[:, :3]), held)
    for wrong in ({"steps": -1}, {"batch_size": 1}, {"learning_rate": 0.0}):
        with pytest.raises(InputError, match="refinement"):
            fit_readouts(bare, train, held, **wrong)
    with pytest.raises(InputError, match="embeds"):
        fitted[0].retrieval_source(torch.zeros(2, EMBEDDING_DIM))
    with pytest.raises(InputError, match="embeds"):
        fitted[0].retrieval_target(torch.zeros(2, EMBEDDING_DIM))
