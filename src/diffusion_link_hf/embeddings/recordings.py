"""The embedding of a recording of any length: the mean over its ten-second windows."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from ..audio import split_windows


def embed_recordings(
    recordings: Iterable[np.ndarray], encode: Callable[[np.ndarray], torch.Tensor], batch_size: int
) -> torch.Tensor | None:
    """The embedding of each recording: the mean over its windows, renormalized.

    Args:
        recordings: (n,) samples each, mono at 48 kHz; read one by one, so that a batch of windows is held.
        encode: (B, 480000) windows → (B, D) embeddings.
        batch_size: windows encoded at once; they may be of several recordings.

    Returns:
        (N, D) unit rows, where ``encode`` leaves them; None of no recordings.
    """
    windows, owners, embeds, count = [], [], [], 0
    for samples in recordings:
        for window in split_windows(samples):
            windows.append(window.samples)
            owners.append(count)
            if len(windows) == batch_size:
                embeds.append(encode(np.stack(windows)))
                windows = []
        count += 1
    if windows:
        embeds.append(encode(np.stack(windows)))
    if not count:
        return None
    rows = torch.cat(embeds)
    sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, torch.tensor(owners, device=rows.device), rows)
    return torch.nn.functional.normalize(sums, dim=-1)
