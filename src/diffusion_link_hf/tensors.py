"""Checks of what users pass to torch: tensors and arrays (dense, floating point, finite, of a width), and devices."""

import numpy as np
import torch

from .errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dense_floats(value: torch.Tensor | np.ndarray, item: str) -> torch.Tensor:
    """A tensor itself, or a copy of an array of any byte order and strides, which torch cannot share.

    Raises:
        InputError: neither of them; not floats of 16 to 64 bits; masked values; or a tensor without values of its own
            for every place (sparse, nested, quantized, on the meta device).
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f" or value.dtype.itemsize > 8:
            raise InputError(item, f"has dtype {value.dtype}", "Pass floats of 16, 32 or 64 bits")
        if np.ma.is_masked(value):
            raise InputError(item, "has masked values", "Fill them, or leave those rows out")
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, torch.Tensor):
        raise InputError(item, f"is a {type(value).__name__}", "Pass a floating-point torch tensor or NumPy array")
    kinds = {
        "nested": value.is_nested,
        "quantized": value.is_quantized,
        "sparse": value.layout != torch.strided,
        "meta": value.is_meta,
    }
    for kind, found in kinds.items():
        if found:
            raise InputError(item, f"is a {kind} tensor", "Pass a dense floating-point one")
    if value.dtype not in FLOATS:
        raise InputError(item, f"is {value.dtype}", "Pass floats of 16, 32 or 64 bits")
    return value


def check_embeddings(embeds: torch.Tensor, width: int) -> None:
    """Refuses what is no batch of embeddings.

    Raises:
        InputError: not a dense floating-point tensor of shape (B, ``width``); or a row that is zero, NaN or infinite,
            by its number.
    """
    if not isinstance(embeds, torch.Tensor):
        kind = type(embeds).__name__
        raise InputError("embeds", f"is a {kind}", f"Pass a floating-point torch tensor of shape (B, {width})")
    dense_floats(embeds, "embeds")
    if embeds.ndim != 2 or embeds.shape[1] != width:
        raise InputError("embeds", f"has shape {tuple(embeds.shape)}", f"Pass (B, {width})")
    bad = ~torch.isfinite(embeds).all(1) | (embeds == 0).all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise InputError(
            "embeds", f"row {row} is zero, NaN or infinite ({int(bad.sum())} such rows)", "Leave those rows out"
        )


def rescale_rows(rows: torch.Tensor) -> torch.Tensor:
    """(B, D) → (B, D) in the same dtype, each row's largest absolute value brought into [1, 2); zero rows as they are.

    Before a norm is taken: it would overflow beyond 1e19 in float32, and `torch.nn.functional.normalize` takes norms
    below 1e-12 for zero. The factor is a power of two, so that no digit changes.
    """
    peak = rows.detach().abs().amax(-1, keepdim=True)
    exact = peak.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
    mantissa = torch.frexp(exact.cpu()).mantissa.to(exact.device)  # frexp is there on the CPU and CUDA only
    power = torch.where(exact > 0, exact / (2 * mantissa), 1.0)
    return rows / power.to(rows.dtype)


def cast_floats(state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """A state dict with its floating-point tensors in ``dtype``; None leaves them as they are.

    Names of one tensor, such as tied embeddings, stay names of one tensor.

    Examples:
        >>> table = torch.ones(2, 3)
        >>> halves = cast_floats({"embed": table, "head": table.detach()}, torch.float16)
        >>> halves["embed"].data_ptr() == halves["head"].data_ptr()
        True
    """
    if dtype is None:
        return dict(state)
    done: dict[tuple, torch.Tensor] = {}

    def cast(value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        place = value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
        if place not in done:
            done[place] = value.to(dtype)
        return done[place]

    return {name: cast(value) for name, value in state.items()}


def draw_seed(generator: torch.Generator) -> int:
    """A seed drawn from a generator, which moves on: two calls with it differ, two equal generators agree.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw_seed(generator) == draw_seed(generator), draw_seed(torch.Generator()) == draw_seed(torch.Generator())
        (False, True)
    """
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def check_device(device: str | torch.device, name: str = "device") -> torch.device:
    """The `torch.device` of a name, once it is known that this machine has it.

    Args:
        name: how the error calls the argument.

    Raises:
        InputError: torch does not know it, or does not see it here.

    Examples:
        >>> check_device("cpu")
        device(type='cpu')
        >>> check_device("quantum")
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.InputError: device: quantum cannot be used (Expected one of cpu, ...
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # torch's refusals differ
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(name, f"{device} cannot be used ({reason})", "Use cpu, or a device that torch sees") from error
