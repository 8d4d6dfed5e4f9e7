"""Files from the Hub, and its client's errors as typed ones."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DiffusionLinkError, HubAccessError

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
LoadPath = str | os.PathLike


def download_snapshot(
    repo_id: str, revision: str | None = None, *, allow_patterns: list[str] | None = None, **hub: Any
) -> Path:
    """The folder of a repository's snapshot. Pickles are never fetched.

    Args:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; the default branch by default.
        allow_patterns: of the files to fetch; all by default.
        hub: ``token``, ``cache_dir`` and ``local_files_only``, as `huggingface_hub.snapshot_download`.

    Raises:
        HubAccessError: the repository, its revision or the network cannot be reached; the client's error is chained.
    """
    from huggingface_hub import snapshot_download

    ignored = [f"*{suffix}" for suffix in sorted(PICKLE_SUFFIXES)]
    with hub_errors(f"{repo_id}@{revision}" if revision else repo_id):
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=allow_patterns, ignore_patterns=ignored, **hub)
        )


def download_file(repo_id: str, name: str, revision: str | None = None, **hub: Any) -> Path | None:
    """One file of a repository in the Hub's cache; None where the repository has no such file.

    Args:
        hub: as `download_snapshot`.

    Raises:
        HubAccessError: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with hub_errors(f"{repo_id}@{revision}" if revision else repo_id):
        try:
            return Path(hf_hub_download(repo_id, name, revision=revision, **hub))
        except RemoteEntryNotFoundError:
            return None


@contextmanager
def hub_errors(
    where: str,
    missing: tuple[str, str] = (
        "is neither a folder here nor a repository on the Hub",
        "Check the name; a private repository needs token=",
    ),
    failed: tuple[str, str] = ("cannot be fetched", "Check the network and try again"),
) -> Iterator[None]:
    """Turns whatever the Hub's client raises in the block into a `HubAccessError`, with the client's error chained.

    Args:
        where: ``owner/name`` or ``owner/name@revision``.
        missing: problem and remedy where there is no such repository, or none that the token may see.
        failed: problem and remedy of what is neither the Hub's answer nor a known mistake, such as a broken connection.

    Raises:
        HubAccessError: always, in place of another error; our own errors pass.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def refusal(error: HfHubHTTPError) -> HubAccessError:
        status = error.response.status_code if getattr(error, "response", None) is not None else None
        if status == 412:  # a commit upon a parent that is no longer the newest
            return HubAccessError(where, "was changed by somebody else during the push", "Push again")
        remedy = "Check the token (hf auth login) and its rights" if status in (401, 403) else "Try again later"
        return HubAccessError(where, f"cannot be had: the Hub answers {status} ({error})", remedy)

    try:
        yield
    except DiffusionLinkError:
        raise
    except HFValidationError as error:
        remedy = "Check the path; a Hub id has the form owner/name"
        raise HubAccessError(where, "is neither a folder nor a Hub id", remedy) from error
    except GatedRepoError as error:
        page = f"https://huggingface.co/{where.split('@')[0]}"
        remedy = f"Accept its license on {page} and log in (hf auth login) or pass token="
        raise HubAccessError(where, "is gated", remedy) from error
    except RevisionNotFoundError as error:
        raise HubAccessError(where, "has no such revision", "Name an existing branch, tag or commit") from error
    except RepositoryNotFoundError as error:
        raise HubAccessError(where, *missing) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # the Hub was reached, and refused
            raise refusal(error.__cause__) from error
        remedy = "Go online once, or name a local folder"
        raise HubAccessError(where, "is not in the local cache and the Hub cannot be reached", remedy) from error
    except HfHubHTTPError as error:
        raise refusal(error) from error
    except Exception as error:  # the HTTP library below the client raises its own, and differs by the client's version
        problem, remedy = failed
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error) or type(error).__name__
        raise HubAccessError(where, f"{problem} ({reason})", remedy) from error
