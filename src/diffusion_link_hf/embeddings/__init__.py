"""Embeddings of captioned recordings: made in shards, cached, and read as pairs."""
