"""What all bridges promise: options, row independence, saving, the pipelines; and fitting in general."""

import json

import pytest
import torch

from diffusion_link_hf import AudioCaptionPipeline, BridgeModel, DiffusionLinkModel, DiffusionLinkPipeline
from diffusion_link_hf.bridges.base import distinct_rows
from diffusion_link_hf.bridges.centering import IdentityBridge, MeanCentering
from diffusion_link_hf.bridges.linear import LinearBridge
from diffusion_link_hf.bridges.sampling import make_scheduler
from diffusion_link_hf.errors import DataError, InputError, ModelFolderError
from diffusion_link_hf.training.bridge import METHODS
from support.bridges import make_bridge, make_pairs, make_rows, normalized, unit
from support.models import EMBEDDING_DIM, make_clap, make_link, make_pipeline

OPTIONS = {
    "scheduler": make_scheduler(),
    "num_inference_steps": 2,
    "noise_timestep": 50,
    "add_noise": True,
}
every_method = pytest.mark.parametrize("method", METHODS)
both_modalities = pytest.mark.parametrize("modality", ["audio", "text"])


@every_method
@both_modalities
def test_a_row_does_not_depend_on_its_batch(method, modality):
    bridge, rows = torch.nn.Module.to(make_bridge(method), torch.float64), make_rows(9, dtype=torch.float64)
    together = bridge.bridge(rows, modality)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(9, dtype=torch.float64))
    assert not torch.allclose(together[0], together[1], atol=1e-3), "the input should matter"
    for size in (1, 4):
        parts = torch.cat([bridge.bridge(part, modality) for part in rows.split(size)])
        torch.testing.assert_close(parts, together, atol=1e-10, rtol=0)
    order = torch.randperm(9)
    torch.testing.assert_close(bridge.bridge(rows[order], modality), together[order], atol=1e-10, rtol=0)
    torch.testing.assert_close(bridge.bridge(rows * 17, modality), together, atol=1e-10, rtol=0)


@every_method
@both_modalities
def test_every_option_of_the_pipeline_is_accepted(method, modality):
    bridge, rows = make_bridge(method), make_rows(3)
    generator = torch.Generator().manual_seed(1)
    once = bridge.bridge(rows, modality, generator=generator, **OPTIONS)
    assert torch.equal(bridge.bridge(rows, modality, generator=generator.manual_seed(1), **OPTIONS), once)
    noise = make_rows(3, 5)
    whole = bridge.bridge(rows, modality, noise=noise, **OPTIONS)
    torch.testing.assert_close(
        bridge.bridge(rows[1:2], modality, noise=noise[1:2], **OPTIONS), whole[1:2], atol=2e-5, rtol=0
    )
    each = bridge.bridge(rows, modality, generator=[torch.Generator().manual_seed(k) for k in range(3)], **OPTIONS)
    alone = bridge.bridge(rows[2:], modality, generator=torch.Generator().manual_seed(2), **OPTIONS)
    torch.testing.assert_close(each[2:], alone, atol=2e-5, rtol=0)
    with pytest.raises(TypeError):
        bridge.bridge(rows, modality, temperature=1.0)


@every_method
def test_round_trip(method, tmp_path):
    bridge, rows = make_bridge(method), make_rows(4)
    bridge.save_pretrained(tmp_path)
    again = type(bridge).from_pretrained(tmp_path)
    for name, tensor in bridge.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for modality in ("audio", "text"):
        torch.testing.assert_close(again.bridge(rows, modality), bridge.bridge(rows, modality), atol=1e-6, rtol=0)
    torch.testing.assert_close(again.target(rows), bridge.target(rows))
    assert "_name_or_path" not in json.loads((tmp_path / "config.json").read_text())


@every_method
def test_is_a_link_of_both_pipelines(method, tmp_path):
    bridge, rows = make_bridge(method), make_rows(3)
    pipe = DiffusionLinkPipeline(bridge)
    expected = bridge.bridge(rows, "text")
    torch.testing.assert_close(pipe(rows, "text").embeds, expected)
    pipe.save_pretrained(tmp_path)
    torch.testing.assert_close(
        DiffusionLinkPipeline.from_pretrained(tmp_path)(rows, "text").embeds, expected, atol=1e-6, rtol=0
    )
    parts = make_pipeline()
    captioner = AudioCaptionPipeline(make_clap(), parts.projector, parts.decoder, link=bridge)
    bridged = captioner.bridge(rows, "audio", generator=None, num_inference_steps=2, noise_timestep=9, add_noise=None)
    assert captioner.decode(bridged, max_new_tokens=2)


@every_method
def test_wrong_input_is_refused(method):
    bridge = make_bridge(method)
    for wrong in (torch.ones(EMBEDDING_DIM), torch.ones(2, 3), torch.zeros(2, EMBEDDING_DIM), make_rows(2).long()):
        with pytest.raises(InputError, match="embeds"):
            bridge.bridge(wrong)
    with pytest.raises(InputError, match="modality"):
        bridge.bridge(make_rows(2), "video")
    assert bridge.bridge(make_rows(0)).shape == (0, EMBEDDING_DIM)


@every_method
@pytest.mark.parametrize(
    "options",
    [
        {"generator": 5},
        {"generator": [1, 2, 3]},
        {"generator": "seed"},
        {"noise": make_rows(3).numpy()},
        {"noise": make_rows(3).tolist()},
        {"noise": make_rows(3).long()},
        {"noise": make_rows(3) / 0},
        {"noise": make_rows(3).to_sparse()},
        {"noise": make_rows(3), "generator": torch.Generator()},
        {"add_noise": "no"},
        {"add_noise": 1},
        {"noise_timestep": "x"},
        {"noise_timestep": 0},
        {"noise_timestep": 1001},
        {"num_inference_steps": -5},
        {"num_inference_steps": 2.0},
        {"num_inference_steps": True},
    ],
    ids=lambda options: "+".join(options),
)
def test_wrong_options_are_refused_used_or_not(method, options):
    with pytest.raises(InputError) as caught:
        make_bridge(method).bridge(make_rows(3), **options)
    assert caught.value.remedy


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["identity", "centering", "memory", "diffusion-link"])
def test_any_finite_norm_but_zero_will_do(method, dtype):
    bridge, rows = make_bridge(method), make_rows(4).to(dtype)
    expected = bridge.bridge(rows)
    limits = torch.finfo(dtype)
    # Exact factors: what is asked is that no norm overflows or vanishes, not how `dtype` rounds.
    largest = 2.0 ** int(torch.log2(torch.tensor(limits.max, dtype=torch.float64) / rows.abs().amax().double()))
    smallest = 2.0 ** int(torch.log2(torch.tensor(limits.tiny, dtype=torch.float64) / rows.abs().amin().double()) + 1)
    for factor in (largest, smallest):
        scaled = rows * torch.tensor(factor, dtype=dtype)
        assert torch.isfinite(scaled).all()
        torch.testing.assert_close(bridge.bridge(scaled), expected, atol=1e-6, rtol=0)
    one = torch.zeros(1, EMBEDDING_DIM, dtype=dtype)
    one[0, 3] = limits.smallest_normal * limits.eps  # the smallest number there is
    axis = torch.zeros(1, EMBEDDING_DIM, dtype=dtype)
    axis[0, 3] = 1
    torch.testing.assert_close(bridge.bridge(one), bridge.bridge(axis), atol=1e-6, rtol=0)


def test_statistics_take_any_norm_but_zero():
    audio, text = make_rows(20, 1, torch.float64), make_rows(20, 2, torch.float64)
    expected, bridge = make_bridge("centering"), make_bridge("centering")
    expected.fit(audio, text)
    bridge.fit(audio * 1e-200, text * 1e200)
    torch.testing.assert_close(bridge.audio_mean, expected.audio_mean)
    torch.testing.assert_close(bridge.text_mean, expected.text_mean)
    torch.testing.assert_close(bridge.target(text.float() * 1e-30), expected.target(text.float()))


def test_dropout_is_off_while_bridging_and_no_mode_changes():
    bridge, rows = make_bridge("diffusion-link", dropout=0.5), make_rows(3)
    expected = bridge.bridge(rows)
    bridge.train()
    bridge.denoiser.proj_in.eval()
    assert torch.equal(bridge.bridge(rows), expected)
    assert bridge.training
    assert not bridge.denoiser.proj_in.training


@every_method
def test_half_precision(method):
    bridge, rows = make_bridge(method), make_rows(4)
    full = bridge.bridge(rows)
    half = torch.nn.Module.to(bridge, torch.bfloat16).bridge(rows.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    # A softmax at temperature 0.01 multiplies the rounding of a similarity by a hundred.
    floor = 0.9 if method == "memory" else 0.98
    assert torch.nn.functional.cosine_similarity(half.float(), full).min() > floor


def test_statistics_count_each_item_once():
    """A recording with several captions has one embedding, whatever the number of its rows."""
    source, target = make_pairs(6)
    repeated = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 5])
    more = make_rows(9, 7)
    lone = make_rows(4, 8)
    bridge = MeanCentering(EMBEDDING_DIM).fit(source[repeated], more, repeated, unpaired_target=lone)
    torch.testing.assert_close(bridge.audio_mean, unit(source).mean(0).float())
    torch.testing.assert_close(bridge.text_mean, unit(torch.cat([more, lone])).mean(0))
    alone = MeanCentering(EMBEDDING_DIM).fit(None, target)
    assert not alone.audio_mean.any()
    torch.testing.assert_close(alone.text_mean, unit(target).mean(0).float())
    two_sides = MeanCentering(EMBEDDING_DIM).fit(None, target, unpaired_source=source[:2])
    torch.testing.assert_close(two_sides.audio_mean, unit(source[:2]).mean(0).float())


def test_distinct_rows():
    rows = torch.tensor([[1.0], [2.0], [1.0], [1.0], [2.0]])
    assert distinct_rows(rows, torch.tensor([5, 5, 3, 3, 3])).tolist() == [[1.0], [2.0], [1.0], [2.0]]
    assert distinct_rows(rows[:0], torch.tensor([], dtype=torch.long)).shape == (0, 1)


def test_target_is_the_space_that_a_bridge_leads_to():
    rows, centered = make_rows(3), make_bridge("centering")
    torch.testing.assert_close(
        centered.target(rows).double(), normalized(rows, centered.text_mean, 1.0), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(make_bridge("identity").target(rows), unit(rows))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((make_rows(4), make_rows(5)), "4 rows"),
        ((make_rows(4)[:, :3], make_rows(4)), "shape"),
        ((make_rows(4), torch.zeros(4, EMBEDDING_DIM)), "zero"),
        ((make_rows(4), make_rows(4) / 0), "zero, NaN"),
        ((make_rows(4), make_rows(4), torch.zeros(3, dtype=torch.long)), "group"),
        ((None, make_rows(0)), "empty"),
        ((None, make_rows(4)), "needs matched pairs"),
    ],
)
def test_wrong_rows_are_refused(arguments, words):
    with pytest.raises(DataError, match=words) as caught:
        LinearBridge(EMBEDDING_DIM).fit(*arguments)
    assert caught.value.remedy


def test_the_base_class_loads_any_bridge(tmp_path):
    link = make_link()
    link.save_pretrained(tmp_path)
    loaded = BridgeModel.from_pretrained(tmp_path)
    assert type(loaded) is DiffusionLinkModel
    assert torch.equal(loaded.text_mean, link.text_mean)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "PrefixProjector"}))
    with pytest.raises(ModelFolderError, match="PrefixProjector"):
        BridgeModel.from_pretrained(tmp_path)


def test_another_class_does_not_load_it(tmp_path):
    make_bridge("centering").save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="MeanCentering"):
        IdentityBridge.from_pretrained(tmp_path)


def test_the_base_class_has_no_instances():
    with pytest.raises(TypeError, match="abstract"):
        BridgeModel()


@pytest.mark.parametrize("method", ["identity", "centering", "c3", "ridge", "procrustes", "text-subspace", "memory"])
def test_a_closed_form_has_no_training_loss(method):
    with pytest.raises(NotImplementedError, match="fit"):
        make_bridge(method).training_loss(make_rows(2), make_rows(2), make_scheduler(), torch.Generator(), 1000)


def test_a_class_loads_by_its_former_name(tmp_path):
    bridge, rows = make_bridge("centering"), make_rows(3)
    pipe = DiffusionLinkPipeline(bridge)
    pipe.save_pretrained(tmp_path)
    for file in (tmp_path / "link" / "config.json", tmp_path / "model_index.json"):
        text = file.read_text()
        assert "MeanCentering" in text
        file.write_text(text.replace("MeanCentering", "MeanCentring"))
    loaded = [cls.from_pretrained(tmp_path / "link") for cls in (MeanCentering, BridgeModel)]
    loaded.append(DiffusionLinkPipeline.from_pretrained(tmp_path).link)
    for again in loaded:
        assert type(again) is MeanCentering
        assert torch.equal(again.bridge(rows), bridge.bridge(rows))
        again.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["_class_name"] == "MeanCentering"
