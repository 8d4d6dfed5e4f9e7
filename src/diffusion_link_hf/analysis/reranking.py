"""CLAP-Refine (SLAM-AAC, Chen et al., ICASSP 2025, https://arxiv.org/abs/2410.09503): of several captions of a sound,
the one whose CLAP embedding is nearest to the sound's."""

from collections.abc import Sequence

import torch

from ..errors import InputError
from ..models.clap import ClapEncoder
from .similarity import unit_rows


def clap_cosines(audio: torch.Tensor, candidates: Sequence[Sequence[str]], clap: ClapEncoder) -> list[list[float]]:
    """Cosine of each recording's embedding with that of each of its captions.

    The embeddings are CLAP's own, before any bridge. A blank caption has -1.

    Args:
        audio: (N, D) CLAP embeddings of the recordings.
        candidates: N lists of captions.
        clap: with its tokenizer.

    Raises:
        InputError: another number of recordings, or a CLAP without a tokenizer.

    Examples:
        >>> from diffusion_link_hf import ClapEncoder
        >>> clap = ClapEncoder.from_pretrained("tiny")
        >>> audio = clap.encode_text(["A dog barks"])  # in the place of a recording
        >>> cosines = clap_cosines(audio, [["A bell rings", "A dog barks", ""]], clap)
        >>> best(cosines), round(cosines[0][1], 3), cosines[0][2]
        ([1], 1.0, -1.0)
    """
    if len(audio) != len(candidates):
        raise InputError("candidates", f"are of {len(candidates)} recordings, not {len(audio)}", "Give a list for each")
    texts = list(dict.fromkeys(text for own in candidates for text in own if text.strip()))
    rows = dict(zip(texts, unit_rows(clap.encode_text(texts).cpu()), strict=True))
    return [
        [float(row @ rows[text]) if text in rows else -1.0 for text in own]
        for row, own in zip(unit_rows(audio.cpu()), candidates, strict=True)
    ]


def best(cosines: Sequence[Sequence[float]]) -> list[int]:
    """Index of the highest cosine of each recording; of equal ones the first, which the decoder prefers."""
    return [max(range(len(own)), key=own.__getitem__) for own in cosines]
