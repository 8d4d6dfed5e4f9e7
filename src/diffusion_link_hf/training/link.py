"""The link stage: Diffusion-Link on an embedding cache, with the figures that its baselines reach beside it."""

from functools import partial
from typing import Any

import torch

from ..bridges.diffusion_link import DiffusionLinkModel
from ..bridges.linear import LinearBridge
from ..embeddings.pairs import EmbeddingPairs
from .bridge import matched_cosine, run_stage, validation_cosines
from .recipes import LinkTrainingArguments

S_STAR_GRID = (20, 50, 100, 200, 300, 400, 500)
LOSS_FIELDS = ("topology_weight", "topology_source", "topology_reduction", "text_to_text")


def train_link(args: LinkTrainingArguments) -> dict[str, Any]:
    """Run the link stage.

    Writes a pipeline folder that `DiffusionLinkPipeline` reads: ``output/link`` (averaged weights and statistics),
    ``output/scheduler`` and ``output/model_index.json``; and ``output/metrics.json``. See `bridge_trainer.train_bridge`
    for the loop, its exact resume and the errors.

    Returns:
        What metrics.json holds, `link_metrics` among it.
    """
    loss = {name: getattr(args, name) for name in LOSS_FIELDS}
    measure = partial(link_metrics, max_timestep=args.max_train_timestep)
    return run_stage(args, "diffusion-link", loss, args.cache, measure)[1]


@torch.no_grad()
def link_metrics(
    link: DiffusionLinkModel, train: EmbeddingPairs, validation: EmbeddingPairs | None, max_timestep: int = 1000
) -> dict[str, Any]:
    """Matched cosine audio → text of raw, centered, ridge-regressed and linked embeddings, and text → text of the link.

    Raw embeddings are compared with raw text, the others with centered text, the link's target (paper §2). The ridge
    (`LinearBridge`) is fitted on the training part; there is no ``ridge`` where that has fewer than two recordings, and
    no figure at all without validation pairs. ``s_star`` is the link by its starting timestep s* (the paper's Table 2),
    as far as it was trained.

    Args:
        max_timestep: the highest timestep of the training.
    """
    if validation is None:
        return {}
    audio, text = validation.source.to(link.device), validation.target.to(link.device)
    target, linked = link.target(text), validation_cosines(link, validation)
    grid = [s for s in S_STAR_GRID if link.config.num_inference_steps <= s <= max_timestep]
    metrics = {
        "raw": matched_cosine(audio, text),
        "centered": matched_cosine(link.normalize(audio, "audio"), target),
        "link": linked["matched_audio"],
        "link_text_to_text": linked["matched_text"],
        "s_star": {str(s): matched_cosine(link.bridge(audio, "audio", noise_timestep=s), target) for s in grid},
    }
    if len(train.group.unique()) >= 2:
        ridge = LinearBridge(train.embedding_dim, scale=link.config.scale).fit(
            train.source,
            train.target,
            train.group,
            unpaired_source=train.unpaired_source,
            unpaired_target=train.unpaired_target,
        )
        metrics["ridge"] = matched_cosine(ridge.to(link.device).bridge(audio, "audio"), target)
    return metrics
