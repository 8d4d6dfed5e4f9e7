"""The place of heard tags in the joint space: from probabilities over time to an embedding."""

import torch
from torch import nn
from torch.nn import functional as F

SENTENCE, EVENTS, ORDER = 384, 96, 29  # dimensions
RELATIONS = ("single", "overlap", "sequence")
EMBEDDING_DIM = SENTENCE + EVENTS + ORDER + len(RELATIONS)
FIRST_HALF, SECOND_HALF = slice(0, 6), slice(6, None)  # of the twelve windows of ten seconds
RELATION_CLUES = 27
RELATION_HIDDEN = 48
KEPT_TAGS = 6  # that take part where several sounds are expected


class TagEmbedding(nn.Module):
    """Tags over time → unit rows of the joint space, 512 wide, that the text tower was distilled to.

    The space has four parts, each scaled by the root of its share of the energy:

    | dimensions | part |
    |---|---|
    | 0–383 | sentence: MiniLM's embedding of a caption, centered |
    | 384–479 | events: sum of fixed codes of the classes heard |
    | 480–508 | order: code of the first event less that of the last |
    | 509–511 | relation: single, overlap, sequence |

    Doubt between two sounds is a place between them. All is fixed but a small network that tells the relation.

    Args:
        num_tags: C, sound classes.
        silence_index: which class is silence.
        energy: shares of the parts, by the names "sentence", "events", "order" and "relation".
    """

    def __init__(self, num_tags: int, silence_index: int, energy: dict[str, float]):
        super().__init__()
        self.register_buffer("sentences", torch.zeros(num_tags, SENTENCE))  # mean sentence of a class's captions
        self.register_buffer("codes", torch.zeros(num_tags, EVENTS))
        self.register_buffer("orders", torch.zeros(num_tags, ORDER))
        kinds = len(RELATIONS) + 1  # and silence
        self.relation = nn.Sequential(
            nn.Linear(RELATION_CLUES, RELATION_HIDDEN), nn.GELU(), nn.Linear(RELATION_HIDDEN, kinds)
        )
        self.silence_index, self.energy = silence_index, energy

    def relation_clues(self, clip: torch.Tensor, windows: torch.Tensor, loudness: torch.Tensor) -> torch.Tensor:
        """(B, 27): how peaked the probabilities are, and how alike the halves; signs of one event or several."""
        weight = loudness / loudness.sum(1, keepdim=True).clamp_min(1e-6)
        mean = (windows * weight[..., None]).sum(1)
        halves = [_weighted_mean(windows, loudness, half) for half in (FIRST_HALF, SECOND_HALF)]
        top = [p.topk(4, -1).values for p in (clip, mean, windows.amax(1), *halves)]
        alike = [F.cosine_similarity(halves[0], halves[1], dim=-1), F.cosine_similarity(clip, mean, dim=-1)]
        entropy = [_entropy(clip), _entropy(mean)]
        spread = entropy[1] - (_entropy(windows) * weight).sum(1)
        level = [10 * loudness.mean(1), 10 * loudness.amax(1)]
        return torch.cat([*top, torch.stack([*alike, *entropy, spread, *level], 1)], 1)

    def forward(
        self, clip: torch.Tensor, windows: torch.Tensor, loudness: torch.Tensor, silent: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities over time → embeddings.

        Args:
            clip: (B, C) probabilities of the whole clip.
            windows: (B, 12, C) probabilities of its windows.
            loudness: (B, 12), of the windows.
            silent: (B,) bool, rows that are silence whatever the probabilities say.

        Returns:
            (B, 512) unit rows.
        """
        relation = self.relation(self.relation_clues(clip, windows, loudness)).softmax(-1)
        certain = F.one_hot(torch.full_like(silent, len(RELATIONS), dtype=torch.long), len(RELATIONS) + 1)
        relation = torch.where(silent[:, None], certain.to(relation), relation)
        one, two, nothing = relation[:, :1], relation[:, 1:3].sum(1, keepdim=True), relation[:, 3:]
        tags = (one * clip + two * _several(clip, windows)) * (1 - nothing)
        tags = tags + nothing * F.one_hot(torch.tensor(self.silence_index), clip.shape[1]).to(tags)
        first, last = (_weighted_mean(windows, loudness, half) for half in (FIRST_HALF, SECOND_HALF))
        sentence = self._part("sentence", tags @ self.sentences)
        events = self._part("events", tags @ self.codes)
        order = self._part("order", (first - last) @ self.orders) * relation[:, 2:3]
        # Twice, as the network is less sure than a caption, which says one of the three.
        kinds = 2 * self._part("relation", relation[:, :3])
        return F.normalize(torch.cat([sentence, events, order, kinds], 1), dim=-1)

    def _part(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        return F.normalize(rows, dim=-1, eps=1e-6) * self.energy[name] ** 0.5


def _weighted_mean(windows: torch.Tensor, loudness: torch.Tensor, some: slice) -> torch.Tensor:
    """(B, W, C) and (B, W) → (B, C): mean of some windows, the louder the weightier."""
    weight = loudness[:, some] / loudness[:, some].sum(1, keepdim=True).clamp_min(1e-6)
    return (windows[:, some] * weight[..., None]).sum(1)


def _several(clip: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """(B, C) where more than one sound is expected: the first must not drown the second.

    Half the clip's, half the best window's; of the few largest the root, less that of the next.
    """
    roots = (0.5 * clip + 0.5 * windows.amax(1)).sqrt()
    kept = min(KEPT_TAGS + 1, roots.shape[1])
    roots = (roots - roots.topk(kept, -1).values[:, -1:]).clamp_min(0)
    return roots / roots.sum(1, keepdim=True).clamp_min(1e-6)


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """(…, C) → (…)."""
    return -(probabilities * probabilities.clamp_min(1e-9).log()).sum(-1)
