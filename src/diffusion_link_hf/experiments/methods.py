"""Which methods an experiment may name."""

from collections.abc import Sequence

from ..bridges.base import BridgeModel
from ..errors import RecipeError
from ..training.methods import METHODS, get_method
from .choices import ALWAYS_FITTED, SLOW


def chosen_methods(names: Sequence[str]) -> list[str]:
    """`ALWAYS_FITTED` and the methods asked for, in the order of `METHODS`.

    Args:
        names: of methods; "all" stands for all but the slow U-Net, and "none" for no more.

    Raises:
        RecipeError: an unknown name.

    Examples:
        >>> chosen_methods(["mlp", "ridge"])
        ['identity', 'centering', 'ridge', 'mlp']
    """
    asked = set(names) - {"all", "none"}
    if "all" in names:
        asked |= set(METHODS) - {SLOW}
    for name in sorted(asked):
        get_method(name, "methods")
    return [name for name in METHODS if name in asked.union(ALWAYS_FITTED)]


def check_start(name: str, bridge: BridgeModel) -> None:
    """Raises RecipeError for a bridge that does not start from a timestep, which no grid can vary."""
    if "noise_timestep" not in bridge.config:
        raise RecipeError(
            name, f"is a {type(bridge).__name__}, which has no timesteps", "Use a grid only with a diffusion bridge"
        )
