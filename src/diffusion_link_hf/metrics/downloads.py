"""Files that two metrics need and no package carries: where they are kept, and how they are fetched and checked."""

import os
import shutil
import urllib.request
from pathlib import Path
from typing import IO

from ..files import file_sha256, write_whole
from .errors import MetricDependencyError

TIMEOUT = 60.0  # seconds without a byte


def metrics_folder() -> Path:
    """$DIFFUSION_LINK_METRICS, or else ``diffusion-link/metrics`` in the user's cache folder."""
    named = os.environ.get("DIFFUSION_LINK_METRICS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "diffusion-link" / "metrics"


def download(item: str, url: str, path: Path, sha256: str | None = None) -> None:
    """Fetches ``url`` to ``path``, which appears only when whole.

    Raises:
        MetricDependencyError: the server cannot be reached, the transfer broke off, or the checksum differs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remedy = f"Try again, or fetch {url} by other means and pass it (archive=FILE)"

    def fetch(file: IO[bytes]) -> None:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                shutil.copyfileobj(response, file)
                expected = response.headers.get("Content-Length")
        except OSError as error:
            raise MetricDependencyError(item, f"{url} cannot be fetched ({error})", remedy) from error
        file.flush()
        size = file.tell()
        if expected is not None and size != int(expected):
            raise MetricDependencyError(item, f"only {size:,} of {int(expected):,} bytes arrived", remedy)
        check_sha256(item, Path(file.name), sha256)

    write_whole(path, fetch)


def check_sha256(item: str, path: Path, sha256: str | None) -> None:
    """Raises MetricDependencyError if the file is another one than expected; None accepts any."""
    if sha256 is None:
        return
    found = file_sha256(path)
    if found != sha256:
        raise MetricDependencyError(
            item, f"the file's SHA-256 is {found}, not {sha256}", "It is damaged or another version: fetch it again"
        )
