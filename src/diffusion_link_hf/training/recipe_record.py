"""The record of a training beside its result: the recipe as it was run, what it read, and by which libraries."""

import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path

import yaml

from .recipes import TrainingArguments

RECIPE_FILE = "recipe.yaml"
LIBRARIES = ("diffusion-link-hf", "torch", "transformers", "diffusers", "peft", "accelerate", "datasets")


def write_recipe(args: TrainingArguments, output: Path, **fingerprints: str | None) -> Path:
    """Write ``output/recipe.yaml``: all fields, defaults among them, so that ``examples/train.py`` trains it again.

    Paths are those that the user gave. The head of the file says in comments what the data and models were, by
    fingerprint, and names the versions of Python and the libraries.

    Args:
        fingerprints: of the data and models that were read, by name; None for what there was not.
    """
    lines = [f"# python {platform.python_version()}"]
    lines += [f"# {name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    lines += [f"# {name}: fingerprint {value}" for name, value in sorted(fingerprints.items()) if value is not None]
    text = yaml.safe_dump(asdict(args), sort_keys=False, allow_unicode=True)
    path = output / RECIPE_FILE
    path.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
    return path
