"""Learning-rate schedules as factors of the peak."""

import math


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear to 1 over ``warmup`` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup)))
