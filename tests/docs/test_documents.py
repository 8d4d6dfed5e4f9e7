"""README and docs: short, linked to what is there, and with commands that the command line knows."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import diffusion_link_hf
from diffusion_link_hf.cli import build_parser

ENTRY = r"^::: (\S+)\.(\w+)$"  # of the reference
LONGEST = 30  # words of a sentence
REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The ``diffusion-link`` lines of a page's shell blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("diffusion-link ")]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


def sentences(text: str) -> list[str]:
    """The sentences of Markdown, without code blocks, tables and headings; an item of a list ends a sentence."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#|:::).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text.replace("*", ""))]
    return [sentence for block in blocks for sentence in re.split(r"(?<=[.!?])\s+", block) if sentence]


def test_sentences_are_told_apart():
    prose = "# Title\nOne two. Three [four](five.md)\nsix!\n"
    text = prose + "\n| a | b |\n\n- Seven `e i g h t`\n- **Nine.** Ten\n```\ncode\n```\n"
    assert sentences(text) == ["One two.", "Three four six!", "Seven code", "Nine.", "Ten"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page):
    long = [each for each in sentences(page.read_text(encoding="utf-8")) if len(each.split()) > LONGEST]
    assert long == []


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
    public, equations = (REPOSITORY / "docs" / "api.md").read_text("utf-8").split("## Equations")
    documented = re.findall(ENTRY, public, re.MULTILINE)
    assert sorted(name for _, name in documented) == sorted(diffusion_link_hf._EXPORTS)
    for module, name in re.findall(ENTRY, equations, re.MULTILINE):
        assert name not in diffusion_link_hf._EXPORTS
        assert hasattr(importlib.import_module(module), name)


def test_equations_lead_into_the_reference():
    reference = (REPOSITORY / "docs" / "api.md").read_text("utf-8")
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text("utf-8")
    entries = {f"{module}.{name}" for module, name in re.findall(ENTRY, reference, re.MULTILINE)}
    links = re.findall(r"\(api\.md#([\w.]+)\)", page)
    assert len(links) == 10
    assert [link for link in links if link not in entries and link.rpartition(".")[0] not in entries] == []


def test_the_page_on_bridging_runs(tmp_path, monkeypatch):
    page = (REPOSITORY / "docs" / "bridging.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, {})


def test_the_build_of_the_site_counts_warnings():
    """With ``--quiet``, mkdocs drops warnings before ``--strict`` sees them, and a broken site builds."""
    rule = next(line for line in (REPOSITORY / "Makefile").read_text("utf-8").splitlines() if "mkdocs build" in line)
    flags = shlex.split(rule, comments=True)
    assert "--strict" in flags
    assert "--quiet" not in flags
