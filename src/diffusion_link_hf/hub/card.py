"""The model card of a published pipeline: fields that are given, found in its folder, or constant, as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import InputError
from .card_figures import MEASURED, eval_results, figures_text
from .card_words import BASE_LICENSES, CITATION, LIMITS, TAGS, TASKS, UNSAID_FIELDS, USE
from .contents import CARD, Contents, base_models, parameter_count, recipe_fields, refuse_local_paths
from .readme import MARKER, heading, read_fixed_part
from .results import DataSetResult

# Where a field of the card comes from: only the author knows it, the folder says it, or it never differs.
GIVEN, FOUND, CONSTANT = ({"source": source} for source in ("given", "found", "constant"))


@dataclass
class PipelineCard:
    """What the card of a pipeline says; each field is marked as given, found or constant.

    Attributes:
        repo_id: of the repository that the card is for.
        text: the fixed part by hand, above everything generated; may be empty.
        metadata: front matter by hand, which wins over what is found, but for ``model-index`` and ``base_model``.
        license: identifier of the Hub, such as "apache-2.0" or "llama2"; None says that there is none.
        datasets: Hub ids, or names, of the data it was trained on.
        hardware: what it was trained on, in words.
        co2_grams: emissions of the training, in grams of CO₂ equivalent.
        pipeline: class of the pipeline.
        base_models: Hub id → revision of the models that are referenced rather than copied.
        parameters: component → numbers stored in its safetensors files.
        recipes: stage → recipe.
        metrics: metrics.json, the figures of the training itself.
        results: figures on test sets.
    """

    repo_id: str = field(metadata=GIVEN)
    text: str = field(default="", metadata=GIVEN)
    metadata: dict[str, Any] = field(default_factory=dict, metadata=GIVEN)
    license: str | None = field(default=None, metadata=GIVEN)
    datasets: list[str] = field(default_factory=list, metadata=GIVEN)
    hardware: str | None = field(default=None, metadata=GIVEN)
    co2_grams: float | None = field(default=None, metadata=GIVEN)

    pipeline: str = field(default="AudioCaptionPipeline", metadata=FOUND)
    base_models: dict[str, str | None] = field(default_factory=dict, metadata=FOUND)
    parameters: dict[str, int] = field(default_factory=dict, metadata=FOUND)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=FOUND)
    metrics: dict[str, Any] = field(default_factory=dict, metadata=FOUND)
    results: Sequence[DataSetResult] = field(default=(), metadata=FOUND)

    library_name: str = field(default="diffusion-link-hf", init=False, metadata=CONSTANT)
    tags: list[str] = field(default_factory=lambda: list(TAGS), init=False, metadata=CONSTANT)
    language: str = field(default="en", init=False, metadata=CONSTANT)

    @classmethod
    def of(cls, contents: Contents, repo_id: str, **by_hand: Any) -> "PipelineCard":
        """The card of a folder: its README.md is the fixed part by hand, and what was generated before is dropped.

        Args:
            by_hand: other given fields; None or empty takes what the README's front matter says, or else the folder.

        Raises:
            ModelFolderError: a README whose front matter cannot be read.
        """
        metadata, text = read_fixed_part(contents.folder / CARD)
        if metadata.get("model-index") and MARKER in (contents.folder / CARD).read_text(encoding="utf-8"):
            del metadata["model-index"]  # which this package wrote, perhaps for other weights
        datasets = metadata.get("datasets") or []
        from_readme = {
            "license": metadata.get("license"),
            "datasets": ([datasets] if isinstance(datasets, str) else datasets) or list(contents.datasets),
        }
        values = from_readme | {name: value for name, value in by_hand.items() if value}
        return cls(
            repo_id,
            text=text,
            metadata=metadata,
            pipeline=contents.index["_class_name"],
            base_models=base_models(contents.folder),
            parameters=_count_parameters(contents),
            recipes=contents.recipes,
            metrics={**contents.metrics.get("bridge", {}), **contents.metrics},
            results=contents.results,
            **values,
        )

    def eval_results(self) -> list[EvalResult]:
        """The known figures of metrics.json, and those on test sets.

        Raises:
            ModelFolderError: one is NaN or infinite.
        """
        return eval_results(self.pipeline, self.metrics, self.results, self.datasets)

    def data(self) -> ModelCardData:
        """The front matter.

        Raises:
            InputError: metadata that huggingface_hub refuses.
        """
        results, by_hand = self.eval_results(), dict(self.metadata)
        if results:
            by_hand.pop("model-index", None)
        values = {
            "language": self.language,
            "library_name": self.library_name,
            "pipeline_tag": TASKS[self.pipeline][0],
            "tags": self.tags,
            **by_hand,
            "base_model": sorted(self.base_models) or by_hand.get("base_model"),
            "license": self.license,
            "datasets": self.datasets or None,
        }
        if results:
            values |= {"eval_results": results, "model_name": self.repo_id.split("/")[-1]}
        if self.co2_grams is not None:
            values["co2_eq_emissions"] = {"emissions": self.co2_grams}
            values["co2_eq_emissions"] |= {"hardware_used": self.hardware} if self.hardware else {}
        try:
            return ModelCardData(**values)
        except (TypeError, ValueError) as error:
            raise InputError(
                "model card", f"has metadata that the Hub refuses ({error})", "Correct README.md"
            ) from error

    def render(self) -> str:
        """The whole README.md.

        Raises:
            ModelFolderError: NaN or infinity in a figure, or a path of this machine in the text.
        """
        title = "" if re.search(r"^# ", self.text, re.MULTILINE) else f"# {self.repo_id.split('/')[-1]}\n\n"
        sections = [
            f"## {name}\n\n{text}"
            for name, text in self.sections().items()
            if text and not re.search(heading(name), self.text, re.MULTILINE)
        ]
        parts = [title + self.text.strip() if self.text.strip() else title.strip(), MARKER, *sections]
        content = f"---\n{self.data().to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"
        refuse_local_paths(CARD, content)
        return ModelCard(content).content

    def sections(self) -> dict[str, str]:
        """Heading → text of what is generated; one that the fixed part already has is left to it."""
        return {
            "How to use": f"```bash\npip install diffusion-link-hf\n```\n\n```python\n"
            f"{USE[self.pipeline].format(repo_id=self.repo_id)}\n```",
            "What it is made of": self._made_of(),
            "Licenses": self._licenses(),
            "Trained on": ", ".join(self.datasets),
            "Training": "\n\n".join(_recipe_table(stage, recipe) for stage, recipe in self.recipes.items()),
            MEASURED: figures_text(self.metrics, self.results),
            "Hardware and emissions": self._hardware(),
            "Limits": LIMITS[self.pipeline],
            "Cite": f"```bibtex\n{CITATION}\n```",
        }

    def _made_of(self) -> str:
        rows = [f"| {name} | {count:,} |" for name, count in self.parameters.items()]
        text = "\n".join(["| component | numbers stored here |", "|---|---|", *rows])
        return (
            f"A `{self.pipeline}` of diffusion-link-hf (arXiv 2510.11330): safetensors only, no remote code.\n\n{text}"
        )

    def _licenses(self) -> str:
        own = f"This repository: {self.license}." if self.license else "The author has not named a license yet."
        lines = [
            f"- [{name}](https://huggingface.co/{name})"
            + (f" at `{revision}`" if revision else "")
            + f": {BASE_LICENSES.get(name, 'see its page')}. Where it is gated, accept its terms there."
            for name, revision in sorted(self.base_models.items())
        ]
        return "\n".join([own, *(["", "Base models, which keep their own licenses:", "", *lines] if lines else [])])

    def _hardware(self) -> str:
        parts = [f"Trained on {self.hardware}." if self.hardware else ""]
        if isinstance(self.metrics.get("seconds"), (int, float)):
            parts.append(f"The last stage took {self.metrics['seconds']:,.0f} s.")
        if self.co2_grams is not None:
            parts.append(f"Estimated emissions: {self.co2_grams:g} g CO₂eq.")
        return " ".join(part for part in parts if part)


def field_sources() -> dict[str, str]:
    """Field of the card → "given", "found" or "constant"."""
    return {item.name: item.metadata["source"] for item in fields(PipelineCard)}


def _count_parameters(contents: Contents) -> dict[str, int]:
    counts = dict.fromkeys(contents.components, 0)
    for name, path in contents.files.items():
        if path.suffix == ".safetensors":
            counts[name.split("/")[0]] += parameter_count(path)
    return {name: count for name, count in counts.items() if count}


def _recipe_table(stage: str, recipe: dict[str, Any]) -> str:
    """The fields of a recipe that touch the weights; recipes/<stage>.yaml has all of them."""
    rows = [
        f"| {name} | {value} |"
        for name, value in recipe_fields(recipe).items()
        if name.split(".")[0] not in UNSAID_FIELDS and value is not None
    ]
    return "\n".join(
        [f"The {stage} stage ([recipe](recipes/{stage}.yaml)):", "", "| field | value |", "|---|---|", *rows]
    )
