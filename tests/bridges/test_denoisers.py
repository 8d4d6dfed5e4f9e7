"""The networks against independent ones in numpy float64 and by their structure."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.denoisers import (
    ChannelNorm,
    ConvBlock,
    ResidualMlp,
    SequenceAttention,
    UNet1d,
)
from diffusion_link_hf.errors import InputError
from support.bridges import numpy_mlp, silu, weights_of


def randomize(module: torch.nn.Module, seed=0) -> torch.nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module.double().eval()


@pytest.mark.parametrize("timestep", [0, 999])
@pytest.mark.parametrize("condition", [0, 6])
def test_residual_mlp(timestep, condition):
    network = randomize(ResidualMlp(8, width=12, num_blocks=2, time_embed_dim=4, condition_dim=condition))
    z, c = torch.randn(3, 8).double(), torch.randn(3, condition).double()
    with torch.no_grad():
        found = network(z, timestep, c if condition else None).numpy()
        rows = network(z, torch.tensor([timestep] * 3), c if condition else None).numpy()
    # The sinusoids are float32 in diffusers.
    expected = numpy_mlp(weights_of(network), torch.cat([z, c], 1).numpy(), timestep)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(rows, found, atol=1e-12)


def test_channel_norm_has_unit_mean_square():
    x = torch.randn(2, 6, 5).double()
    y = ChannelNorm(6).double()(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 5).double())
    torch.testing.assert_close(y, x / x.square().mean(1, keepdim=True).sqrt())


def test_conv_block():
    """conv → norm → (scale + 1)·h + shift → SiLU → conv → norm → SiLU, plus the shortcut; convolutions by hand."""
    block = randomize(ConvBlock(3, 5, time_dim=4, dropout=0.0))
    x, t = torch.randn(2, 3, 7).double(), torch.randn(2, 4).double()
    w = weights_of(block)

    def conv(x, name):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        taps = np.stack([padded[:, :, k : k + x.shape[2]] for k in range(3)], axis=-1)
        return np.einsum("bclk,ock->bol", taps, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None]

    def norm(x, name):
        return x / np.sqrt((x**2).mean(1, keepdims=True)) * w[f"{name}.gain"]

    scale, shift = np.split((silu(t.numpy()) @ w["time_layers.1.weight"].T + w["time_layers.1.bias"])[:, :, None], 2, 1)
    h = silu(norm(conv(x.numpy(), "conv1"), "norm1") * (scale + 1) + shift)
    h = silu(norm(conv(h, "conv2"), "norm2"))
    shortcut = np.einsum("bcl,oc->bol", x.numpy(), w["shortcut.weight"][:, :, 0]) + w["shortcut.bias"][:, None]
    with torch.no_grad():
        np.testing.assert_allclose(block(x, t).numpy(), h + shortcut, atol=1e-10)


@pytest.mark.parametrize("linear", [False, True])
def test_attention(linear):
    module = randomize(SequenceAttention(6, linear, heads=2, head_dim=3))
    x = torch.randn(2, 6, 5).double()
    w = weights_of(module)
    normed = x.numpy() / np.sqrt((x.numpy() ** 2).mean(1, keepdims=True)) * w["norm.gain"]
    q, k, v = np.split(np.einsum("bcl,oc->bol", normed, w["to_qkv.weight"][:, :, 0]), 3, axis=1)

    def softmax(x, axis):
        x = np.exp(x - x.max(axis, keepdims=True))
        return x / x.sum(axis, keepdims=True)

    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        a, b, c = q[:, head], k[:, head], v[:, head]  # (B, 3, L)
        if linear:
            context = np.einsum("bdl,bel->bde", softmax(b, 2), c)
            heads.append(np.einsum("bde,bdl->bel", context, softmax(a, 1) / np.sqrt(3)))
        else:
            weights = softmax(np.einsum("bdl,bdm->blm", a, b) / np.sqrt(3), 2)
            heads.append(np.einsum("blm,bdm->bdl", weights, c))
    name = "to_out.0" if linear else "to_out"
    out = np.einsum("bcl,oc->bol", np.concatenate(heads, 1), w[f"{name}.weight"][:, :, 0]) + w[f"{name}.bias"][:, None]
    if linear:
        out = out / np.sqrt((out**2).mean(1, keepdims=True)) * w["to_out.1.gain"]
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), x.numpy() + out, atol=1e-10)


def test_unet_uses_input_and_timestep_everywhere():
    network = randomize(UNet1d(time_embed_dim=8, channels=4))
    z = torch.randn(3, 32).double().requires_grad_()
    out = network(z, torch.tensor([0, 10, 999]))
    assert out.shape == (3, 32)
    for k, t in enumerate((0, 10, 999)):
        torch.testing.assert_close(network(z[k : k + 1], t)[0], out[k])
    assert not torch.allclose(network(z, 10), network(z, 20))
    out.square().sum().backward()
    assert (z.grad != 0).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_size_of_the_original_unet():
    assert sum(p.numel() for p in UNet1d().parameters()) == 4_037_313


def test_odd_time_widths_are_refused():
    for network in (lambda: ResidualMlp(8, time_embed_dim=7), lambda: UNet1d(time_embed_dim=7)):
        with pytest.raises(InputError, match="time_embed_dim"):
            network()
