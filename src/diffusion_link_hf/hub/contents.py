"""What of a folder is published, and what must not be: pickles, checkpoints, local paths, NaN and infinity."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..embeddings.shards import MANIFEST, read_manifest
from ..errors import InputError, ModelFolderError
from ..loading import INDEX, LoadPath, read_json, refuse_pickles
from ..models.packaged import read_reference
from ..training.recipes import RECIPE_FILE, RECIPES, TRAINED_ON
from .results import RESULTS, DataSetResult, read_results

METRICS = "metrics.json"
CARD = "README.md"
PIPELINES = ("AudioCaptionPipeline", "DiffusionLinkPipeline")
TRAINING_ONLY = ("checkpoints", "logs")
COMPONENTS = ("clap", "link", "scheduler", "projector", "decoder", "scorer")
_COMPONENT_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_LEGAL = ("LICENSE", "NOTICE", "ATTRIBUTION", "CITATION")
_TRAINED_ON = re.compile(rf"^# {TRAINED_ON}: (.+)$", re.MULTILINE)
# Their tokens may look like anything, paths among them.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")
# An absolute path of at least two parts, a home folder, a drive, a share, or a file URL, at the start of a word.
_LOCAL_PATH = re.compile(
    r"(?:^|(?<=[\s\"'`=:(\[,<]))(?:/[\w.+@-]+/[\w.+@/-]*|~/\S*|[A-Za-z]:[\\/](?!/)\S*|\\\\\w+\\\S*|file://\S*)"
)


@dataclass(frozen=True)
class Contents:
    """The files of a pipeline folder that are published.

    Attributes:
        folder: where they are.
        index: model_index.json.
        files: path in the repository → local file; the card is not among them.
        recipes: stage → recipe.
        metrics: metrics.json, empty where there is none.
        left_out: names in the folder that are not published.
        datasets: Hub ids of the data that the recipes' embedding caches were made of.
        results: figures on test sets, as ``diffusion-link test`` left them.
    """

    folder: Path
    index: dict[str, Any]
    files: dict[str, Path]
    recipes: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    left_out: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    results: tuple[DataSetResult, ...] = ()

    @property
    def components(self) -> list[str]:
        return _components(self.index)


def collect(folder: LoadPath, recipes: Sequence[LoadPath] = ()) -> Contents:
    """Sorts the files of a pipeline folder and checks what they say.

    Args:
        folder: what training or `save_pretrained` wrote.
        recipes: YAML files of other stages, besides the folder's own; each replaces what training kept of its stage
            in ``recipes/``, or what is found beside the link that a recipe names.

    Raises:
        ModelFolderError: no pipeline folder, a training checkpoint, a pickle, checkpoints inside a component, a local
            path, NaN or infinity, or test results of other weights.
        InputError: two recipes of one stage, or a file that is no recipe.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError(folder, "no such folder", "Name a folder that training or save_pretrained wrote")
    if (folder / "state.pt").is_file() or folder.name in TRAINING_ONLY:
        raise ModelFolderError(folder, "holds training checkpoints", "Push the folder that the finished training wrote")
    index = read_json(folder / INDEX)
    if index.get("_class_name") not in PIPELINES:
        raise ModelFolderError(
            folder / INDEX, f"describes a {index.get('_class_name')!r}", f"Known are {' and '.join(PIPELINES)}"
        )
    files, left_out = {INDEX: folder / INDEX}, []
    recipe_files, kept = list(map(Path, recipes)), []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name in _components(index):
            files |= _component_files(folder, path, left_out)
        elif path.is_dir() and path.name == RECIPES:
            kept = sorted(path.glob("*.y*ml"))
        elif path.name in TRAINING_ONLY:
            left_out.append(f"{path.name}/")
        elif path.is_dir() or path.name.startswith("."):
            refuse_pickles(path)
            left_out.append(f"{path.name}/" if path.is_dir() else path.name)
        elif path.suffix in (".yaml", ".yml"):
            recipe_files.append(path)
        elif path.name in (METRICS, RESULTS) or path.name.startswith(_LEGAL):
            files[path.name] = path
        elif path.name not in (INDEX, CARD):
            refuse_pickles(path)
            left_out.append(path.name)
    read = _read_recipes(kept) | _read_recipes(recipe_files)
    read = _recipes_of_links(read) | read
    files |= {f"{RECIPES}/{stage}.yaml": path for stage, (path, _) in read.items()}
    for name, path in files.items():
        _check_text(name, path)
    metrics = read_json(folder / METRICS) if METRICS in files else {}
    stages = {stage: recipe for stage, (_, recipe) in read.items()}
    datasets, results = _trained_on(read), tuple(read_results(folder))
    return Contents(folder, index, files, stages, metrics, tuple(left_out), datasets, results)


def refuse_local_paths(item: object, text: str) -> None:
    """Raises ModelFolderError if a text names a place on the machine of whoever wrote it."""
    found = _LOCAL_PATH.search(text)
    if found:
        raise ModelFolderError(
            item,
            f"names a path of this machine ({found[0]!r})",
            "Write it relative, or name the Hub id, and push again",
        )


def refuse_not_finite(item: object, value: Any, where: str = "") -> None:
    """Raises ModelFolderError for NaN or infinity anywhere in a value as JSON or YAML gives it."""
    for name, figure in _leaves(value):
        if isinstance(figure, float) and not math.isfinite(figure):
            raise ModelFolderError(item, f"has {name} = {figure}", "Find out why, and measure again")


def _components(index: dict[str, Any]) -> list[str]:
    return [name for name in COMPONENTS if index.get(name) not in (None, [None, None])]


def _component_files(folder: Path, component: Path, left_out: list[str]) -> dict[str, Path]:
    files = {}
    for path in sorted(component.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            if path.name == "checkpoints" or re.fullmatch(r"(step|checkpoint)-\d+", path.name):
                raise ModelFolderError(path, "is a folder of checkpoints", "Move it out of the component")
            continue
        refuse_pickles(path)
        if path.suffix in _COMPONENT_SUFFIXES and not path.name.startswith("."):
            files[name] = path
        else:
            left_out.append(name)
    return files


def _read_recipes(paths: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in paths:
        try:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(path, f"cannot be read as YAML ({error})", "Name a training recipe") from error
        stage = recipe.get("stage") if isinstance(recipe, dict) else None
        if not isinstance(stage, str) or not stage.isidentifier():
            raise InputError(
                path, f"is not a training recipe (stage = {stage!r})", "Move it out of the folder, or add its stage"
            )
        if stage in found:
            raise InputError(
                path, f"is a second recipe of the {stage} stage, after {found[stage][0]}", "Keep one of them"
            )
        found[stage] = path, recipe
    return found


def _recipes_of_links(read: dict[str, tuple[Path, dict[str, Any]]]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The recipes beside the links that recipes name, as training wrote them: ``output/link`` and its recipe.yaml."""
    links = [recipe.get("link") for _, recipe in read.values()]
    beside = [Path(link).parent / RECIPE_FILE for link in links if isinstance(link, str)]
    return _read_recipes([path for path in dict.fromkeys(beside) if path.is_file()])


def _trained_on(recipes: dict[str, tuple[Path, dict[str, Any]]]) -> tuple[str, ...]:
    """Hub ids of the data that the recipes were trained on; a folder's name tells nobody else what it held.

    A recipe that training wrote says so in its head, and an older one through the manifest of its cache.
    """
    found = []
    for path, recipe in recipes.values():
        said, cache = _TRAINED_ON.search(path.read_text(encoding="utf-8")), recipe.get("cache")
        data = said[1] if said else None
        if data is None and isinstance(cache, str) and (Path(cache) / MANIFEST).is_file():
            data = str(read_manifest(Path(cache)).get("data"))
        name, at, _ = (data or "").partition("@")
        if at and "/" in name:
            found.append(name)
    return tuple(dict.fromkeys(found))


def _check_text(name: str, path: Path) -> None:
    """Refuses local paths and figures that are not finite in what is text."""
    if path.name in _VOCABULARIES or path.suffix == ".safetensors":
        return
    if path.suffix == ".json":
        value = read_json(path)
        refuse_not_finite(path, value)
        for _, text in _leaves(value):
            if isinstance(text, str):
                refuse_local_paths(path, text)
    elif path.suffix in (".yaml", ".yml", ".txt") or name.startswith(_LEGAL):
        text = path.read_text(encoding="utf-8", errors="replace")
        refuse_local_paths(path, text)
        if path.suffix in (".yaml", ".yml"):
            refuse_not_finite(path, yaml.safe_load(text))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, plain value) of everything in nested mappings and lists."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from _leaves(part, f"{name}[{position}]")
    else:
        yield name, value


def recipe_fields(recipe: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a recipe by their dotted names, as ``field=value`` on the command line takes them."""
    return {name: value for name, value in _leaves(recipe) if not isinstance(value, dict)}


def base_models(folder: Path) -> dict[str, str | None]:
    """Hub id → revision of the base models that the components of a folder reference."""
    references = (read_reference(folder / name) for name in COMPONENTS)
    return {reference.id: reference.revision for reference in references if reference}


def parameter_count(path: Path) -> int:
    """Numbers in a safetensors file, from its header.

    Raises:
        ModelFolderError: it is torn, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ModelFolderError(path, f"cannot be read ({error})", "Save the folder again") from error
