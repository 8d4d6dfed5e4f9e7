"""Training of bridges and of the decoder, on Accelerate."""
