"""`evaluate` module: cosine similarity of sentence embeddings."""

from diffusion_link_hf.metrics import evaluate_base


class SbertSimilarity(evaluate_base.CaptionMetric):
    """cosine similarity of sentence embeddings."""

    metric = "sbert_similarity"
