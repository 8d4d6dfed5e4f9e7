"""The base of the `evaluate` modules: a metric of the registry behind the interface of `evaluate.Metric`."""

from pathlib import Path
from typing import Any

import datasets
import evaluate

from ..errors import InputError
from .captions import Captions
from .registry import METRICS, score

MODULES = Path(__file__).with_name("evaluate_modules")

INPUTS = """
Args:
    predictions: list of captions, strings.
    references: list of lists of one or more reference captions; a bare string counts as a list of one.
    per_caption: True adds "<score>_per_caption", lists in the order of the rows.
    sbert_model, fluency_model, device, batch_size: see `diffusion_link_hf.metrics.registry.ScoreOptions`.
Returns:
    A dict of corpus scores.
"""


def module_path(name: str) -> str:
    """Path of a module's script, for ``evaluate.load(module_path("cider_d"))``; it needs no network.

    Raises:
        InputError: there is no such module.
    """
    path = MODULES / f"{name}.py"
    known = sorted(file.stem for file in MODULES.glob("[!_]*.py"))
    if name not in known:
        raise InputError("module", f"there is no {name!r}", f"Choose from {', '.join(known)}")
    return str(path)


class CaptionMetric(evaluate.Metric):
    """`evaluate.Metric` over the captions of all rows.

    Subclasses set ``metric``, a name of the registry; None leaves the choice to ``compute(metrics=[…])``.
    """

    metric: str | None = None

    def _info(self) -> evaluate.MetricInfo:
        known = METRICS.get(self.metric)
        several = f"Several caption metrics with shared work: {', '.join(METRICS)}"
        return evaluate.MetricInfo(
            description=known.description if known else several,
            citation=known.citation if known else "",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def add(self, *, prediction: str | None = None, references: Any = None, **kwargs) -> None:
        """One row; see `add_batch`."""
        references = kwargs.pop("reference", references)
        self.add_batch(predictions=[prediction], references=[references], **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs) -> None:
        """Rows of a batch, checked here because `evaluate` would write the number 5 as the caption "5".

        Raises:
            InputError: a malformed row; it is named, counted from 1 in this batch.
        """
        if isinstance(references, list | tuple):
            references = [[row] if isinstance(row, str) else row for row in references]
        checked = Captions(predictions, references)
        super().add_batch(predictions=checked.candidates, references=checked.references, **kwargs)

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        metrics: list[str] | None = None,
        per_caption: bool = False,
        **options,
    ) -> dict[str, Any]:
        if (metrics is None) == (self.metric is None):
            raise InputError(
                "metrics",
                f"are {metrics!r}",
                "Name metrics for caption_metrics only; the other modules have one metric each",
            )
        scores = score(predictions, references, metrics if metrics is not None else [self.metric], **options)
        result: dict[str, Any] = dict(scores.corpus)
        if per_caption:
            result |= {f"{name}_per_caption": values.tolist() for name, values in scores.per_caption.items()}
        return result
