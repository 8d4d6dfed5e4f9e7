"""Training of the link and of the decoder on Accelerate."""
