"""`evaluate` module: METEOR 1.5."""

from diffusion_link_hf.metrics import evaluate_base


class Meteor(evaluate_base.CaptionMetric):
    """METEOR 1.5."""

    metric = "meteor"
