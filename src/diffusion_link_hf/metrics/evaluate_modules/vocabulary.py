"""`evaluate` module: vocabulary statistics."""

from diffusion_link_hf.metrics import evaluate_base


class Vocabulary(evaluate_base.CaptionMetric):
    """vocabulary statistics."""

    metric = "vocabulary"
