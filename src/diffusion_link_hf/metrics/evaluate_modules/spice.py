"""`evaluate` module: SPICE."""

from diffusion_link_hf.metrics import evaluate_base


class Spice(evaluate_base.CaptionMetric):
    """SPICE."""

    metric = "spice"
