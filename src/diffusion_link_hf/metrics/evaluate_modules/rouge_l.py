"""`evaluate` module: ROUGE-L."""

from diffusion_link_hf.metrics import evaluate_base


class RougeL(evaluate_base.CaptionMetric):
    """ROUGE-L."""

    metric = "rouge_l"
