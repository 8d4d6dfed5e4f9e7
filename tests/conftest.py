"""Fixtures shared by all tests: where the real recordings are, and pinned threads."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings (``esc10/``, ``clips/``, ``audiocaps/``); the test is skipped where it is absent."""
    folder = Path(os.environ.get("DIFFUSION_LINK_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "esc10" / "index.csv").is_file():
        pytest.skip(
            f"no real recordings in {folder}: set DIFFUSION_LINK_TEST_DATA to a folder that holds esc10/ and clips/"
        )
    return folder
