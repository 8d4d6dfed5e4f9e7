"""SPIDEr (Liu et al., 2017): the mean of SPICE and CIDEr-D."""

from .captions import CaptionScores


def spider(cider_d: CaptionScores, spice: CaptionScores) -> CaptionScores:
    """SPIDEr in [0, 5.5] from both of its parts, of the same captions; there is no SPIDEr of one of them."""
    return CaptionScores.mean_of("spider", (cider_d.per_caption["cider_d"] + spice.per_caption["spice"]) / 2)
