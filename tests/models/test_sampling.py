"""Sampling: repeatable from its generator in any number of threads, and the caller's random state left alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from support.models import HIDDEN_SIZE, make_decoder


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return make_decoder()


@pytest.fixture(scope="module")
def prefix():
    return torch.randn(3, 4, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


def sample(decoder, prefix, seed, **options):
    generator = torch.Generator().manual_seed(seed)
    return decoder.generate(prefix, do_sample=True, max_new_tokens=10, generator=generator, **options)


def test_threads_do_not_disturb_each_other(decoder, prefix):
    alone = [sample(decoder, prefix, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: sample(decoder, prefix, seed), range(16)))
    assert together == alone
    assert len({str(captions) for captions in alone}) == 16


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 5, "temperature": 0.7}, {"num_beams": 3}, {"num_return_sequences": 2}], ids=str
)
def test_the_global_state_has_no_part_in_it(decoder, prefix, options):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(decoder, prefix, 7, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample(decoder, prefix, 7, **options) == first


def test_without_a_generator_it_follows_the_global_state(decoder, prefix):
    captions = []
    for _ in range(2):
        torch.manual_seed(3)
        captions.append(decoder.generate(prefix, do_sample=True, max_new_tokens=10))
    assert captions[0] == captions[1]


def test_draws_have_the_probabilities_of_the_model(decoder, prefix):
    """The first token of 4,000 captions against the softmax."""
    rows = prefix[:1].expand(4000, -1, -1)
    with torch.no_grad():
        logits = decoder.model(inputs_embeds=decoder._prompt(prefix[:1])).logits[0, -1]
    likely = logits.softmax(-1).topk(50)  # transformers' own top_k
    ids = []
    decode = decoder.tokenizer.batch_decode
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            type(decoder.tokenizer), "batch_decode", lambda self, drawn, **kw: ids.append(drawn) or decode(drawn, **kw)
        )
        decoder.generate(rows, do_sample=True, max_new_tokens=1, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(ids[0][:, 0], minlength=len(logits))[likely.indices] / 4000
    expected = likely.values / likely.values.sum()
    assert (counts - expected).abs().max() < 4 * (expected.max() / 4000).sqrt()
