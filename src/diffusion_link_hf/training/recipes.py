"""Recipe files (YAML): by path or by name, with changes, in today's fields; and the record of a finished training."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ..errors import RecipeError
from ..files import write_whole
from ..loading import default_pipeline_folder
from .arguments import STAGES, TrainingArguments

RECIPE_FILE = "recipe.yaml"
RECIPES = "recipes"  # folder in a result for the recipes of the stages before
TRAINED_ON = "trained on"  # in a comment of a written recipe: the name of its data set
LAUNCH_FILES = "accelerate"  # the folder of hub_configs with launch files instead of recipes
LIBRARIES = ("diffusion-link-hf", "torch", "transformers", "diffusers", "peft", "accelerate", "datasets")
# What `stage: link` meant where a recipe did not say otherwise.
_LINK_STAGE = {"max_steps": 20_000, "learning_rate": 1e-4, "max_train_timestep": 1000}
# The loss options whose defaults have changed since.
FORMER_LOSS = {"dim_reduction": "sum"}
_LINK_LOSS = {"topology_weight": 1.0, "topology_source": "audio", "topology_reduction": "mean", "text_to_text": True}


def list_recipes() -> dict[str, str]:
    """The recipes that are installed with the package: name → what it is, the first comment line of the file.

    Examples:
        >>> list(list_recipes())[:2]
        ['audiocaps-bridge', 'audiocaps-bridge-shallow']
    """
    return {name: path.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for name, path in _recipes().items()}


def load_recipe(recipe: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> TrainingArguments:
    """The arguments that a recipe holds.

    Recipes of earlier versions are understood; see `translate_recipe`.

    Args:
        recipe: path of a YAML file, or a name of `list_recipes`.
        overrides: fields to change, as a mapping or as texts ``field=value`` whose values are YAML. The name
            ``model.width`` reaches inside ``model``.

    Returns:
        `BridgeTrainingArguments` or `DecoderTrainingArguments`.

    Raises:
        RecipeError: the file cannot be read, a stage or field is unknown, or a value has a wrong type or is out of
            range.

    Examples:
        >>> args = load_recipe("audiocaps-bridge", {"model.width": 64, "output": "runs/small"})
        >>> args.method, args.batch_size, args.model["width"], args.output
        ('diffusion-link', 128, 64, 'runs/small')
        >>> load_recipe("audiocaps-zeroshot", ["epochs=10"]).epochs
        10.0
    """
    path = _find(recipe)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(path, f"cannot be read ({error})", "Pass a YAML file of training arguments") from error
    if not isinstance(fields, dict):
        raise RecipeError(path, f"holds a {type(fields).__name__}", "A recipe maps fields to values")
    overrides = overrides if isinstance(overrides, Mapping) else parse_fields(overrides)
    for name, value in overrides.items():
        _set_field(fields, name, value)
    fields = translate_recipe(fields)
    stage = fields.get("stage")
    if stage not in STAGES:
        raise RecipeError(f"{path}: stage", f"is {stage!r}", f"Use one of {', '.join(STAGES)}")
    hints = get_type_hints(STAGES[stage])
    unknown = sorted(map(str, set(fields) - set(hints)))
    if unknown:
        raise RecipeError(
            f"{path}: {unknown[0]}", f"is no field of the {stage} stage", f"Fields are {', '.join(sorted(hints))}"
        )
    return STAGES[stage](**{name: _typed(f"{path}: {name}", value, hints[name]) for name, value in fields.items()})


def parse_fields(texts: Iterable[str]) -> dict[str, Any]:
    """Texts ``field=value`` as a mapping; values are YAML.

    Raises:
        RecipeError: a text without a field or ``=``, or a value that is no YAML.

    Examples:
        >>> parse_fields(["width=64", "lora.r=16", "kind=procrustes", "snr_weight=true"])
        {'width': 64, 'lora.r': 16, 'kind': 'procrustes', 'snr_weight': True}
    """
    parsed = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and all(name.split("."))):
            raise RecipeError(text, "does not set a field", "Write field=value")
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(text, f"has no YAML value ({error})", "Write field=value, quoted where needed") from error
    return parsed


def translate_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe of an earlier version, in today's words; others stay as they are.

    ``stage: link`` becomes ``stage: bridge`` with ``method: diffusion-link``, and its loss options move into ``loss``.
    ``mode: text_only`` becomes ``mode: zeroshot``, and ``method: centring`` becomes ``method: centering``.

    Examples:
        >>> translate_recipe({"stage": "decoder", "mode": "text_only"})
        {'stage': 'decoder', 'mode': 'zeroshot'}
    """
    fields = dict(recipe)
    if fields.get("stage") == "link":
        loss = {name: fields.pop(name, default) for name, default in _LINK_LOSS.items()}
        loss = FORMER_LOSS | loss | (fields.get("loss") or {})
        fields = {**_LINK_STAGE, **fields, "stage": "bridge", "method": "diffusion-link", "loss": loss}
    if fields.get("mode") == "text_only":
        fields["mode"] = "zeroshot"
    if fields.get("method") == "centring":
        fields["method"] = "centering"
    return fields


def write_recipe(
    args: TrainingArguments, output: Path, trained_on: str | None = None, **fingerprints: str | None
) -> Path:
    """Write ``output/recipe.yaml`` with all fields, defaults among them, so that it trains the same result again.

    Paths are those that the user gave. The head of the file says in comments what the data and models were, by
    fingerprint, and names the data set and the versions of Python and the libraries.

    Args:
        trained_on: name of the data set, as the embedding cache has it.
        fingerprints: of the data and models that were read, by name; None for what there was not.
    """
    lines = [f"# python {platform.python_version()}"]
    lines += [f"# {name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    lines += [f"# {name}: fingerprint {value}" for name, value in sorted(fingerprints.items()) if value is not None]
    lines += [f"# {TRAINED_ON}: {' '.join(trained_on.split())}"] if trained_on else []
    text = yaml.safe_dump(asdict(args), sort_keys=False, allow_unicode=True)
    path = output / RECIPE_FILE
    write_whole(path, ("\n".join(lines) + "\n" + text).encode())
    return path


def keep_link_recipe(link: str | None, output: Path) -> None:
    """Copy the recipe beside a link to ``output/recipes``, so that the result tells of all its stages."""
    recipe = None if link is None else Path(link).parent / RECIPE_FILE
    if recipe is not None and recipe.is_file():
        (output / RECIPES).mkdir(exist_ok=True)
        write_whole(output / RECIPES / "bridge.yaml", recipe.read_bytes())


def launch_file(name: str) -> Path:
    """Path of a launch file for ``accelerate launch --config_file``: "ddp", "ddp_cpu", "fsdp" or "multi_node".

    Raises:
        RecipeError: there is no such file.

    Examples:
        >>> launch_file("ddp").name
        'ddp.yaml'
    """
    known = {path.stem: path for path in sorted((_configs() / LAUNCH_FILES).glob("*.yaml"))}
    if name not in known:
        raise RecipeError("launch file", f"is {name!r}", f"Use one of {', '.join(known)}")
    return known[name]


def _configs() -> Path:
    return default_pipeline_folder().parent


def _recipes() -> dict[str, Path]:
    """Name → file of the installed recipes, sorted: ``audiocaps/bridge.yaml`` is "audiocaps-bridge"."""
    paths = [path for path in _configs().glob("*/*.yaml") if path.parent.name != LAUNCH_FILES]
    return dict(sorted((f"{path.parent.name}-{path.stem}", path) for path in paths))


def _find(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    known = _recipes()
    if str(recipe) not in known:
        raise RecipeError(recipe, "is neither a file nor the name of a recipe", f"Recipes are {', '.join(known)}")
    return known[str(recipe)]


def _set_field(fields: dict[str, Any], name: str, value: Any) -> None:
    """Changes one field; the name ``a.b`` makes ``a`` a mapping where the recipe says null or nothing."""
    *parents, last = name.split(".")
    for parent in parents:
        if fields.get(parent) is None:
            fields[parent] = {}
        fields = fields[parent]
        if not isinstance(fields, dict):
            raise RecipeError(name, f"reaches into {parent}, which is {fields!r}", f"Write {parent}=value")
    fields[last] = value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the field's type; YAML reads 1e-4 as a string, so numbers may come as text."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        if value is False and "no" in options:  # YAML's other trap
            value = "no"
        if value not in options:
            raise RecipeError(name, f"is {value!r}", f"Use one of {', '.join(map(str, options))}")
        return value
    accepted = options if type(None) in options else (hint,)
    if value is None and type(None) in accepted:
        return None
    kind = next(option for option in accepted if option is not type(None))
    kind = get_origin(kind) or kind
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is not float and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise RecipeError(name, f"is {value!r}", f"A {kind.__name__} is expected")
