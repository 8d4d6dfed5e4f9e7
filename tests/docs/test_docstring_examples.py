"""The examples in docstrings of the modules that define the public names run, and print what they say."""

import doctest
import importlib

import pytest

import diffusion_link_hf

MODULES = sorted(set(diffusion_link_hf._EXPORTS.values()))
JAVA = {"metrics.registry", "experiments.captioning", "experiments.testing"}  # their examples tokenize with Java


def examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(f"diffusion_link_hf.{name}")
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    if name in JAVA:
        from diffusion_link_hf.metrics.tokenization import check_tokenizer

        try:
            check_tokenizer()
        except diffusion_link_hf.MetricDependencyError as error:
            pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    for test in examples(name):
        written: list[str] = []
        failed = doctest.DocTestRunner(optionflags=flags).run(test, out=written.append).failed
        assert not failed, "".join(written)


def test_there_are_examples():
    assert sum(len(examples(name)) for name in MODULES) > 40
