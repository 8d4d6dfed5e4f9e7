"""`evaluate` module: BLEU-1 … BLEU-4."""

from diffusion_link_hf.metrics import evaluate_base


class Bleu(evaluate_base.CaptionMetric):
    """BLEU-1 … BLEU-4."""

    metric = "bleu"
