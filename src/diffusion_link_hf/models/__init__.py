"""Bridges between the audio and the text region of an embedding space, and the prefix projector."""
