"""Captions whose tokens need no Java, and their form in pycocoevalcap."""

from diffusion_link_hf.metrics import Captions
from diffusion_link_hf.metrics.captions import TokenizedCaptions


def pretokenized(candidates, references) -> Captions:
    """Captions that are their own tokens."""
    captions = Captions(candidates, references)
    captions.tokens = TokenizedCaptions(captions.candidates, captions.references)
    return captions


def first_rows(captions, count) -> Captions:
    part = Captions(captions.candidates[:count], captions.references[:count])
    part.tokens = TokenizedCaptions(captions.tokens.candidates[:count], captions.tokens.references[:count])
    return part


def coco(captions):
    """The two dictionaries that pycocoevalcap takes, from our tokens."""
    references = dict(enumerate(captions.tokens.references))
    return references, {k: [text] for k, text in enumerate(captions.tokens.candidates)}
