"""Analysis of the modality gap: similarity, retrieval and geometry of bridged embeddings, reports and figures."""
