"""A folder of recordings with a metadata file of their captions, as rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class CaptionedAudio:
    """One recording.

    Attributes:
        name: its file name in the metadata.
        path: where it should be; whether it is there and can be read shows when it is loaded.
        captions: at least one.
    """

    name: str
    path: Path
    captions: tuple[str, ...]


def read_audio_folder(folder: str | Path) -> list[CaptionedAudio]:
    """Rows of ``folder/metadata.csv`` or ``metadata.jsonl``, in the format of the Hub's ``audiofolder``.

    The file has a column ``file_name`` (relative to the folder) and either ``caption`` (rows of one file are its
    several captions) or, in JSON, ``captions`` (a list).

    Raises:
        DataError: no metadata file or several, no such column, an empty caption, or no row.
    """
    folder = Path(folder)
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) != 1:
        have = "both" if found else "no"
        raise DataError(
            folder,
            f"has {have} {' and '.join(METADATA)}",
            "Provide one of them: file_name and caption of each recording",
        )
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(_rows(found[0]), start=1):
        where = f"{found[0]}, row {number}"
        if not isinstance(row.get("file_name"), str):
            raise DataError(
                where, f"has the columns {', '.join(map(str, row))} and no file_name", "Name the recording in file_name"
            )
        texts = row.get("captions") if row.get("captions") is not None else [row.get("caption")]
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            raise DataError(
                where, f"has no caption for {row['file_name']}", "Give caption (text) or captions (a list of texts)"
            )
        captions.setdefault(row["file_name"], []).extend(text.strip() for text in texts)
    if not captions:
        raise DataError(found[0], "has no rows", "Name at least one recording")
    return [CaptionedAudio(name, folder / name, tuple(texts)) for name, texts in captions.items()]


def _rows(path: Path) -> Iterator[dict]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = "json" if path.suffix == ".jsonl" else "csv"
    try:
        yield from load_dataset(kind, data_files=str(path), split="train", streaming=True)
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise DataError(path, f"cannot be read ({error})", f"It must be valid {kind}") from error
