"""Strict loading: folders and Hub repositories resolved, weights complete and finite, nothing unpickled."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin

from .errors import InputError, ModelFolderError, listed
from .hub_access import PICKLE_SUFFIXES, LoadPath, download_file, download_snapshot
from .loading_options import LoadingOptions, as_dtype
from .pickled_weights import PICKLED_WEIGHTS, converted

PACKAGE = __name__.split(".")[0]
DEFAULT_PIPELINE = "tiny"
INDEX = "model_index.json"  # of a pipeline's folder, as diffusers names it
WEIGHTS_AND_TEXT = ["*.json", "*.txt", "*.safetensors", "tokenizer*"]  # of a repository that holds one model
# Where a component's folder names the base model that it does not hold: a file, and the field of it.
_REFERENCES = (("reference.json", None), ("decoder_config.json", "base"))
# Names of classes and of configuration fields in folders saved before they were renamed: old → new.
FORMER_NAMES = {"MeanCentring": "MeanCentering", "centred": "centered"}
# Buffers that follow from the configuration: older files lack some of them, or have them where the model has not.
_COMPUTED = re.compile(r".*(position_ids|token_type_ids|relative_position_index|num_batches_tracked)")


def current_name(name: Any) -> Any:
    """What the class or the configuration field that a folder names is called now; other values as they are.

    Examples:
        >>> current_name("MeanCentring")
        'MeanCentering'
    """
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def default_pipeline_folder() -> Path:
    """Folder of the embedded pipeline "tiny": beside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "hub_configs" / DEFAULT_PIPELINE, package.parents[1] / "hub_configs" / DEFAULT_PIPELINE):
        if (folder / INDEX).is_file():
            return folder
    raise ModelFolderError(
        DEFAULT_PIPELINE,
        f"the embedded pipeline is not installed beside {package}",
        "Reinstall the package, or name a folder or a Hub id",
    )


def resolve_folder(name_or_path: LoadPath | None, revision: str | None = None, **hub: Any) -> Path:
    """The local folder of a pipeline or model: a path, the embedded "tiny" (also None), or a Hub id's snapshot.

    Args:
        revision: branch, tag or commit of a Hub id.
        hub: ``token``, ``cache_dir``, ``local_files_only`` and ``allow_patterns``, as `download_snapshot`.

    Raises:
        InputError: not a name or path at all; or a revision of what is no repository.
        ModelFolderError: a path that is not a folder.
        HubAccessError: the repository, its revision or the network cannot be reached; the client's error is chained.
    """
    if name_or_path is None:
        refuse_revision(revision, DEFAULT_PIPELINE)
        return default_pipeline_folder()
    if not isinstance(name_or_path, (str, os.PathLike)) or not str(name_or_path):
        raise InputError("model", f"is {name_or_path!r}", "Name a folder or a Hub id")
    path = Path(name_or_path)
    name = str(name_or_path)
    if path.is_dir() or name == DEFAULT_PIPELINE:
        refuse_revision(revision, name)
        return path if path.is_dir() else default_pipeline_folder()
    if path.exists():
        raise ModelFolderError(name, "is a file", "Name the folder that holds it")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name):
        raise ModelFolderError(name, "no such folder", "Check the path; a Hub id has the form owner/name")
    return download_snapshot(name, revision, **hub)


def refuse_revision(revision: str | None, folder: LoadPath, what: str = "is a folder") -> None:
    """Raises InputError for a revision of a folder, which has none: whatever it holds would be loaded instead."""
    if revision is not None:
        raise InputError("revision", f"is {revision!r}, but {folder} {what}", "Leave it out, or name a Hub id")


@dataclass(frozen=True)
class BaseReference:
    """A Hub repository that weights come from, by which a folder can name them instead of holding them.

    Attributes:
        id: ``owner/name``.
        revision: a commit, which no branch can move under; or a branch or tag, or None for the default branch.

    Examples:
        >>> BaseReference("laion/larger_clap_general", "main").as_json()
        {'id': 'laion/larger_clap_general', 'revision': 'main'}
    """

    id: str
    revision: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "BaseReference | None":
        """That of a component's folder, or None where the folder holds the weights itself.

        Raises:
            ModelFolderError: its file is damaged, or names no repository.
        """
        for file, field in _REFERENCES:
            if (folder / file).is_file():
                value = read_json(folder / file)
                value = value if field is None else value.get(field)
                if field is None or (isinstance(value, dict) and "id" in value):
                    return cls.from_json(value, folder / file)
        return None

    @classmethod
    def from_json(cls, value: dict[str, Any], item: object) -> "BaseReference":
        """Raises ModelFolderError, naming ``item``, for values that name no repository."""
        if not isinstance(value.get("id"), str) or not isinstance(value.get("revision"), str | None):
            raise ModelFolderError(item, f"names no repository ({value})", "It needs 'id' and 'revision'")
        return cls(value["id"], value.get("revision"))

    def as_json(self) -> dict[str, str | None]:
        return asdict(self)

    def fetch(self, **hub: Any) -> tuple[Path, "BaseReference"]:
        """Its snapshot's folder, and the reference pinned to that snapshot's commit.

        Args:
            hub: as `download_snapshot`.

        Raises:
            HubAccessError: it cannot be had.
        """
        folder = download_snapshot(self.id, self.revision, **hub)
        return folder, self.pinned(folder)

    def pinned(self, folder: Path) -> "BaseReference":
        """To the commit of ``folder``, where that is a snapshot in the Hub's cache."""
        return BaseReference(self.id, folder.name if folder.parent.name == "snapshots" else self.revision)


def includes_base(include_base: bool | None, source: BaseReference | None, name: str = "this model") -> bool:
    """Whether a component's folder gets copies of its base model's weights; None copies what cannot be referenced.

    Raises:
        InputError: False, though there is no repository to reference, for what is called ``name``.
    """
    if include_base is False and source is None:
        problem = f"is False, but the weights of {name} come from no repository"
        raise InputError("include_base", problem, "Use include_base=True")
    return source is None if include_base is None else include_base


def locate(
    name_or_path: LoadPath, component: str, revision: str | None = None, **hub: Any
) -> tuple[Path, BaseReference | None]:
    """The folder of a model, wherever it is, and the repository that it can be referenced by.

    ``name_or_path`` is a folder, "tiny" or a Hub id, of the model or of a pipeline that has it as ``component``. Where
    that folder names a base model instead of holding it, it is the base model's folder.

    Args:
        hub: token, cache_dir, local_files_only and allow_patterns, as `download_snapshot`.

    Returns:
        The folder, and None for weights of this machine alone, or in the midst of a pipeline's repository.

    Raises:
        InputError, ModelFolderError, HubAccessError: see `resolve_folder`; also a pipeline without that component.
    """
    hub.setdefault("allow_patterns", WEIGHTS_AND_TEXT)
    whole = resolve_folder(name_or_path, revision, **hub)
    folder = component_folder(whole, component)
    if not folder.is_dir():
        raise ModelFolderError(folder, "no such folder", "The component is missing: save or download it again")
    if reference := BaseReference.read(folder):
        return reference.fetch(**hub)
    if folder is not whole or Path(name_or_path).is_dir() or str(name_or_path) == DEFAULT_PIPELINE:
        return folder, None
    return folder, BaseReference(str(name_or_path), revision).pinned(whole)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelFolderError: the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(path, "is missing", "The folder is incomplete: save or download it again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(
            path, f"is not JSON ({error})", "The file is damaged: save or download it again"
        ) from error
    if not isinstance(value, dict):
        raise ModelFolderError(path, f"holds a {type(value).__name__}", "A JSON object is expected")
    return value


def refuse_pickles(folder: Path, *allowed: str) -> None:
    """Raises ModelFolderError if a file, or one anywhere in a folder, would have to be unpickled.

    Args:
        allowed: names of files directly in the folder that may be there.
    """
    for path in (folder, *sorted(folder.rglob("*"))):
        if path.suffix.lower() in PICKLE_SUFFIXES and not (path.name in allowed and path.parent == folder):
            raise ModelFolderError(
                path, "is a pickle, which can run code when it is read", "Remove it and use safetensors"
            )


def safetensors_folder(folder: Path, source: BaseReference | None, **hub: Any) -> Path:
    """Where a model's safetensors are: in its folder, or in the user's cache, converted from ``pytorch_model.bin``.

    Safetensors win. A pickle is read only where there are none, and only as tensors: see `converted`.

    Args:
        source: the repository, pinned, that the folder is a snapshot of.
        hub: ``token``, ``cache_dir`` and ``local_files_only``, as `download_snapshot`.

    Raises:
        ModelFolderError: there are neither, or the pickle holds more than tensors.
        HubAccessError: it cannot be fetched.
    """
    if list(folder.glob("*.safetensors")):
        return folder
    pickled = folder / PICKLED_WEIGHTS
    if source is not None and not pickled.is_file():
        pickled = download_file(source.id, PICKLED_WEIGHTS, source.revision, **hub)
    if pickled is None or not pickled.is_file():
        raise _no_weights(source.id if source else folder)
    return converted(pickled, hub.get("cache_dir"))


def _no_weights(item: object) -> ModelFolderError:
    return ModelFolderError(
        item, "holds no safetensors weights", "Name a folder or revision that does, or save the model as safetensors"
    )


def check_loading_info(folder: LoadPath, info: dict[str, Any]) -> None:
    """Raises ModelFolderError if a loader of diffusers or transformers reports keys that do not match."""
    for kind, problem in (
        ("missing_keys", "the file lacks"),
        ("unexpected_keys", "the file has weights that the model lacks:"),
        ("mismatched_keys", "shapes differ from the configuration:"),
        ("error_msgs", "could not load"),
    ):
        names = [name for name in info.get(kind) or () if not _COMPUTED.fullmatch(str(name))]
        if names:
            raise ModelFolderError(
                folder, f"{problem} {listed(names)}", "Weights and config.json must come from the same model"
            )


def load_strict(
    from_pretrained: Callable[..., tuple[torch.nn.Module, dict[str, Any]]],
    folder: Path,
    dtype: torch.dtype | str | None = None,
    **options: Any,
) -> Any:
    """A model of diffusers or transformers from a folder's safetensors, complete and finite or not at all.

    The libraries' own loaders merely warn of a missing weight and leave it random, or on the meta device.

    Args:
        from_pretrained: that of the model's class.
        dtype: of the loaded weights, float32 by default whatever the file holds.
        options: more of ``from_pretrained``; with a ``config``, the folder needs none.

    Raises:
        ModelFolderError: no safetensors; a configuration or file that cannot be read; a missing, additional or
            misshapen weight; NaN or infinity.
        InputError: ``dtype`` is none of torch; or the weights cannot be quantized on this machine.
    """
    dtype = as_dtype(dtype) or torch.float32
    if "config" not in options:
        read_json(folder / "config.json")
    if not list(folder.glob("*.safetensors")):
        raise _no_weights(folder)
    try:
        model, info = from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)
    except Exception as error:  # whatever the loader raises, the user has to hear which folder it was
        if isinstance(error, ModelFolderError):
            raise
        if options.get("quantization_config") is not None:
            remedy = "Leave quantization_config or load_in_4bit out, or use another machine"
            raise InputError(folder, f"cannot be loaded and quantized here ({error})", remedy) from error
        raise ModelFolderError(
            folder, f"cannot be loaded ({error})", "Weights and config.json must be whole and come from the same model"
        ) from error
    check_loading_info(folder, info)
    check_finite(model, folder)
    return model


def check_finite(module: torch.nn.Module, folder: LoadPath) -> None:
    """Raises ModelFolderError if a parameter or buffer holds NaN or infinity, or was never loaded (is on meta).

    What a device map put off the accelerator is on meta until it is needed, and is not looked at.
    """
    offloaded = {"cpu", "disk"} & {str(place) for place in (getattr(module, "hf_device_map", None) or {}).values()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta and offloaded:
            continue
        if tensor.is_meta:
            raise ModelFolderError(
                folder, f"weight {name} was not loaded", "The file is incomplete: save or download it again"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFolderError(
                folder, f"weight {name} holds NaN or infinite values", "The training diverged or the file is damaged"
            )


def drop_local_names(path: Path) -> None:
    """Removes from a JSON file what libraries note of the machine that saved: its paths and how it loaded."""
    config = read_json(path)
    kept = _without_local_names(config)
    if kept != config:
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_local_names(config: dict[str, Any]) -> dict[str, Any]:
    """Those of nested configurations included."""
    noted = {"_name_or_path", "name_or_path", "is_local", "local_files_only"}
    return {
        key: _without_local_names(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in noted
    }


def check_vocabulary(tokenizer, size: int, folder: LoadPath) -> None:
    """Raises ModelFolderError if a tokenizer has ids that its model, of a vocabulary of ``size``, has no row for."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= size:
        raise ModelFolderError(
            folder,
            f"its tokenizer has ids up to {largest}, its model a vocabulary of {size}",
            "Use the model's own tokenizer, or resize the model's token embeddings before saving",
        )


def save_tokenizer(tokenizer, folder: Path) -> None:
    """`save_pretrained` without traces of this machine."""
    tokenizer.save_pretrained(folder)
    drop_local_names(folder / "tokenizer_config.json")


def load_tokenizer(folder: Path, remedy: str = "Save or download the folder again", config=None):
    """The tokenizer in a folder; no code of it is run.

    Args:
        config: of the model beside it, where transformers does not know that model.

    Raises:
        ModelFolderError: it cannot be loaded; with ``remedy``.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelFolderError(folder, f"its tokenizer cannot be loaded ({error})", remedy) from error


def component_folder(folder: Path, name: str) -> Path:
    """Of a pipeline's folder, that of a component; of any other, itself."""
    return folder / name if (folder / INDEX).is_file() else folder


class StrictModel(ModelMixin, ConfigMixin):
    """`ModelMixin` that loads all of its weights or raises, from safetensors only.

    The parent merely warns of a missing key and leaves the parameter on the meta device.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: LoadPath, **kwargs):
        """As `ModelMixin.from_pretrained` (``subfolder``, ``revision``, ``token``, ``dtype`` …), but strict.

        Raises:
            ModelFolderError: no such folder, a pickle, an unreadable configuration or file, a missing, additional or
                misshapen weight, NaN or infinity.
            HubAccessError: a Hub id that cannot be reached.
        """
        if kwargs.pop("output_loading_info", True) is not True:
            raise InputError("output_loading_info", "cannot be switched off", "Weights are loaded strictly")
        options = LoadingOptions.take(kwargs, "quantization_config")
        hub = {key: kwargs.pop(key) for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
        folder = resolve_folder(pretrained_model_name_or_path, **hub)
        subfolder = kwargs.pop("subfolder", None)
        folder = folder / subfolder if subfolder else folder
        if not folder.is_dir():
            raise ModelFolderError(folder, "no such folder", "The component is missing: save or download it again")
        refuse_pickles(folder)
        class_name = read_json(folder / cls.config_name).get("_class_name")
        if current_name(class_name) not in (None, cls.__name__):
            raise ModelFolderError(
                folder, f"holds a {class_name}", f"{cls.__name__} cannot read it: load it with its own class"
            )
        model = load_strict(super().from_pretrained, folder, **options.for_model(), **kwargs)
        for tensor in (*model.parameters(), *model.buffers()):
            # In memory of torch's own: a safetensors file maps weights at any offset, and matrix products round by it.
            tensor.data = tensor.data.clone()
        return model

    def to(self, *args, **kwargs):
        """As `torch.nn.Module.to`; that of diffusers warns, at every cast, of an empty list of float32 modules."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            torch.nn.Module.to(self, dtype=dtype)
        return self if device is None else super().to(device)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As `ConfigMixin.extract_init_dict`, of a configuration whose fields may have their former names."""
        return super().extract_init_dict({current_name(name): value for name, value in config_dict.items()}, **kwargs)

    def save_config(self, save_directory: LoadPath, push_to_hub: bool = False, **kwargs) -> None:
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        drop_local_names(Path(save_directory) / self.config_name)
