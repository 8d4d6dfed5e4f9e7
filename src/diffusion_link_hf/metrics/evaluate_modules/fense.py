"""`evaluate` module: FENSE, the sentence similarity cut by fluency errors."""

from diffusion_link_hf.metrics import evaluate_base


class Fense(evaluate_base.CaptionMetric):
    """FENSE, the sentence similarity cut by fluency errors."""

    metric = "fense"
