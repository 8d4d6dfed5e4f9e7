"""The link: its network against an independent float64 one, normalization, noise, saving and loading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from diffusion_link_hf import BridgeModel, DiffusionLinkModel
from diffusion_link_hf.bridges.sampling import ddim_sample, make_scheduler, shallow_timesteps
from diffusion_link_hf.errors import InputError, ModelFolderError
from support.bridges import numpy_mlp, weights_of
from support.models import EMBEDDING_DIM, make_link, make_responsive_link


def embeddings(rows=7, seed=0) -> torch.Tensor:
    return torch.randn(rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("timestep", [0, 19, 99, 999])
def test_network_is_the_papers(timestep):
    link = torch.nn.Module.to(make_link(), torch.float64)
    z = embeddings().double()
    with torch.no_grad():
        # The sinusoids are float32 in diffusers, the only place where the two differ.
        np.testing.assert_allclose(
            link(z, timestep).sample.numpy(), numpy_mlp(weights_of(link), z.numpy(), timestep, "denoiser."), atol=2e-4
        )


def test_a_new_network_predicts_zero():
    """The last Linear starts at zero, and so do the blocks."""
    link = DiffusionLinkModel(EMBEDDING_DIM, width=16, time_embed_dim=8)
    assert not link(embeddings(), 5).sample.any()
    x = torch.randn(3, 16)
    assert torch.equal(link.denoiser.blocks[0](x, torch.randn(1, 8)), x)


def test_size_of_the_default():
    assert DiffusionLinkModel().num_parameters() == 2_634_752


def test_timesteps_per_row_equal_one_by_one():
    link, z = make_link(), embeddings(4)
    timesteps = torch.tensor([0, 10, 99, 999])
    with torch.no_grad():
        together = link(z, timesteps).sample
        for k, t in enumerate(timesteps.tolist()):
            torch.testing.assert_close(link(z[k : k + 1], t).sample[0], together[k], atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_gives_equal_gradients():
    plain, checkpointed = make_link(), make_link()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.enable_gradient_checkpointing()
    assert checkpointed.is_gradient_checkpointing
    for link in (plain, checkpointed):
        link.train()
        link(embeddings(), 50).sample.square().sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_normalization_is_the_papers(modality):
    link = make_link(scale=5.0)
    e = embeddings().double()
    mean = getattr(link, f"{modality}_mean").double().numpy()
    x = e.numpy() / np.linalg.norm(e.numpy(), axis=1, keepdims=True) - mean
    x = 5.0 * x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(link.normalize(e, modality).numpy(), x, atol=1e-12)


def test_statistics_are_means_of_unit_rows():
    link = make_link()
    audio, text = embeddings(50, 1) * 3, embeddings(40, 2) * 7
    link.fit_statistics(audio, text)
    torch.testing.assert_close(link.audio_mean, torch.nn.functional.normalize(audio, dim=1).mean(0))
    torch.testing.assert_close(link.text_mean, torch.nn.functional.normalize(text, dim=1).mean(0))


@pytest.mark.parametrize(
    "options", [{}, {"add_noise": False}, {"num_inference_steps": 1}, {"noise_timestep": 300, "num_inference_steps": 7}]
)
def test_a_row_does_not_depend_on_its_batch(options):
    torch.manual_seed(0)
    link, e = make_responsive_link(), embeddings(33)
    together = link.bridge(e, **options)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(33))
    for size in (1, 2, 7, 32):
        parts = torch.cat([link.bridge(part, **options) for part in e.split(size)])
        torch.testing.assert_close(parts, together, atol=1e-5, rtol=0)  # matrix products round by their batch size
    order = torch.randperm(33)
    torch.testing.assert_close(link.bridge(e[order], **options), together[order], atol=1e-5, rtol=0)


def test_the_norm_of_the_input_does_not_matter():
    link, e = make_link(), embeddings()
    torch.testing.assert_close(link.bridge(e), link.bridge(e * 17), atol=1e-5, rtol=0)


def test_noise_comes_from_the_generator():
    link, e = make_link(), embeddings(3)

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    assert torch.equal(link.bridge(e, generator=seeded(1)), link.bridge(e, generator=seeded(1)))
    assert not torch.equal(link.bridge(e, generator=seeded(1)), link.bridge(e, generator=seeded(2)))
    assert torch.equal(link.bridge(e), link.bridge(e, generator=seeded(link.config.noise_seed)))
    each = link.bridge(e, generator=[seeded(k) for k in range(3)])
    for k in range(3):
        torch.testing.assert_close(each[k], link.bridge(e[k : k + 1], generator=seeded(k))[0], atol=1e-6, rtol=0)
    noise = torch.randn(3, EMBEDDING_DIM)
    torch.testing.assert_close(
        link.bridge(e, noise=noise)[1:2], link.bridge(e[1:2], noise=noise[1:2]), atol=1e-6, rtol=0
    )
    assert torch.equal(link.bridge(e, add_noise=False, generator=seeded(1)), link.bridge(e, add_noise=False))


def test_bridge_equals_the_papers_procedure():
    """§2 and §4 step by step: normalize, noise to s* = 100, DDIM on 99, 79, 59, 39, 19, normalize."""
    link, e = make_link(), embeddings()
    scheduler = make_scheduler()
    noise = torch.randn(7, EMBEDDING_DIM)
    z = link.normalize(e, "audio")
    z = scheduler.add_noise(z, noise, torch.tensor([99] * 7))
    scheduler.set_timesteps(50)
    with torch.no_grad():
        for t in (99, 79, 59, 39, 19):
            z = scheduler.step(link(z, t).sample, t, z).prev_sample
    torch.testing.assert_close(
        link.bridge(e, "audio", noise=noise), torch.nn.functional.normalize(z, dim=1), atol=1e-5, rtol=0
    )


def plain_loop(link, state, timesteps, scheduler):
    """DDIM over ``forward``."""
    with torch.no_grad():
        return ddim_sample(lambda z, t: link(z, t).sample, state, scheduler, timesteps)


@pytest.mark.parametrize(("width", "rows"), [(40, 1), (40, 90), (70, 90)])
@pytest.mark.parametrize(("start", "steps"), [(100, 5), (300, 7), (1, 1), (40, 2)])
def test_bridging_equals_ddim_over_the_network(width, rows, start, steps):
    """Though it embeds the timesteps of the grid at once."""
    scheduler, timesteps = make_scheduler(), shallow_timesteps(start, steps)
    link = DiffusionLinkModel(EMBEDDING_DIM, width=width, time_embed_dim=16).eval()
    for parameter in link.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    link, e = torch.nn.Module.to(link, torch.float64), embeddings(rows).double()
    given = e.clone()
    ours = link.bridge(e, noise_timestep=start, num_inference_steps=steps, add_noise=False)
    assert torch.equal(e, given)
    expected = plain_loop(link, link.normalize(e, "audio"), timesteps, scheduler)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=1), atol=1e-10, rtol=0)


def change_data(link):
    """As optimizers and averaged weights do, past autograd's version counters."""
    link.denoiser.blocks[1].time_layers[1].weight.data.mul_(-2)
    link.denoiser.proj_out[2].weight.data.mul_(-1)


def add_hook(link):
    link.denoiser.blocks[0].in_layers[2].register_forward_hook(lambda module, inputs, output: output.flip(1))


def add_adapter(link):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["proj_in"], init_lora_weights=False), link)


def other_class(link):
    class Negated(torch.nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    link.denoiser.blocks[0].out_layers[3].__class__ = Negated


def replace_forward(link):
    """As Accelerate's offloading does."""
    linear = link.denoiser.proj_out[2]
    linear.forward = lambda x: x @ -linear.weight.T


def subclass_weight(link):
    class Doubled(torch.nn.Parameter):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                factors = [2 * a if type(a) is cls else a for a in args] if func is torch.nn.functional.linear else args
                return func(*factors, **(kwargs or {}))

    link.denoiser.proj_in.weight = Doubled(link.denoiser.proj_in.weight.detach())


@pytest.mark.parametrize("change", [change_data, add_hook, add_adapter, other_class, replace_forward, subclass_weight])
def test_bridging_follows_whatever_changes_the_network(change):
    link, scheduler, timesteps = make_responsive_link(), make_scheduler(), [99, 79, 59, 39, 19]
    before = link.bridge(embeddings(40), add_noise=False)
    change(link)
    z = plain_loop(link, link.normalize(embeddings(40), "audio"), timesteps, scheduler)
    expected = torch.nn.functional.normalize(z, dim=1)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(link.bridge(embeddings(40), add_noise=False), expected, atol=1e-5, rtol=0)


def test_autocast_is_that_of_the_network():
    link, scheduler = make_link(), make_scheduler()
    with torch.autocast("cpu", torch.bfloat16):
        z = plain_loop(link, link.normalize(embeddings(), "audio"), [99, 79, 59, 39, 19], scheduler)
        half = link.bridge(embeddings(), add_noise=False)
    assert not torch.equal(half, link.bridge(embeddings(), add_noise=False))
    torch.testing.assert_close(half, torch.nn.functional.normalize(z, dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    link, e = make_link(), embeddings()
    full = link.bridge(e)
    half = torch.nn.Module.to(link, dtype).bridge(e.to(dtype))
    assert half.dtype == dtype
    assert torch.nn.functional.cosine_similarity(half.float(), full).min() > 0.99


@pytest.mark.parametrize(
    ("embeds", "options"),
    [
        (torch.ones(EMBEDDING_DIM), {}),
        (torch.ones(2, EMBEDDING_DIM + 1), {}),
        (torch.ones(2, EMBEDDING_DIM, dtype=torch.long), {}),
        (torch.zeros(2, EMBEDDING_DIM), {}),
        (torch.full((2, EMBEDDING_DIM), float("nan")), {}),
        (np.ones((2, EMBEDDING_DIM), np.float32), {}),
        (torch.ones(2, EMBEDDING_DIM), {"modality": "video"}),
        (torch.ones(2, EMBEDDING_DIM), {"num_inference_steps": 0}),
        (torch.ones(2, EMBEDDING_DIM), {"noise_timestep": 1001}),
        (torch.ones(2, EMBEDDING_DIM), {"noise": torch.ones(3, EMBEDDING_DIM)}),
        (torch.ones(2, EMBEDDING_DIM), {"generator": [torch.Generator()]}),
        (torch.ones(2, EMBEDDING_DIM), {"num_inference_steps": 101}),
    ],
)
def test_wrong_input_is_refused(embeds, options):
    with pytest.raises(InputError) as caught:
        make_link().bridge(embeds, **options)
    assert caught.value.remedy


def test_an_empty_batch_is_empty():
    assert make_link().bridge(torch.empty(0, EMBEDDING_DIM)).shape == (0, EMBEDDING_DIM)


def test_round_trip(tmp_path):
    link, e = make_link(noise_timestep=60, num_inference_steps=3), embeddings()
    link.save_pretrained(tmp_path)
    again = DiffusionLinkModel.from_pretrained(tmp_path)
    assert torch.equal(again.bridge(e), link.bridge(e))
    assert torch.equal(again.text_mean, link.text_mean)
    again.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "_name_or_path" not in config
    assert config["noise_timestep"] == 60
    assert str(tmp_path) not in json.dumps(config)


def test_meta_device():
    with torch.device("meta"):
        assert next(DiffusionLinkModel().parameters()).is_meta


@pytest.mark.parametrize(
    "how",
    ["missing key", "missing buffer", "extra key", "wrong width", "nan", "pickle", "torn", "no folder", "other class"],
)
def test_damaged_folders_are_refused(tmp_path, how):
    make_link().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    if how == "missing key":
        del weights["denoiser.proj_in.weight"]
    elif how == "missing buffer":
        del weights["text_mean"]
    elif how == "extra key":
        weights["surplus"] = torch.zeros(2)
    elif how == "nan":
        weights["denoiser.proj_in.weight"][0, 0] = float("inf")
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    if how == "wrong width":
        config["width"] = 48
    elif how == "other class":
        config["_class_name"] = "UNet2DModel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    if how == "pickle":
        torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFolderError):
        DiffusionLinkModel.from_pretrained(tmp_path / "nowhere" if how == "no folder" else tmp_path)


def former_weights(link: DiffusionLinkModel) -> dict[str, torch.Tensor]:
    """As they were saved when the layers were attributes of the link itself."""
    return {name.removeprefix("denoiser."): weight for name, weight in link.state_dict().items()}


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_folders_of_the_former_layout_load(tmp_path, low_cpu_mem_usage):
    """One of before the move; it is saved in the present layout."""
    folder = Path(__file__).resolve().parents[1] / "fixtures" / "before_the_move" / "links" / "diffusion_link"
    former = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {"proj_in.weight", "blocks.0.in_layers.0.weight"} <= set(former)
    for cls in (DiffusionLinkModel, BridgeModel):
        link = cls.from_pretrained(folder, low_cpu_mem_usage=low_cpu_mem_usage)
        assert set(former_weights(link)) == set(former)
        for name, weight in former_weights(link).items():
            assert torch.equal(weight, former[name].float()), name
    link.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "diffusion_pytorch_model.safetensors")) == set(link.state_dict())
    rows = torch.randn(3, link.config.embedding_dim)
    assert torch.equal(DiffusionLinkModel.from_pretrained(tmp_path).bridge(rows), link.bridge(rows))


def test_state_dicts_of_the_former_layout_load():
    """Those of checkpoints, also within another module; and what is wrong in them is still refused."""
    link, new = make_link(), make_link()
    former = former_weights(link)
    given = dict(former)
    assert not torch.equal(new.denoiser.proj_in.weight, link.denoiser.proj_in.weight)
    new.load_state_dict(given)
    assert given == former, "the caller's mapping is not changed"
    within = torch.nn.ModuleDict({"bridge": make_link()})
    within.load_state_dict({f"bridge.{name}": weight for name, weight in former.items()})
    for loaded in (new, within["bridge"]):
        for name, weight in link.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
    for wrong in (
        {name: weight for name, weight in former.items() if name != "proj_in.bias"},
        {**former, "blocks.9.in_layers.0.weight": torch.ones(2)},
    ):
        with pytest.raises(RuntimeError, match=r"denoiser\."):
            new.load_state_dict(wrong)


def test_parameters_come_in_the_order_of_former_weights():
    """Optimizers and averaged weights of former checkpoints know parameters by their number alone."""
    names = [name.removeprefix("denoiser.").split(".")[0] for name, _ in make_link().named_parameters()]
    assert list(dict.fromkeys(names)) == ["time_embed", "proj_in", "blocks", "proj_out"]
