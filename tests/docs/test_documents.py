"""README and docs: short, linked to what is there, and with commands that the command line knows."""

import re
import shlex
from pathlib import Path

import pytest

import diffusion_link_hf
from diffusion_link_hf.cli import build_parser

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The ``diffusion-link`` lines of a page's shell blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("diffusion-link ")]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_commands_are_found():
    assert sum(len(commands(page)) for page in PAGES) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for command in commands(page):
        build_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_the_glossary_is_short():
    rows = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8").count("\n| ") - 1
    assert 10 <= rows <= 25


def test_every_public_name_is_in_the_reference():
    documented = re.findall(r"^::: \S+\.(\w+)$", (REPOSITORY / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(diffusion_link_hf._EXPORTS)


def test_the_page_on_bridging_runs(tmp_path, monkeypatch):
    page = (REPOSITORY / "docs" / "bridging.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
