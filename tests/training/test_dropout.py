"""What a training step draws besides the batch."""

from types import SimpleNamespace

import torch

from diffusion_link_hf.training.dropout import seed_dropout


def test_dropout_is_seeded_as_by_torch():
    rows, cpu = torch.ones(8, 64), SimpleNamespace(device=torch.device("cpu"), process_index=0)
    seed_dropout(7, cpu)
    found = torch.nn.functional.dropout(rows)
    torch.manual_seed(7)
    assert torch.equal(found, torch.nn.functional.dropout(rows))
    seed_dropout(8, cpu)
    assert not torch.equal(found, torch.nn.functional.dropout(rows))
