"""Pipeline folders: model_index.json with short public names, components loaded strictly, one folder each."""

import copy
import sys
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin

from ..errors import InputError, ModelFolderError
from ..files import write_json
from ..loading import (
    INDEX,
    PACKAGE,
    LoadPath,
    check_finite,
    current_name,
    includes_base,
    read_json,
    refuse_pickles,
    resolve_folder,
)
from ..loading_options import STRATEGIES, LoadingOptions, as_dtype, has_variant


def public_name(component: Any) -> list[str | None]:
    """[library, class] as model_index.json records it.

    The library is the top-level package where that exports the class, so that a module may move without breaking saved
    folders; otherwise the class's own module.
    """
    if component is None:
        return [None, None]
    module, name = type(component).__module__, type(component).__name__
    package = module.split(".")[0]
    exported = getattr(sys.modules.get(package), name, None) is type(component)
    return [package if exported else module, name]


class FolderPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` that saves and loads our components by their public names, completely or not at all.

    diffusers records third-party components by full module path, refuses them from the Hub and loses PEFT models.
    """

    # Components whose own from_pretrained takes Hub options besides the folder.
    _hub_components: ClassVar[tuple[str, ...]] = ()
    # Optional components that folders of earlier versions do not name.
    _newer_components: ClassVar[tuple[str, ...]] = ()
    # The one that is quantized, and that a strategy of ``device_map`` spreads over devices.
    _large_component: ClassVar[str | None] = None
    # Other pipelines whose folders hold all that this one needs.
    _also_reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self):
        super().__init__()
        self.set_progress_bar_config(disable=True)  # a library's calls are silent unless a bar is asked for

    def register_modules(self, **components) -> None:
        super().register_modules(**components)
        self.register_to_config(**{name: tuple(public_name(component)) for name, component in components.items()})

    @classmethod
    def _component_names(cls) -> list[str]:
        required, optional = cls._get_signature_keys(cls)
        return [name for name in required if name != "self"] + [
            name for name in optional if name in cls._optional_components
        ]

    @classmethod
    def download(cls, pretrained_model_name_or_path: LoadPath, **kwargs) -> str:
        """Fetch a pipeline's repository and return its local folder."""
        known = {key: kwargs.get(key) for key in ("revision", "token", "cache_dir") if kwargs.get(key) is not None}
        return str(
            resolve_folder(
                pretrained_model_name_or_path, local_files_only=kwargs.get("local_files_only", False), **known
            )
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: LoadPath | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: LoadPath | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | None = None,
        quantization_config: Any = None,
        variant: str | None = None,
        **components,
    ):
        """Load a pipeline from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: a folder, a Hub id, or "tiny", the embedded default (also when left out).
            revision, token, cache_dir, local_files_only: as everywhere on the Hub; token, cache and mode also reach
                base models that the folder references by id and revision.
            dtype: of the loaded weights, such as torch.float16 or "float16"; float32 by default, whatever the files
                hold. ``torch_dtype`` is its former name.
            device_map: a device for everything; or "auto", "balanced", "balanced_low_0" or "sequential", which spread
                the language model over the devices and put all else on the first.
            quantization_config: of transformers, for the language model.
            variant: reads ``model.fp16.safetensors`` for "fp16", and so on, in the components that have such files.
            components: ready-made ones to use instead of the folder's, by name; ``link=None`` leaves the link out.
                ``use_safetensors`` and ``low_cpu_mem_usage`` are taken as well, as in diffusers.

        Raises:
            ModelFolderError: no such folder; model_index.json or a component missing or damaged; weights missing,
                additional, misshapen, not finite or pickled; components whose widths do not fit each other.
            HubAccessError: a repository, revision or base model that cannot be had.
            InputError: an unknown keyword, one of a wrong type, a variant that no component has, or a revision of a
                local folder.
        """
        given = {"dtype": dtype, "device_map": device_map, "quantization_config": quantization_config}
        components |= {**given, "variant": variant}
        how = LoadingOptions.take(components, *(() if cls._large_component else ("quantization_config",)))
        if isinstance(how.device_map, dict):
            raise InputError("device_map", "is a dict", f"Name a device or one of {', '.join(STRATEGIES)}")
        names = cls._component_names()
        cls._check_given(components, "from_pretrained", "; or dtype=, device_map= and the like, and Hub options")
        hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = resolve_folder(
            pretrained_model_name_or_path,
            revision,
            allow_patterns=[INDEX, *(f"{name}/*" for name in names)] if cls._also_reads else None,
            **hub,
        )
        index = read_json(folder / INDEX)
        if index.get("_class_name") not in (cls.__name__, *cls._also_reads):
            raise ModelFolderError(
                folder / INDEX, f"describes a {index.get('_class_name')!r}", f"{cls.__name__} cannot read it"
            )
        if variant is not None and not any(has_variant(folder / name, variant) for name in names):
            raise InputError("variant", f"is {variant!r}, but {folder} has no such files", "Leave it out: dtype= casts")
        loaded = {
            name: components[name]
            if name in components
            else cls._load_component(folder, name, index.get(name), how, hub)
            for name in names
        }
        pipeline = cls(**loaded)
        pipeline.check_components(folder)
        pipeline._place(how.device)
        return pipeline

    def _place(self, device: torch.device | None) -> None:
        """Moves what was not loaded onto a device; ``hf_device_map`` says where a large component is spread."""
        if device is None:
            return
        spread = {}
        for name, component in self.components.items():
            if name == self._large_component:
                spread = getattr(component.base_model, "hf_device_map", None) or {}
            elif isinstance(component, torch.nn.Module):
                component.to(device)
        if len(set(map(str, spread.values()))) > 1:  # diffusers then refuses `to`, which would undo it
            self.hf_device_map = dict.fromkeys(self.components, device) | {self._large_component: spread}

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **components):
        """A pipeline of this class over the components of another, which it shares: nothing is copied or cast.

        Args:
            pipeline: any pipeline that has the components, by name.
            components: others to use instead, by name.

        Raises:
            InputError: an unknown component, one that is missing (a link that is None, say), or one of a wrong type.
            ModelFolderError: components whose widths do not fit each other.
        """
        cls._check_given(components, "from_pipe")
        own = {name: getattr(pipeline, name, None) for name in cls._component_names()}
        cls._check_given(own | components, "from_pipe")
        shared = cls(**(own | components))
        shared.check_components("from_pipe")
        return shared

    @classmethod
    def _check_given(cls, components: dict[str, Any], caller: str, others: str = "") -> None:
        """Raises InputError for unknown names and wrong types."""
        names, types = cls._component_names(), get_type_hints(cls.__init__)
        unknown = sorted(set(components) - set(names))
        if unknown:
            raise InputError(caller, f"got {', '.join(unknown)}", f"Components are {', '.join(names)}{others}")
        for name, component in components.items():
            if not isinstance(component, types[name]) and not (component is None and name in cls._optional_components):
                expected = " or ".join(kind.__name__ for kind in get_args(types[name]) or (types[name],))
                raise InputError(name, f"is a {type(component).__name__}", f"Pass a {expected}")

    @classmethod
    def _load_component(cls, folder: Path, name: str, entry: Any, how: LoadingOptions, hub: dict[str, Any]):
        if entry is None and name in cls._newer_components:
            return None
        if entry is None:
            raise ModelFolderError(
                folder / INDEX, f"has no entry for {name}", "The file is incomplete: save or download it again"
            )
        if entry == [None, None]:
            if name in cls._optional_components:
                return None
            raise ModelFolderError(folder / INDEX, f"has {name} = null", f"Pass {name}= or use a complete folder")
        component_class = cls._component_class(folder, name, entry)
        if not (folder / name).is_dir():
            raise ModelFolderError(
                folder / name, "is missing, though model_index.json names it", "Save or download the folder again"
            )
        options = {"dtype": how.dtype, "low_cpu_mem_usage": how.low_cpu_mem_usage}
        if name == cls._large_component:
            options |= {"device_map": how.device_map, "quantization_config": how.quantization_config}
        if how.variant is not None and has_variant(folder / name, how.variant):
            options["variant"] = how.variant
        if name in cls._hub_components:
            return component_class.from_pretrained(folder / name, **options, **hub)
        refuse_pickles(folder / name)
        if issubclass(component_class, ModelMixin):
            return component_class.from_pretrained(folder / name, **options).eval()
        try:
            return component_class.from_pretrained(folder / name)
        except Exception as error:
            raise ModelFolderError(
                folder / name, f"cannot be loaded ({error})", "Save or download the folder again"
            ) from error

    @classmethod
    def _component_class(cls, folder: Path, name: str, entry: Any) -> type:
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise ModelFolderError(folder / INDEX, f"has {name} = {entry!r}", "An entry is [library, class]")
        library, class_name = entry[0], current_name(entry[1])
        # Only what the user already imported may be used: loading a folder must never decide what code runs.
        module = {"diffusers": diffusers, PACKAGE: sys.modules[PACKAGE]}.get(library) or sys.modules.get(library)
        found = getattr(module, class_name, None) if module else None
        if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
            raise ModelFolderError(
                folder / INDEX,
                f"wants {library}.{class_name} for {name}, which is not there",
                f"Import {library} first, or pass {name}=",
            )
        if not issubclass(found, get_type_hints(cls.__init__)[name]):
            raise ModelFolderError(
                folder / INDEX, f"has {class_name} for {name}", f"{cls.__name__} cannot use that class"
            )
        return found

    def check_components(self, item: object) -> None:
        """Raises ModelFolderError naming ``item`` if the components' widths do not fit each other."""

    def save_pretrained(
        self,
        save_directory: LoadPath,
        safe_serialization: bool = True,
        dtype: torch.dtype | str | None = None,
        include_base: bool | None = None,
        **kwargs,
    ) -> None:
        """Write the pipeline as a folder of safetensors and JSON.

        Args:
            save_directory: created if absent.
            dtype: of the stored weights, such as torch.float16; that of the models by default.
            include_base: whether base models that came from the Hub are copied rather than referenced.

        Raises:
            InputError: ``safe_serialization=False``, since pickles are not written; an option of diffusers that has no
                meaning here, such as ``variant``; or a file where the folder should be.
            ModelFolderError: weights that are not finite.
        """
        if not safe_serialization:
            raise InputError("safe_serialization", "is False", "Only safetensors are written")
        unknown = sorted(name for name, value in kwargs.items() if value not in (None, False))
        if unknown:
            raise InputError("save_pretrained", f"got {', '.join(unknown)}", "It takes dtype and include_base")
        folder, dtype = Path(save_directory), as_dtype(dtype)
        if folder.exists() and not folder.is_dir():
            raise InputError(folder, "is a file", "Name a folder")
        for name in self._hub_components:  # before anything is written
            includes_base(include_base, getattr(self, name).source, name)
        folder.mkdir(parents=True, exist_ok=True)
        index = {"_class_name": type(self).__name__, "_diffusers_version": diffusers.__version__}
        for name in self._component_names():
            component = getattr(self, name)
            index[name] = public_name(component)
            if component is None:
                continue
            if isinstance(component, torch.nn.Module):
                check_finite(component, name)
            if name in self._hub_components:
                component.save_pretrained(folder / name, include_base=include_base, dtype=dtype)
            elif isinstance(component, ModelMixin):
                # torch's own `to`, on a copy: that of `ModelMixin` warns of an empty list of exceptions.
                cast = torch.nn.Module.to(copy.deepcopy(component), dtype) if dtype else component
                cast.save_pretrained(folder / name)
            else:
                component.save_pretrained(folder / name)
        # Last, so that a folder whose writing was interrupted is not taken for a whole one.
        write_json(folder / INDEX, index)
