"""SEED (Interspeech 2025) as a configuration of Diffusion-Link."""

from typing import Any

from .diffusion_link import DiffusionLinkModel


def seed_bridge_config(embedding_dim: int = 512, **config: Any) -> dict[str, Any]:
    """Arguments of `DiffusionLinkModel` that make it SEED: one step from s*, embeddings of norm √D.

    SEED's network (RDM MLP, three blocks, width 512, time width 256) and its cross-sample prediction, from the noised
    source to the clean target, are those of Diffusion-Link without the topology loss (arXiv 2505.16798; paper §8). Two
    things differ at inference: a single call of the network at s* gives the result, and ``scale`` is √D, so that a
    given s* leaves more of the signal.

    Args:
        embedding_dim: D.
        config: overrides, such as ``noise_timestep``.

    Examples:
        >>> seed_bridge_config(64, noise_timestep=300)
        {'embedding_dim': 64, 'scale': 8.0, 'num_inference_steps': 1, 'noise_timestep': 300}
    """
    return {"embedding_dim": embedding_dim, "scale": embedding_dim**0.5, "num_inference_steps": 1, **config}


def make_seed_bridge(embedding_dim: int = 512, **config: Any) -> DiffusionLinkModel:
    """An untrained SEED; see `seed_bridge_config`. It saves and loads as the `DiffusionLinkModel` that it is.

    Examples:
        >>> make_seed_bridge(64, width=32).config.num_inference_steps
        1
    """
    return DiffusionLinkModel(**seed_bridge_config(embedding_dim, **config))
