"""Strict loading: folders and Hub repositories resolved, weights complete and finite, nothing unpickled."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin

from .errors import HubAccessError, InputError, ModelFolderError

DEFAULT_PIPELINE = "tiny"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
# Names of classes and of configuration fields in folders saved before they were renamed: old → new.
FORMER_NAMES = {"MeanCentring": "MeanCentering", "centred": "centered"}
LoadPath = str | os.PathLike


def current_name(name: Any) -> Any:
    """What the class or the configuration field that a folder names is called now; other values as they are.

    Example:
        >>> current_name("MeanCentring")
        'MeanCentering'
    """
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def default_pipeline_folder() -> Path:
    """Folder of the embedded pipeline "tiny": beside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "hub_configs" / DEFAULT_PIPELINE, package.parents[1] / "hub_configs" / DEFAULT_PIPELINE):
        if (folder / "model_index.json").is_file():
            return folder
    raise ModelFolderError(
        DEFAULT_PIPELINE,
        f"the embedded pipeline is not installed beside {package}",
        "Reinstall the package, or name a folder or a Hub id",
    )


def resolve_folder(
    name_or_path: LoadPath | None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: LoadPath | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | None = None,
) -> Path:
    """The local folder of a pipeline or model: a path, the embedded "tiny" (also None), or a Hub id's snapshot.

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
    return download_snapshot(name, revision, token, cache_dir, local_files_only, allow_patterns)


def refuse_revision(revision: str | None, folder: LoadPath) -> None:
    """Raises InputError for a revision of a folder, which has none: whatever it holds would be loaded instead."""
    if revision is not None:
        raise InputError("revision", f"is {revision!r}, but {folder} is a folder", "Leave it out, or name a Hub id")


def download_snapshot(
    repo_id: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: LoadPath | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | None = None,
) -> Path:
    """`huggingface_hub.snapshot_download` with typed errors. Pickles are never fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo_id}@{revision}" if revision else repo_id
    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=allow_patterns,
                ignore_patterns=[f"*{suffix}" for suffix in sorted(PICKLE_SUFFIXES)],
            )
        )
    except HFValidationError as error:
        raise HubAccessError(
            where, "is neither a folder nor a Hub id", "Check the path; a Hub id has the form owner/name"
        ) from error
    except GatedRepoError as error:
        raise HubAccessError(
            where,
            "is gated",
            f"Accept its license on https://huggingface.co/{repo_id} and log in (hf auth login) or pass token=",
        ) from error
    except RevisionNotFoundError as error:
        raise HubAccessError(where, "has no such revision", "Name an existing branch, tag or commit") from error
    except RepositoryNotFoundError as error:
        raise HubAccessError(
            where,
            "is neither a folder here nor a repository on the Hub",
            "Check the name; a private repository needs token=",
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # the Hub was reached, and refused
            raise refusal(where, error.__cause__) from error
        raise HubAccessError(
            where, "is not in the local cache and the Hub cannot be reached", "Go online once, or name a local folder"
        ) from error
    except HfHubHTTPError as error:
        raise refusal(where, error) from error
    except Exception as error:  # the HTTP library below the client raises its own, and differs by the client's version
        raise HubAccessError(where, f"cannot be fetched ({error})", "Check the network and try again") from error


def refusal(where: str, error: Exception) -> HubAccessError:
    """The typed error for a ``HfHubHTTPError`` that says nothing more special than its status."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    remedy = "Check the token (hf auth login) and its rights" if status in (401, 403) else "Try again later"
    return HubAccessError(where, f"cannot be had: the Hub answers {status} ({error})", remedy)


def pinned_source(repo_id: str, revision: str | None, folder: Path) -> dict[str, str | None]:
    """Reference to a repository at the commit of its snapshot ``folder``: a branch could move under it."""
    return {"id": repo_id, "revision": folder.name if folder.parent.name == "snapshots" else revision}


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


def refuse_pickles(folder: Path) -> None:
    """Raises ModelFolderError if the folder, or one in it, holds a file that would have to be unpickled."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise ModelFolderError(
                path, "is a pickle, which can run code when it is read", "Remove it and use safetensors"
            )


def check_loading_info(folder: LoadPath, info: dict[str, Any]) -> None:
    """Raises ModelFolderError if a loader of diffusers or transformers reports keys that do not match."""

    def some(keys: Iterable) -> str:
        keys = sorted(str(key) for key in keys)
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    for kind, problem in (
        ("missing_keys", "the file lacks"),
        ("unexpected_keys", "the file has weights that the model lacks:"),
        ("mismatched_keys", "shapes differ from the configuration:"),
        ("error_msgs", "could not load"),
    ):
        if info.get(kind):
            raise ModelFolderError(
                folder, f"{problem} {some(info[kind])}", "Weights and config.json must come from the same model"
            )


def check_finite(module: torch.nn.Module, folder: LoadPath) -> None:
    """Raises ModelFolderError if a parameter or buffer holds NaN or infinity, or was never loaded (is on meta)."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ModelFolderError(
                folder, f"weight {name} was not loaded", "The file is incomplete: save or download it again"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFolderError(
                folder, f"weight {name} holds NaN or infinite values", "The training diverged or the file is damaged"
            )


def check_dtype(dtype: object) -> None:
    """Raises InputError for what is not a torch.dtype; diffusers would load float32 instead, with a mere warning."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise InputError("dtype", f"is {dtype!r}", "Use a torch.dtype such as torch.float16")


def drop_local_names(path: Path) -> None:
    """Removes from a JSON file what libraries note of the machine that saved: its paths and how it loaded."""
    config = read_json(path)
    noted = {"_name_or_path", "name_or_path", "is_local", "local_files_only"} & set(config)
    if noted:
        config = {key: value for key, value in config.items() if key not in noted}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def load_tokenizer(folder: Path, remedy: str = "Save or download the folder again"):
    """The tokenizer in a folder; no code of it is run.

    Raises:
        ModelFolderError: it cannot be loaded; with ``remedy``.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelFolderError(folder, f"its tokenizer cannot be loaded ({error})", remedy) from error


def component_folder(folder: Path, name: str) -> Path:
    """Of a pipeline's folder, that of a component; of any other, itself."""
    return folder / name if (folder / "model_index.json").is_file() else folder


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
        for name, value in (("use_safetensors", True), ("output_loading_info", True)):
            if kwargs.pop(name, value) is not value:
                raise InputError(name, "cannot be switched off", "Only safetensors are read, and strictly")
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
        check_dtype(kwargs.get("dtype"))
        kwargs["dtype"] = kwargs.get("dtype") or torch.float32
        try:
            model, info = super().from_pretrained(folder, use_safetensors=True, output_loading_info=True, **kwargs)
        except Exception as error:  # whatever the loader raises, the user has to hear which folder it was
            if isinstance(error, ModelFolderError):
                raise
            raise ModelFolderError(
                folder,
                f"cannot be loaded ({error})",
                "Weights and config.json must be whole and come from the same model",
            ) from error
        check_loading_info(folder, info)
        check_finite(model, folder)
        for tensor in (*model.parameters(), *model.buffers()):
            # In memory of torch's own: a safetensors file maps weights at any offset, and matrix products round by it.
            tensor.data = tensor.data.clone()
        return model

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As `ConfigMixin.extract_init_dict`, of a configuration whose fields may have their former names."""
        return super().extract_init_dict({current_name(name): value for name, value in config_dict.items()}, **kwargs)

    def save_config(self, save_directory: LoadPath, push_to_hub: bool = False, **kwargs) -> None:
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        drop_local_names(Path(save_directory) / self.config_name)
