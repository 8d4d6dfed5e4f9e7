"""Measures: similarity, retrieval and geometry of bridged embeddings, and scores of captions, with intervals."""
