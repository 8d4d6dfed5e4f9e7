"""The `evaluate` modules, loaded from their scripts without a network."""

import importlib

import pytest

evaluate = pytest.importorskip("evaluate")

from diffusion_link_hf.errors import InputError  # noqa: E402
from diffusion_link_hf.metrics import METRICS, score  # noqa: E402
from diffusion_link_hf.metrics.evaluate_base import MODULES, CaptionMetric, module_path  # noqa: E402

PREDICTIONS = ["a dog barks loudly", "rain falls", "狗 🐶"]
REFERENCES = [["the dog barks", "a dog barks loudly"], ["it rains"], ["狗 叫", "a dog"]]


@pytest.fixture
def load(tmp_path):
    """`evaluate.load` with a cache of its own, so that nothing of an earlier run is found."""

    def function(name):
        return evaluate.load(module_path(name), cache_dir=str(tmp_path / "cache"), experiment_id=name)

    return function


def test_every_metric_has_a_script_and_a_class():
    assert {path.stem for path in MODULES.glob("[!_]*.py")} == {*METRICS, "caption_metrics"}
    for name in METRICS:
        module = importlib.import_module(f"diffusion_link_hf.metrics.evaluate_modules.{name}")
        classes = [
            value for value in vars(module).values() if isinstance(value, type) and issubclass(value, evaluate.Metric)
        ]
        assert len(classes) == 1
        assert issubclass(classes[0], CaptionMetric)
        assert classes[0].metric == name


def test_an_unknown_script():
    for name in ("cider", "__init__", "../evaluate_base"):
        with pytest.raises(InputError, match="there is no"):
            module_path(name)


def test_loaded_from_the_script(load, ptb):
    metric = load("cider_d")
    assert isinstance(metric, evaluate.Metric)
    assert "CIDEr-D" in metric.description
    expected = score(PREDICTIONS, REFERENCES, ["cider_d"])
    result = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == {"cider_d": pytest.approx(expected.corpus["cider_d"])}
    result = metric.compute(predictions=PREDICTIONS, references=REFERENCES, per_caption=True)
    assert result["cider_d_per_caption"] == pytest.approx(expected.per_caption["cider_d"].tolist())


def test_several_at_once_and_in_batches(load, ptb):
    metric = load("caption_metrics")
    for k, prediction in enumerate(PREDICTIONS[:2]):
        metric.add(prediction=prediction, reference=REFERENCES[k])
    metric.add_batch(predictions=PREDICTIONS[2:], references=REFERENCES[2:])
    metrics = ["rouge_l", "bleu_4", "vocabulary"]
    assert metric.compute(metrics=metrics) == pytest.approx(score(PREDICTIONS, REFERENCES, metrics).corpus)


def test_a_bare_reference_counts_as_a_list_of_one(load, ptb):
    metric = load("rouge_l")
    assert metric.compute(predictions=["a b", "c d"], references=["a b", "x y"]) == {"rouge_l": pytest.approx(0.5)}


def test_options_reach_the_metric(load, sbert_folder):
    result = load("sbert_similarity").compute(
        predictions=["a dog"], references=[["a dog"]], sbert_model=str(sbert_folder), batch_size=1
    )
    assert result == {"sbert_similarity": pytest.approx(1.0, abs=1e-6)}


@pytest.mark.parametrize(
    ("predictions", "references", "problem"),
    [
        (["a", 5], [["b"], ["c"]], "row 2, candidate: is a int"),
        (["a", None], [["b"], ["c"]], "row 2, candidate: is a NoneType"),
        (["a"], [[]], "row 1, references: there are none"),
        (["a"], [[" "]], "row 1, reference 1: is blank"),
        (["a", "b"], [["b"]], "2 candidates but 1"),
        (None, [["b"]], "candidates: are a NoneType"),
    ],
)
def test_malformed_rows(load, predictions, references, problem):
    with pytest.raises(InputError, match=problem):
        load("rouge_l").compute(predictions=predictions, references=references)


def test_metrics_belong_to_the_module_of_several(load):
    rows = {"predictions": ["a"], "references": [["a"]]}
    with pytest.raises(InputError, match="metrics"):
        load("caption_metrics").compute(**rows)
    with pytest.raises(InputError, match="metrics"):
        load("rouge_l").compute(**rows, metrics=["bleu"])
