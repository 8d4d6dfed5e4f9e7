"""Batches of captions: every epoch reads every caption once, in an order that pads little and repeats."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf.training.batches import CaptionBatches

LENGTHS = torch.randint(4, 40, (960,), generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_reads_no_row_twice_and_leaves_out_less_than_a_batch(lengths, batch_size, buckets, seed):
    batches = CaptionBatches(torch.tensor(lengths), seed, batch_size, buckets)
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = torch.cat([batches.batch(step) for step in steps]).tolist()
        assert len(seen) == len(set(seen)) > len(lengths) - batch_size
        assert all(len(batches.batch(step)) == min(batch_size, len(lengths)) for step in steps)


def test_the_order_is_a_function_of_seed_and_step():
    first, second, other = (CaptionBatches(LENGTHS, seed, 8, 10) for seed in (1, 1, 2))
    steps = (0, 119, 120, 500, 3)  # jumps to and fro, as a continuation does
    for step in steps:
        assert torch.equal(first.batch(step), second.batch(step))
    assert not torch.equal(first.batch(0), other.batch(0))
    assert not torch.equal(first.batch(0), first.batch(120))


def test_buckets_save_padding():
    """Against the share counted by hand; shares of a batch are padded each on its own."""
    bucketed, random = (CaptionBatches(LENGTHS, 0, 16, buckets) for buckets in (20, 1))
    padded = 0
    for step in range(60):
        lengths = LENGTHS[random.batch(step)]
        assert lengths.tolist() == sorted(lengths.tolist())
        padded += 16 * int(lengths.max())
    assert random.padding_share(1) == 1 - int(LENGTHS.sum()) / padded
    assert random.padding_share(1) > 0.3
    assert bucketed.padding_share(1) < 0.05
    assert random.padding_share(4) < random.padding_share(1)


def test_batches_of_an_epoch_are_not_in_order_of_length():
    batches = CaptionBatches(LENGTHS, 0, 8, 1000)
    means = torch.stack([LENGTHS[batches.batch(step)].float().mean() for step in range(batches.steps_per_epoch)])
    assert not torch.equal(means, means.sort().values)
