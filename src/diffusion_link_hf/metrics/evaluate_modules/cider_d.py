"""`evaluate` module: CIDEr-D."""

from diffusion_link_hf.metrics import evaluate_base


class CiderD(evaluate_base.CaptionMetric):
    """CIDEr-D."""

    metric = "cider_d"
