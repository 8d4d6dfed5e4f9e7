"""`evaluate` module: several caption metrics at once, ``compute(…, metrics=["cider_d", "meteor"])``."""

from diffusion_link_hf.metrics import evaluate_base


class CaptionMetrics(evaluate_base.CaptionMetric):
    """Several caption metrics with shared work."""
