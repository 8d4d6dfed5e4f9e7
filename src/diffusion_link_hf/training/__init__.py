"""Training of bridges, the link among them, and of the decoder on Accelerate."""
