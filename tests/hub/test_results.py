"""Figures on test sets: the file in a pipeline's folder, its README.md, and what `push` makes of both."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from diffusion_link_hf.errors import ModelFolderError
from diffusion_link_hf.hub.card import PipelineCard
from diffusion_link_hf.hub.card_figures import write_figures
from diffusion_link_hf.hub.contents import CARD, collect
from diffusion_link_hf.hub.push import prepare_upload
from diffusion_link_hf.hub.results import RESULTS, DataSetResult, add_result, pipeline_fingerprint, read_results
from support.models import make_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make_pipeline().save_pretrained(folder)
    (folder / "metrics.json").write_text('{"loss": 1.5}')
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "captioner")
    return tmp_path / "captioner"


def make_result(folder, cider=0.7, **changes) -> DataSetResult:
    figures = {
        "cider_d": {"value": cider, "low": cider - 0.1, "high": cider + 0.1},
        "meteor": {"value": 0.25, "low": None, "high": None},
        "meteor_per_caption": {"value": 0.26, "low": 0.2, "high": 0.3},
    }
    about = {"data": "me/sounds", "recordings": 40, "split": "test", "data_revision": "0a1b"}
    return DataSetResult(pipeline_fingerprint(folder), figures=figures, **{**about, **changes})


def test_results_are_kept_by_data_set(folder):
    assert read_results(folder) == []
    add_result(folder, make_result(folder))
    add_result(folder, make_result(folder, data="clips", split=None, data_revision=None, generation={"num_beams": 4}))
    add_result(folder, make_result(folder, cider=0.8))
    assert [(one.data, one.figures["cider_d"]["value"]) for one in read_results(folder)] == [
        ("clips", 0.7),
        ("me/sounds", 0.8),
    ]


def test_the_fingerprint_is_that_of_weights_and_settings(folder, saved):
    before = pipeline_fingerprint(folder)
    assert before == pipeline_fingerprint(saved)
    for name in ("notes.md", "metrics.json", "clap/.DS_Store"):
        (folder / name).write_text("{}")
    assert pipeline_fingerprint(folder) == before
    weights = folder / "decoder" / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert pipeline_fingerprint(folder) != before


def test_figures_of_other_weights_are_not_published(folder):
    """A pipeline that was trained again has not been tested."""
    add_result(folder, make_result(folder))
    make_pipeline(seed=5).save_pretrained(folder)
    with pytest.raises(ModelFolderError, match="figures of other weights") as caught:
        collect(folder)
    assert "Test the pipeline again" in caught.value.remedy
    add_result(folder, make_result(folder, data="clips"))  # tested again, on something else
    assert [one.data for one in read_results(folder)] == ["clips"]


@pytest.mark.parametrize(
    "text", ["{}", '{"format": "x"}', '{"format": "diffusion-link test results 1", "results": [{"data": 5}]}', "["]
)
def test_a_damaged_file_is_named(folder, text):
    (folder / RESULTS).write_text(text)
    with pytest.raises(ModelFolderError, match="test_results"):
        read_results(folder)


def test_the_card_has_them_with_data_set_split_and_revision(folder):
    add_result(folder, make_result(folder, limit=40, left_out=2, generation={"num_beams": 4}))
    contents = collect(folder)
    assert RESULTS in contents.files
    text = PipelineCard.of(contents, "me/model").render()
    found = {result.metric_name: result for result in ModelCard(text).data.eval_results}
    assert set(found) == {"CIDEr-D", "METEOR", "Cross-entropy of the validation captions"}
    cider = found["CIDEr-D"]
    assert (cider.metric_value, cider.dataset_type, cider.dataset_split) == (0.7, "me/sounds", "test")
    assert (cider.dataset_revision, cider.dataset_name) == ("0a1b", "me/sounds, split test, first 40 recordings")
    assert "| CIDEr-D | 0.7 | 0.6 to 0.8 |" in text
    assert "could not be read: 2." in text
    assert "num beams 4" in text


def test_the_readme_beside_the_pipeline_gets_them_and_is_no_obstacle_to_the_push(folder):
    result = make_result(folder)
    add_result(folder, result)
    write_figures(folder, [result])
    first = (folder / CARD).read_text()
    front = yaml.safe_load(first.split("---\n")[1])
    assert front["model-index"][0]["name"] == "captioner"
    assert "| METEOR | 0.25 | – |" in first
    write_figures(folder, [result])
    assert (folder / CARD).read_text() == first
    pushed = prepare_upload(folder, "me/model")[1].files[CARD].decode()
    assert pushed.startswith("---")
    assert "# model\n" in pushed
    assert ModelCard(pushed).data.model_name == "model"
    assert pushed.count("## Measured") == 1
    (folder / RESULTS).unlink()
    (folder / "metrics.json").unlink()
    assert ModelCard(prepare_upload(folder, "me/model")[1].files[CARD].decode()).data.eval_results is None


def test_the_rest_of_a_readme_stays(folder):
    (folder / CARD).write_text("---\nlicense: mit\n---\n# Mine\n\nWords.\n")
    write_figures(folder, [make_result(folder)])
    write_figures(folder, [make_result(folder, cider=0.3)])
    text = (folder / CARD).read_text()
    assert text.startswith("---\nlicense: mit\n")
    assert "# Mine\n\nWords.\n" in text
    assert text.count("## Measured") == 1
    assert "0.2 to 0.4" in text
    add_result(folder, make_result(folder, cider=0.3))
    whole = prepare_upload(folder, "me/model")[1].files[CARD].decode()
    (folder / CARD).write_text(whole)
    write_figures(folder, [make_result(folder, cider=0.9)])
    text = (folder / CARD).read_text()
    assert "## Limits" in text
    assert text.count("## Measured") == 1
    assert "0.8 to 1 |" in text
    assert "0.2 to 0.4" not in text


def test_an_authors_own_section_is_left_alone(folder):
    (folder / CARD).write_text("# Mine\n\n## Measured\n\nWell.\n")
    write_figures(folder, [make_result(folder)])
    assert (folder / CARD).read_text().count("## Measured") == 1
    assert "Well." in (folder / CARD).read_text()


def test_the_file_is_json_that_anybody_reads(folder):
    add_result(folder, make_result(folder))
    document = json.loads((folder / RESULTS).read_text())
    assert document["results"][0]["figures"]["cider_d"]["value"] == 0.7
