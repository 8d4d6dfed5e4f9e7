"""Figures of a pipeline on test sets: a file in its folder, bound to the weights that were tested."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelFolderError
from ..files import write_json
from ..loading import INDEX, read_json
from ..training.fingerprints import folder_fingerprint

RESULTS = "test_results.json"
FORMAT = "diffusion-link test results 1"
AGAIN = "Test the pipeline again (diffusion-link test), or remove this file"


@dataclass(frozen=True)
class DataSetResult:
    """Figures of a pipeline on one data set.

    Attributes:
        pipeline: fingerprint of the weights that were tested.
        data: Hub id of the data set, or its name.
        recordings: how many were captioned.
        figures: score → {"value", "low", "high"}, fractions; without an interval ``low`` and ``high`` are None.
        split: of the data set, where one was named.
        data_revision: commit of a Hub id.
        limit: how many recordings were taken, from the first; None for all.
        left_out: how many recordings could not be read.
        generation: how captions were written.
    """

    pipeline: str
    data: str
    recordings: int
    figures: Mapping[str, Mapping[str, float | None]]
    split: str | None = None
    data_revision: str | None = None
    limit: int | None = None
    left_out: int = 0
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The data set in words.

        Examples:
            >>> DataSetResult("0a1b", "me/sounds", 100, {}, "test", limit=100).title
            'me/sounds, split test, first 100 recordings'
        """
        parts = [self.data, self.split and f"split {self.split}", self.limit and f"first {self.limit:,} recordings"]
        return ", ".join(filter(None, parts))


def pipeline_fingerprint(folder: Path) -> str:
    """Hash of the weights and settings in a pipeline's components; a base model that they reference by its commit.

    Raises:
        ModelFolderError: no model_index.json, or a damaged one.
    """
    index = read_json(folder / INDEX)
    components = [folder / name for name, entry in sorted(index.items()) if isinstance(entry, list)]
    inside = [path for component in components for path in sorted(component.rglob("*")) if path.is_dir()]
    return folder_fingerprint(*components, *inside)


def read_results(folder: Path) -> list[DataSetResult]:
    """The results in a pipeline's folder, none where it was never tested.

    Raises:
        ModelFolderError: the file is damaged, or has figures of other weights than the folder holds.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    found = _read(path)
    weights = pipeline_fingerprint(folder)
    for result in found:
        if result.pipeline != weights:
            raise ModelFolderError(
                path, f"has figures of other weights ({result.pipeline}; the folder holds {weights})", AGAIN
            )
    return found


def add_result(folder: Path, result: DataSetResult) -> None:
    """Write a result into a pipeline's folder, in place of an earlier one of the same data; those of other weights go.

    Raises:
        ModelFolderError: the file that is there is damaged.
        DataError: it cannot be written.
    """
    earlier = _read(folder / RESULTS) if (folder / RESULTS).is_file() else []
    kept = [one for one in earlier if one.pipeline == result.pipeline and one.title != result.title]
    document = {"format": FORMAT, "results": [asdict(one) for one in (*kept, result)]}
    write_json(folder / RESULTS, document, indent=1, allow_nan=False)


def _read(path: Path) -> list[DataSetResult]:
    document = read_json(path)
    if document.get("format") != FORMAT:
        raise ModelFolderError(path, f"has the format {document.get('format')!r}, expected {FORMAT!r}", AGAIN)
    try:
        found = [DataSetResult(**one) for one in document["results"]]
        for one in found:
            named = isinstance(one.data, str) and isinstance(one.split, str | None)
            values = [figure["value"] for figure in one.figures.values()]
            if not named or not all(isinstance(value, int | float) for value in values):
                raise TypeError("a result without a name or a figure without a value")
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(path, f"is damaged ({error})", AGAIN) from error
    return found
