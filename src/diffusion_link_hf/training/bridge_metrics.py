"""What metrics.json says of a fitted bridge: cosines on held-out recordings, and what they compete with."""

from typing import Any

import torch
from torch.nn import functional as F

from ..bridges.base import BridgeModel
from ..bridges.diffusion_link import DiffusionLinkModel
from ..bridges.linear import LinearBridge
from ..embeddings.pairs import EmbeddingPairs

S_STAR_GRID = (20, 50, 100, 200, 300, 400, 500)


def mean_cosine(generated: torch.Tensor, text: torch.Tensor) -> float:
    """Mean cosine of matching rows, (K, D) each: the plain figure of a training. `gap` reports it with its error.

    Examples:
        >>> mean_cosine(torch.eye(2), torch.ones(2, 2))
        0.7071067690849304
    """
    return F.cosine_similarity(generated.float(), text.float(), dim=-1).mean().item()


@torch.no_grad()
def validation_cosines(bridge: BridgeModel, pairs: EmbeddingPairs) -> dict[str, float]:
    """`mean_cosine` of bridged audio and of bridged text with the text, in the space that the bridge leads to."""
    source, target = pairs.source.to(bridge.device), pairs.target.to(bridge.device)
    goal = bridge.target(target)
    return {
        "matched_audio": mean_cosine(bridge.bridge(source, "audio"), goal),
        "matched_text": mean_cosine(bridge.bridge(target, "text"), goal),
    }


@torch.no_grad()
def bridge_metrics(
    bridge: BridgeModel, train: EmbeddingPairs, validation: EmbeddingPairs | None, max_train_timestep: int = 1000
) -> dict[str, Any]:
    """What metrics.json says of a fitted bridge; {} where nothing is held out.

    ``matched_audio`` and ``matched_text`` are `validation_cosines`. A Diffusion-Link also has what it competes with:
    ``raw`` embeddings (compared with raw text), ``centered`` ones, and a ``ridge`` regression fitted on the training
    part, if that has two recordings or more. ``s_star`` is its cosine by starting timestep s* (Table 2 of the paper).

    Args:
        max_train_timestep: the highest timestep of the training, beyond which s* does not go.
    """
    if validation is None:
        return {}
    metrics: dict[str, Any] = validation_cosines(bridge, validation)
    if not isinstance(bridge, DiffusionLinkModel):
        return metrics
    audio, text = validation.source.to(bridge.device), validation.target.to(bridge.device)
    goal = bridge.target(text)
    grid = [s for s in S_STAR_GRID if bridge.config.num_inference_steps <= s <= max_train_timestep]
    metrics |= {
        "raw": mean_cosine(audio, text),
        "centered": mean_cosine(bridge.normalize(audio, "audio"), goal),
        "s_star": {str(s): mean_cosine(bridge.bridge(audio, "audio", noise_timestep=s), goal) for s in grid},
    }
    if len(train.group.unique()) >= 2:
        ridge = LinearBridge(train.embedding_dim, scale=bridge.config.scale).fit(
            train.source,
            train.target,
            train.group,
            unpaired_source=train.unpaired_source,
            unpaired_target=train.unpaired_target,
        )
        metrics["ridge"] = mean_cosine(ridge.to(bridge.device).bridge(audio, "audio"), goal)
    return metrics
