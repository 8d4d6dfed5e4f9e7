"""`evaluate` module: SPIDEr, the mean of CIDEr-D and SPICE."""

from diffusion_link_hf.metrics import evaluate_base


class Spider(evaluate_base.CaptionMetric):
    """SPIDEr, the mean of CIDEr-D and SPICE."""

    metric = "spider"
