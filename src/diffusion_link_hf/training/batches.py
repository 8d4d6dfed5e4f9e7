"""Which captions a step of the decoder reads: shuffled epochs, captions of similar length together."""

import torch

from ..bridges.losses import Share


class CaptionBatches:
    """A fresh order each epoch, a function of (seed, epoch) alone; a batch is that of all processes.

    Each epoch is shuffled and cut into buckets of ``bucket_batches`` batches; within a bucket captions are sorted by
    length, so that a batch is padded little; then the batches are shuffled. The rest that fills no batch, another one
    each epoch, is left out.

    Args:
        lengths: (K,) tokens per caption.
        seed: of the orders.
        batch_size: rows of a batch; where there are fewer captions, a batch has all of them.
        bucket_batches: 1 for batches of any lengths.
    """

    def __init__(self, lengths: torch.Tensor, seed: int, batch_size: int, bucket_batches: int):
        self.lengths, self.seed, self.bucket = lengths, seed, bucket_batches
        self.batch_size = min(batch_size, len(lengths))
        self.steps_per_epoch = len(lengths) // self.batch_size
        self._epoch, self._order = -1, torch.empty(0, 0, dtype=torch.long)

    def batch(self, step: int) -> torch.Tensor:
        """(batch_size,) row numbers in ascending length."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return self._order[position]

    def padding_share(self, shares: int) -> float:
        """Share of all positions of the first epoch that are padding, if each batch is worked off in ``shares``."""
        kept, padded = 0, 0
        for step in range(self.steps_per_epoch):
            lengths = self.lengths[self.batch(step)]
            parts = [lengths[Share(k, shares).rows(len(lengths))] for k in range(shares)]
            kept += int(lengths.sum())
            padded += sum(len(part) * int(part.max()) for part in parts)
        return 1 - kept / padded

    def _shuffled(self, epoch: int) -> torch.Tensor:
        """(steps_per_epoch, batch_size) row numbers."""
        generator = torch.Generator().manual_seed(self.seed * 7_919 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator)[: self.steps_per_epoch * self.batch_size]
        buckets = order.split(self.bucket * self.batch_size)
        batches = torch.cat([rows[self.lengths[rows].argsort(stable=True)] for rows in buckets])
        batches = batches.reshape(self.steps_per_epoch, self.batch_size)
        return batches[torch.randperm(self.steps_per_epoch, generator=generator)]
