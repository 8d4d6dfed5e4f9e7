"""The usual arguments of ``from_pretrained``, as diffusers and transformers name them, checked in one place."""

import importlib.util
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .errors import InputError
from .tensors import check_device

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")  # of Accelerate, for a model that one GPU cannot hold
OPTIONS = ("dtype", "device_map", "quantization_config", "variant", "use_safetensors", "low_cpu_mem_usage")
DeviceMap = str | int | torch.device | dict[str, Any]


def as_dtype(dtype: torch.dtype | str | None, name: str = "dtype") -> torch.dtype | None:
    """A floating-point `torch.dtype`, also from its name; None stays None.

    Raises:
        InputError: anything else; diffusers would load float32 instead, with a mere warning.

    Examples:
        >>> as_dtype("float16"), as_dtype("torch.bfloat16")
        (torch.float16, torch.bfloat16)
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    named = not isinstance(dtype, str) or str(found) == f"torch.{dtype.removeprefix('torch.')}"  # no "half"
    if not isinstance(found, torch.dtype) or not found.is_floating_point or not named:
        raise InputError(name, f"is {dtype!r}", "Use float32, float16 or bfloat16, as text or as a torch.dtype")
    return found


def four_bit(dtype: torch.dtype | str | None = None, name: str = "load_in_4bit") -> Any:
    """A `transformers.BitsAndBytesConfig` of 4-bit NF4 with double quantization, as in QLoRA.

    Args:
        dtype: in which the layers compute, float32 by default.
        name: how the error calls the option.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    check_bitsandbytes(name)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=as_dtype(dtype) or torch.float32,
    )


def check_bitsandbytes(name: str) -> None:
    """Raises InputError, naming the argument that wants it, where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(name, "bitsandbytes is not installed", "Run: pip install bitsandbytes")


@dataclass(frozen=True)
class LoadingOptions:
    """How weights are loaded.

    Attributes:
        dtype: of the loaded weights; None is float32, whatever the files hold.
        device_map: where the weights go, a device or a strategy of Accelerate such as "auto"; None is the CPU.
        quantization_config: of transformers, such as `BitsAndBytesConfig`.
        variant: middle name of the files to read: "fp16" reads ``model.fp16.safetensors``.
        low_cpu_mem_usage: whether weights are read into the model one by one. transformers always does so.
    """

    dtype: torch.dtype | None = None
    device_map: DeviceMap | None = None
    quantization_config: Any = None
    variant: str | None = None
    low_cpu_mem_usage: bool | None = None

    @classmethod
    def take(cls, given: dict[str, Any], *refused: str) -> "LoadingOptions":
        """Those among keyword arguments, which it removes from ``given``.

        ``torch_dtype`` is the former name of ``dtype``; ``use_safetensors`` may be True or None.

        Args:
            refused: those that have no meaning for what is loaded.

        Raises:
            InputError: a value that cannot be used, or one of ``refused``.

        Examples:
            >>> arguments = {"dtype": "float16", "use_safetensors": True, "revision": "main"}
            >>> LoadingOptions.take(arguments).dtype, arguments
            (torch.float16, {'revision': 'main'})
        """
        values = {field.name: given.pop(field.name, None) for field in fields(cls)}
        for name in refused:
            if values[name] is not None:
                raise InputError(name, f"is {values[name]!r}", "Leave it out: it is for language models")
        values["dtype"] = as_dtype(values["dtype"])
        former = as_dtype(given.pop("torch_dtype", None), "torch_dtype")
        if former is not None:
            warnings.warn("torch_dtype is deprecated: use dtype", FutureWarning, stacklevel=3)
            if values["dtype"] not in (None, former):
                raise InputError("torch_dtype", f"is {former}, dtype is {values['dtype']}", "Give dtype alone")
            values["dtype"] = former
        if given.pop("use_safetensors", None) not in (None, True):
            raise InputError("use_safetensors", "cannot be switched off", "Only safetensors are read, and strictly")
        _check(**values)
        return cls(**values)

    def for_model(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` of one model of transformers or diffusers, less those that are not given."""
        found = {name: getattr(self, name) for name in ("dtype", "quantization_config", "variant")}
        if self.device_map is not None:
            spread = isinstance(self.device_map, dict) or self.device_map in STRATEGIES
            found["device_map"] = self.device_map if spread else {"": check_device(self.device_map, "device_map")}
        elif self.low_cpu_mem_usage is not None:
            found["low_cpu_mem_usage"] = self.low_cpu_mem_usage
        return {name: value for name, value in found.items() if value is not None}

    @property
    def device(self) -> torch.device | None:
        """Where models go that fit one device: that of ``device_map``; with a strategy, the first accelerator."""
        if self.device_map is None:
            return None
        if self.device_map in STRATEGIES:
            return torch.accelerator.current_accelerator() or torch.device("cpu")
        return check_device(self.device_map, "device_map")


def refuse_unknown(caller: str, given: dict[str, Any]) -> None:
    """Raises InputError for keyword arguments that are left."""
    if given:
        raise InputError(caller, f"got {', '.join(sorted(given))}", f"Options are {', '.join(OPTIONS)}")


def has_variant(folder: Path, variant: str) -> bool:
    """Whether a folder, or one inside it, has safetensors of a variant, whole or in shards."""
    return any(f".{variant}." in path.name or f".{variant}-" in path.name for path in folder.rglob("*.safetensors"))


def _check(dtype, device_map, quantization_config, variant, low_cpu_mem_usage) -> None:
    if variant is not None and (not isinstance(variant, str) or not variant.isidentifier()):
        raise InputError("variant", f"is {variant!r}", 'Use the middle name of the files, such as "fp16"')
    if low_cpu_mem_usage not in (None, True, False):
        raise InputError("low_cpu_mem_usage", f"is {low_cpu_mem_usage!r}", "Use True or False")
    if low_cpu_mem_usage is False and device_map is not None:
        raise InputError("low_cpu_mem_usage", "is False with a device_map", "Leave one of them out")
    if device_map is not None and not isinstance(device_map, dict) and device_map not in STRATEGIES:
        check_device(device_map, "device_map")
    if quantization_config is not None:
        method = getattr(quantization_config, "quant_method", None)
        if method is None:
            problem = f"is a {type(quantization_config).__name__}"
            raise InputError("quantization_config", problem, "Pass one of transformers, such as BitsAndBytesConfig")
        if "bitsandbytes" in str(getattr(method, "value", method)):
            check_bitsandbytes("quantization_config")
