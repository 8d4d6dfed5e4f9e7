"""SEED (Interspeech 2025) as a configuration of Diffusion-Link."""

from .diffusion_link import DiffusionLinkModel


def seed_config(embedding_dim: int = 512, **config) -> dict:
    """Arguments of `DiffusionLinkModel` that make it SEED: one step from s*, embeddings of norm √D.

    SEED's network (RDM MLP, three blocks, width 512, time width 256) and its cross-sample prediction, from the noised
    source to the clean target, are those of Diffusion-Link without the topology loss (arXiv 2505.16798; paper §8). What
    differs at inference is that a single network call from s* gives the result, and that ``scale`` is √D, so that a
    given s* leaves more of the signal.

    Args:
        embedding_dim: D.
        config: overrides, such as ``noise_timestep``.
    """
    return {"embedding_dim": embedding_dim, "scale": embedding_dim**0.5, "num_inference_steps": 1, **config}


def make_seed(embedding_dim: int = 512, **config) -> DiffusionLinkModel:
    """An untrained SEED; see `seed_config`. It saves and loads as the `DiffusionLinkModel` that it is."""
    return DiffusionLinkModel(**seed_config(embedding_dim, **config))
