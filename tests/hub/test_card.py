"""The generated model card: its sources, its front matter, and that it can be generated again."""

from dataclasses import fields

import pytest
import yaml
from huggingface_hub import ModelCard

from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.hub.card import PipelineCard, field_sources
from diffusion_link_hf.hub.card_words import METRIC_NAMES
from diffusion_link_hf.hub.contents import CARD, collect
from diffusion_link_hf.loading import BaseReference
from support.models import make_pipeline


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    pipe = make_pipeline()
    pipe.clap.source = BaseReference("laion/larger_clap_general", "abc")
    pipe.decoder.source = BaseReference("meta-llama/Llama-2-7b-hf", "def")
    pipe.save_pretrained(folder, include_base=False)
    (folder / "metrics.json").write_text('{"loss": 1.5, "perplexity": 4.48, "cider_d": 0.7, "steps": 9, "seconds": 60}')
    (folder / "recipe.yaml").write_text("stage: decoder\nmode: supervised\ncache: runs/cache\nlora: {r: 16}\n")
    return folder


def make_card(folder, **by_hand) -> PipelineCard:
    return PipelineCard.of(collect(folder), "me/model", **by_hand)


def test_every_field_says_where_it_comes_from():
    sources = field_sources()
    assert set(sources.values()) == {"given", "found", "constant"}
    assert {item.name for item in fields(PipelineCard) if not item.init} == {
        name for name, source in sources.items() if source == "constant"
    }


def test_front_matter(run_folder):
    given = {"license": "llama2", "datasets": ["OpenSound/AudioCaps"], "hardware": "one GPU", "co2_grams": 120.0}
    data = ModelCard(make_card(run_folder, **given).render()).data
    assert (data.license, data.datasets, data.language) == ("llama2", ["OpenSound/AudioCaps"], "en")
    assert data.base_model == ["laion/larger_clap_general", "meta-llama/Llama-2-7b-hf"]
    assert (data.library_name, data.pipeline_tag) == ("diffusion-link-hf", "audio-to-text")
    assert data.co2_eq_emissions == {"emissions": 120.0, "hardware_used": "one GPU"}
    assert data.model_name == "model"
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values == {
        METRIC_NAMES[name][1]: value for name, value in (("loss", 1.5), ("perplexity", 4.48), ("cider_d", 0.7))
    }
    assert {result.dataset_type for result in data.eval_results} == {"OpenSound/AudioCaps"}


def test_figures_of_the_bridge_stand_in_the_card_of_the_captioner(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    (tmp_path / "metrics.json").write_text('{"loss": 1.5, "bridge": {"ridge": 0.61, "matched_audio": 0.65}}')
    text = make_card(tmp_path).render()
    assert "| Matched cosine audio → text | 0.65 |" in text
    assert "| Matched cosine audio → text, ridge regression | 0.61 |" in text
    assert "| Cross-entropy of the validation captions | 1.5 |" in text


def test_text(run_folder):
    text = make_card(run_folder, hardware="one GPU").render()
    assert 'AudioCaptionPipeline.from_pretrained("me/model")' in text
    assert "[meta-llama/Llama-2-7b-hf](https://huggingface.co/meta-llama/Llama-2-7b-hf) at `def`: llama2" in text
    assert "The author has not named a license yet" in text
    assert "| lora.r | 16 |" in text
    assert "| cache" not in text
    assert "Trained on one GPU. The last stage took 60 s." in text
    assert "## Limits" in text


def test_a_link_alone(tmp_path):
    from diffusion_link_hf import DiffusionLinkPipeline

    pipe = make_pipeline()
    DiffusionLinkPipeline(pipe.link, pipe.scheduler).save_pretrained(tmp_path)
    text = make_card(tmp_path).render()
    data = ModelCard(text).data
    assert data.pipeline_tag == "feature-extraction"
    assert data.eval_results is None
    assert data.base_model is None
    assert 'DiffusionLinkPipeline.from_pretrained("me/model")' in text
    assert "## Measured" not in text


@pytest.fixture
def with_readme(run_folder):
    yield lambda text: (run_folder / CARD).write_text(text, encoding="utf-8")
    (run_folder / CARD).unlink()


def test_the_fixed_part_by_hand_is_kept_and_wins(run_folder, with_readme):
    with_readme(
        "---\nlicense: mit\ntags: [mine]\nco2_eq_emissions: 5\n---\n# My model\n\nWords.\n\n## Limits\n\nMany.\n"
    )
    text = make_card(run_folder).render()
    data = ModelCard(text).data
    assert (data.license, data.tags, data.co2_eq_emissions) == ("mit", ["mine"], 5)
    assert text.count("# My model") == text.count("## Limits") == 1
    assert "Many." in text
    assert "with no sign of doubt" not in text


def test_generated_again_it_is_the_same(run_folder, with_readme):
    """A card that comes back from the Hub is no fixed part: figures of an earlier push must not survive."""
    with_readme("# My model\n")
    first = make_card(run_folder, license="mit").render()
    with_readme(first.replace("4.48", "1.00"))
    assert make_card(run_folder).render() == first


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_are_refused(value):
    with pytest.raises(ModelFolderError, match="perplexity"):
        PipelineCard("me/model", metrics={"perplexity": value}).render()


def test_local_paths_in_the_card_are_refused(run_folder, with_readme):
    with_readme("# My model\n\nTrained in /home/me/runs.\n")
    with pytest.raises(ModelFolderError, match="names a path of this machine"):
        make_card(run_folder).render()


@pytest.mark.parametrize("front_matter", ["a: [", "- 1"])
def test_front_matter_that_cannot_be_read(run_folder, with_readme, front_matter):
    with_readme(f"---\n{front_matter}\n---\n# x\n")
    with pytest.raises(ModelFolderError, match="front matter"):
        make_card(run_folder)


def test_metadata_that_cannot_be_used():
    with pytest.raises(InputError, match="model card"):
        PipelineCard("me/model", metadata={"model-index": 5}).render()


def test_the_front_matter_is_plain_yaml(run_folder):
    """Without objects of Python, so that any reader of YAML can have it."""
    text = make_card(run_folder).render()
    assert isinstance(yaml.safe_load(text.split("---\n")[1]), dict)
