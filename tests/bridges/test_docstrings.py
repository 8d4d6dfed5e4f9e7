"""Every public class and function of the bridges has an example in its docstring, and the examples run."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from diffusion_link_hf import bridges

MODULES = [f"{bridges.__name__}.{module.name}" for module in pkgutil.iter_modules(bridges.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    for public, value in vars(module).items():
        documented = inspect.isclass(value) or inspect.isfunction(value)
        if documented and not public.startswith("_") and value.__module__ == name:
            assert ">>>" in inspect.getdoc(value), public
    assert doctest.testmod(module).failed == 0
