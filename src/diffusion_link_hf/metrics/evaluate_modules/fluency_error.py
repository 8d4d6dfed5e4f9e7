"""`evaluate` module: rate of captions with a fluency error."""

from diffusion_link_hf.metrics import evaluate_base


class FluencyError(evaluate_base.CaptionMetric):
    """rate of captions with a fluency error."""

    metric = "fluency_error"
