"""What keeps a stage from starting: found before data are read or anything is written."""

import pytest
import torch
from peft import LoraConfig

from diffusion_link_hf import DiffusionLinkModel
from diffusion_link_hf.errors import DataError, DiffusionLinkError, RecipeError
from diffusion_link_hf.training.preparation import check_options, construct, make_accelerator
from diffusion_link_hf.training.train import train
from support.training import bridge_arguments, decoder_arguments


def test_a_tracker_that_nobody_knows(tmp_path):
    with pytest.raises(RecipeError, match=r"report_to: is 'tensorbord'. Use one of .*tensorboard.*none"):
        train(bridge_arguments(tmp_path / "no", tmp_path / "out", report_to="tensorbord"))


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
@pytest.mark.parametrize(
    ("changes", "words"), [({"report_to": "tensorboard"}, r"\[train\].*none"), ({"mixed_precision": "fp16"}, "CPU")]
)
def test_the_machine_is_asked_first(tmp_path, monkeypatch, stage, changes, words):
    """There is no cache here, so whatever came later would complain of that."""
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    if "mixed_precision" in changes and torch.cuda.is_available():
        pytest.skip("a GPU trains in fp16")
    link = bridge_arguments(tmp_path / "no", tmp_path / "out", **changes)
    decoder = decoder_arguments(tmp_path / "no", tmp_path / "no", tmp_path / "out", **changes)
    with pytest.raises(RecipeError, match=words):
        train(link if stage == "bridge" else decoder)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="cannot be written"):
            train(bridge_arguments(tmp_path / "no", output))


def test_construct():
    made = construct("model", DiffusionLinkModel, {"width": 8, "embedding_dim": 4}, embedding_dim=4)
    assert (made.config.width, made.config.embedding_dim) == (8, 4)
    with pytest.raises(RecipeError, match=r"model\.depth") as caught:
        construct("model", DiffusionLinkModel, {"depth": 3}, embedding_dim=4)
    assert "num_blocks" in caught.value.remedy
    with pytest.raises(RecipeError, match=r"model\.embedding_dim: is 5, the data say 4"):
        construct("model", DiffusionLinkModel, {"embedding_dim": 5}, embedding_dim=4)
    with pytest.raises(RecipeError, match="lora: cannot be used"):
        construct("lora", LoraConfig, {"init_lora_weights": "loftq"})
    with pytest.raises(RecipeError, match=r"lora\.rank") as caught:
        construct("lora", LoraConfig, {"rank": 3})
    assert "lora_alpha" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width": 8.5}, "model.width: is 8.5"),
        ({"width": True}, "model.width: is True"),
        ({"scale": "nan"}, "model.scale: is 'nan'"),
        ({"scale": float("inf")}, "model.scale: is inf"),
        ({"width": 0}, "width: is 0"),
        ({"num_blocks": -1}, "num_blocks: is -1"),
    ],
)
def test_numbers_of_a_model_are_checked(given, words):
    with pytest.raises(DiffusionLinkError, match=words) as caught:
        construct("model", DiffusionLinkModel, given)
    assert caught.value.remedy


def test_where_nothing_is_known_the_remedy_says_so():
    with pytest.raises(RecipeError, match=r"loss.x: is no known field. There are no loss options"):
        check_options("loss", {"x": 1}, {})


def test_stages_of_one_process_may_differ_in_precision(tmp_path, fresh_accelerator):
    """As in an evaluation: bridges in float32, then decoders in bfloat16."""
    for precision in ("no", "bf16", "no"):
        args = bridge_arguments(tmp_path, tmp_path / "out", mixed_precision=precision)
        assert make_accelerator(args).mixed_precision == precision
