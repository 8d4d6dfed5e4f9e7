"""The projection head."""

import pytest
import torch

from diffusion_link_hf import PrefixProjector
from diffusion_link_hf.errors import InputError, ModelFolderError


@pytest.mark.parametrize(("m", "layers"), [(1, 1), (10, 2), (3, 1)])
def test_shape_and_round_trip(tmp_path, m, layers):
    projector = PrefixProjector(8, 6, m, layers).eval()
    embeds = torch.randn(4, 8)
    prefix = projector(embeds)
    assert prefix.shape == (4, m, 6)
    projector.save_pretrained(tmp_path)
    assert torch.equal(PrefixProjector.from_pretrained(tmp_path)(embeds), prefix)


def test_one_layer_is_linear_and_rows_fill_tokens_in_order():
    projector = PrefixProjector(8, 6, 2, 1)
    linear = projector.layers[0]
    embeds = torch.randn(1, 8)
    torch.testing.assert_close(projector(embeds)[0, 1], linear(embeds)[0, 6:])


@pytest.mark.parametrize("config", [{"num_layers": 3}, {"num_prefix_tokens": 0}, {"activation": "relu6"}])
def test_wrong_configurations_are_refused(config):
    with pytest.raises(InputError):
        PrefixProjector(8, 6, **config)


def test_wrong_width_is_refused(tmp_path):
    with pytest.raises(InputError, match="8"):
        PrefixProjector(8, 6)(torch.randn(2, 9))
    PrefixProjector(8, 6).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"hidden_size": 6', '"hidden_size": 12')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelFolderError):
        PrefixProjector.from_pretrained(tmp_path)


def test_slots_share_their_weights(tmp_path):
    """Each event is read as if it were the first and only one, and the prefixes follow one another."""
    torch.manual_seed(0)
    plain, slotted = PrefixProjector(9, 6, 2, 2), PrefixProjector(9, 6, 2, 2, slots=[[3, 5], [5, 7]])
    slotted.load_state_dict(plain.state_dict())
    embeds = torch.randn(4, 9)
    first, second = embeds.clone(), embeds.clone()
    first[:, 5:7] = 0
    second[:, 3:5], second[:, 5:7] = embeds[:, 5:7], 0
    expected = torch.cat([plain(first), plain(second)], dim=1)
    assert torch.equal(slotted(embeds), expected)
    assert slotted(embeds).shape == (4, 4, 6)
    slotted.save_pretrained(tmp_path)
    assert torch.equal(PrefixProjector.from_pretrained(tmp_path)(embeds), expected)


@pytest.mark.parametrize("slots", [[], [[0, 2], [2, 5]], [[0, 2], [1, 3]], [[6, 9]], [[2, 2]], [3], "ab", [[0, 1, 2]]])
def test_slots_are_places_of_one_width(slots):
    with pytest.raises(InputError, match="slots"):
        PrefixProjector(8, 6, slots=slots)
