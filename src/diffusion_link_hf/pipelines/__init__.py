"""Pipelines: audio to captions, and embeddings to text-like embeddings."""
