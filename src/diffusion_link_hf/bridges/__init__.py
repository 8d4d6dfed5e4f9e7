"""Bridges: systems that map audio or text embeddings to text-like ones."""
