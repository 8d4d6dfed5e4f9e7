"""Where the Parquet files of a captioned data set are: on the Hub, at a commit, or in a folder; and in which splits."""

import os

from ..errors import DataError, HubAccessError
from ..hub_access import hub_errors
from .captioned_parquet import HUB, reading


def hub_files(
    repo_id: str, revision: str | None = None, token: str | bool | None = None, config: str | None = None
) -> tuple[str, dict[str, list[str]]]:
    """``owner/name@commit`` of a data set on the Hub, and the Parquet files of its splits at that commit.

    Raises:
        DataError: no Hub id; no such configuration; or its files are not Parquet.
        HubAccessError: the repository or its revision cannot be reached.
    """
    commit = _commit(repo_id, revision, token)
    name = f"{repo_id}@{commit}"
    return name, _parquet_files(repo_id, name, config, revision=commit, token=token)


def folder_files(folder: str, config: str | None = None) -> dict[str, list[str]]:
    """The Parquet files of a folder by split, as `datasets` finds them by their names, or by its README.md.

    Raises:
        DataError: no such configuration; or the files are not Parquet.
    """
    return _parquet_files(os.path.abspath(folder), folder, config)


def _commit(repo_id: str, revision: str | None, token: str | bool | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise HFValidationError("an id has an owner")
    except HFValidationError as error:
        remedy = "Check the path; a Hub id has the form owner/name"
        raise DataError(repr(repo_id), "does not exist, and is no Hub id", remedy) from error
    missing = ("is neither a folder here nor a data set on the Hub", "Check the name; a private data set needs token=")
    with hub_errors(f"{repo_id}@{revision}" if revision else repo_id, missing):
        return HfApi().dataset_info(repo_id, revision=revision, token=token).sha


def _parquet_files(source: str, where: str, config: str | None, **hub) -> dict[str, list[str]]:
    from datasets import load_dataset_builder
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    with reading(f"{HUB}{where}" if hub else where):
        try:
            builder = load_dataset_builder(source, config, **hub)
        except DatasetNotFoundError as error:  # although it is there: `_commit` saw it
            page = f"https://huggingface.co/datasets/{source}"
            remedy = f"Accept its terms on {page} and log in (hf auth login) or pass token="
            raise HubAccessError(where, "is gated", remedy) from error
        except (DataFilesNotFoundError, ValueError) as error:  # ValueError: no such configuration, or none was named
            raise DataError(
                where, f"cannot be used ({error})", "Name a data set of Parquet files, and config"
            ) from error
    if builder.name != "parquet":
        remedy = "Download it, and name its folder" if hub else "Name a data set of Parquet files"
        raise DataError(where, f"holds {builder.name} files", remedy)
    return {str(split): [str(file) for file in files] for split, files in builder.config.data_files.items()}
