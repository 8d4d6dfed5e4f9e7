"""The bridging methods by name: which class each one is, and how it is fitted."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..bridges.base import BridgeModel
from ..bridges.centering import IdentityBridge, MeanCentering
from ..bridges.diffgap import DiffGapModel
from ..bridges.diffusion_bridge import DiffusionBridgeModel
from ..bridges.diffusion_link import DiffusionLinkModel
from ..bridges.linear import LinearBridge
from ..bridges.losses import LOSS_PRESETS, DiffusionLinkLoss, diffusion_link_loss, share_of_loss
from ..bridges.memory_projection import MemoryProjection
from ..bridges.regression import RegressionBridge
from ..bridges.seed import seed_bridge_config
from ..bridges.text_subspace import TextSubspaceBridge
from ..errors import RecipeError
from .preparation import check_options, construct

# (bridge, source (P, D), target (B, D), noise, share, **options) → () or its parts
Loss = Callable[..., torch.Tensor | DiffusionLinkLoss]
# Arguments of losses that are no options.
_BATCH = {"bridge", "source", "target", "noise", "share"}
PRESET = "preset"  # an option that stands for several: a name of `LOSS_PRESETS`


@dataclass(frozen=True)
class Method:
    """How a bridging method is made.

    Attributes:
        bridge: its class.
        trained: whether it is trained by gradient descent after its statistics are fitted. Others are fitted at once,
            in closed form.
        config: arguments of the class that make it this method, given D. The user's arguments replace them.
        uses_unpaired: whether training batches also hold targets without a partner.
        max_train_timestep: training timesteps are 0 to this, exclusive.
        loss: training loss of a batch.
        loss_options: options of the loss that differ from its defaults.
    """

    bridge: type[BridgeModel]
    trained: bool = False
    config: Callable[[int], dict[str, Any]] = lambda width: {"embedding_dim": width}
    uses_unpaired: bool = False
    max_train_timestep: int = 1000
    loss: Loss = share_of_loss
    loss_options: dict[str, Any] = field(default_factory=dict)

    def all_loss_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Every option of the loss: what is given, or else the preset's, the method's own, or the default.

        Args:
            given: options; for Diffusion-Link also ``preset``, a name of `LOSS_PRESETS`.

        Raises:
            RecipeError: an option that the loss does not have, or a value that it cannot take.

        Examples:
            >>> options = METHODS["diffusion-link"].all_loss_options({"preset": "literal", "topology_weight": 0.5})
            >>> options["topology_reduction"], options["topology_weight"], options["topology_source"]
            ('sum', 0.5, 'audio')
        """
        parameters, preset = self._loss_parameters(), {}
        if PRESET in given and self.loss is diffusion_link_loss:
            given = dict(given)
            name = given.pop(PRESET)
            if not isinstance(name, str) or name not in LOSS_PRESETS:
                raise RecipeError(f"loss.{PRESET}", f"is {name!r}", f"Use one of {', '.join(LOSS_PRESETS)}")
            preset = LOSS_PRESETS[name]
        check_options("loss", given, parameters)
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        return {**defaults, **self.loss_options, **preset, **given}

    def _loss_parameters(self) -> dict[str, inspect.Parameter]:
        """Parameters of the loss that are options; every loss takes its batch first."""
        if not self.trained:
            return {}
        return {name: each for name, each in inspect.signature(self.loss).parameters.items() if name not in _BATCH}


def _with(**config: Any) -> Callable[[int], dict[str, Any]]:
    return lambda width: {"embedding_dim": width, **config}


METHODS: dict[str, Method] = {
    "identity": Method(IdentityBridge),
    "centering": Method(MeanCentering),
    "c3": Method(MeanCentering, config=_with(add_noise=True)),
    "ridge": Method(LinearBridge),
    "procrustes": Method(LinearBridge, config=_with(kind="procrustes")),
    "text-subspace": Method(TextSubspaceBridge),
    "memory": Method(MemoryProjection),
    "mlp": Method(RegressionBridge, trained=True),
    "mlp-residual": Method(RegressionBridge, trained=True, config=_with(residual_over_ridge=True)),
    "diffusion-bridge": Method(DiffusionBridgeModel, trained=True, uses_unpaired=True),
    "diffusion-bridge-unet": Method(
        DiffusionBridgeModel, trained=True, config=_with(network="unet", time_embed_dim=512), uses_unpaired=True
    ),
    "diffgap": Method(DiffGapModel, trained=True),
    "seed": Method(
        DiffusionLinkModel,
        trained=True,
        config=seed_bridge_config,
        uses_unpaired=True,
        loss=diffusion_link_loss,
        loss_options={"topology_weight": 0.0},
    ),
    # As in the paper …
    "diffusion-link": Method(DiffusionLinkModel, trained=True, uses_unpaired=True, loss=diffusion_link_loss),
    # … and with the changes that helped most: small training timesteps, one step from the input as it is.
    "diffusion-link-shallow": Method(
        DiffusionLinkModel,
        trained=True,
        config=_with(add_noise=False, num_inference_steps=1),
        uses_unpaired=True,
        max_train_timestep=150,
        loss=diffusion_link_loss,
    ),
}


def get_method(name: object, option: str = "method") -> Method:
    """The method of a name.

    Args:
        name: of `METHODS`.
        option: where the name was given, for the error.

    Raises:
        RecipeError: there is no such method.

    Examples:
        >>> get_method("ridge").trained, get_method("diffusion-link").trained
        (False, True)
    """
    if not isinstance(name, str) or name not in METHODS:
        raise RecipeError(option, f"is {name!r}, which is no bridging method", f"Use one of {', '.join(METHODS)}")
    return METHODS[name]


def build_bridge(method: str, embedding_dim: int, /, **config: Any) -> BridgeModel:
    """An unfitted bridge.

    Args:
        method: a name of `METHODS`.
        embedding_dim: D, the width of the embeddings.
        config: arguments of the bridge's class, which replace the method's own.

    Raises:
        RecipeError: an unknown method or argument, or an ``embedding_dim`` in ``config`` that differs.

    Examples:
        >>> type(build_bridge("c3", 512)).__name__
        'MeanCentering'
    """
    how = get_method(method)
    return construct("model", how.bridge, {**how.config(embedding_dim), **config}, embedding_dim=embedding_dim)
