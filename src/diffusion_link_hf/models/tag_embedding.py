"""The place of heard tags in the joint space: one event or two are decided on, and put where their captions lie."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

SENTENCE, EVENT, STYLE = 256, 122, 8  # dimensions
RELATIONS = ("single", "overlap", "sequence")
EMBEDDING_DIM = SENTENCE + 2 * EVENT + len(RELATIONS) + 1 + STYLE
EVENTS = slice(SENTENCE, SENTENCE + 2 * EVENT)  # where the codes of both events are
DOUBT = EVENTS.stop + len(RELATIONS)
ENERGY = {"sentence": 0.36, "event": 0.25, "relation": 0.06, "style": 0.04}
FIRST_HALF, SECOND_HALF = slice(0, 6), slice(6, None)  # of the twelve windows of ten seconds
CANDIDATES = 5  # for the first event of a pair
RELATION_CLUES = 29
SOFT_SENTENCE = 0.6  # weight of all likely tags beside the decided ones
LEAST_CERTAINTY = 0.04


class HeardEvents(NamedTuple):
    """What `TagEmbedding.decide` finds in a clip.

    Attributes:
        tags: (B, C) probabilities of a single event.
        one, two: (B,) the best pair, the surer one first.
        earlier, later: (B,) the same in the order of time.
        pair: (B,) how probable that pair is among the pairs considered.
        clues: (B, 29) signs of one event or several.
    """

    tags: torch.Tensor
    one: torch.Tensor
    two: torch.Tensor
    earlier: torch.Tensor
    later: torch.Tensor
    pair: torch.Tensor
    clues: torch.Tensor


class TagEmbedding(nn.Module):
    """Tags over time → unit rows of the joint space, 512 wide, that the text tower was distilled to.

    | dimensions | part |
    |---|---|
    | 0–255 | sentence: MiniLM's embedding of a caption, centered, its largest components |
    | 256–377, 378–499 | first and second event: a fixed code each, of a class or a finer class |
    | 500–502 | relation: single, overlap, sequence |
    | 503 | doubt: what the events' codes lose in length |
    | 504–511 | style: a fixed function of the sound, by which like sounds get differently worded captions |

    Captions have neither doubt nor style. All is fixed but a linear map that tells the relation.

    Args:
        num_tags: C, sound classes.
        num_fine: F, finer classes that captions have words for.
        silence_index: which class is silence.
        alone_weight: share of the pair tagger in the probabilities of a single event.
        window_weight: share of the windows in the choice of a second event.
        pair_threshold: probability of several events above which two are named.
    """

    def __init__(
        self,
        num_tags: int,
        num_fine: int,
        silence_index: int,
        alone_weight: float = 0.3,
        window_weight: float = 0.8,
        pair_threshold: float = 0.7,
    ):
        super().__init__()
        self.register_buffer("sentences", torch.zeros(num_tags, SENTENCE))  # mean sentence of a class's captions
        self.register_buffer("codes", torch.zeros(num_tags, EVENT))
        self.register_buffer("fine_codes", torch.zeros(num_fine, EVENT))
        self.register_buffer("fine_class", torch.zeros(num_fine, dtype=torch.long))  # the class of a finer class
        self.register_buffer("planes", torch.zeros(1024, STYLE))
        kinds = len(RELATIONS) + 1  # and silence
        self.relation = nn.Linear(RELATION_CLUES, kinds)
        self.silence_index = silence_index
        self.alone_weight, self.window_weight, self.pair_threshold = alone_weight, window_weight, pair_threshold

    def decide(
        self,
        clip: torch.Tensor,
        windows: torch.Tensor,
        loudness: torch.Tensor,
        alone: torch.Tensor,
        other_of: Callable[[torch.Tensor], torch.Tensor],
    ) -> HeardEvents:
        """The best single event and the best pair.

        Args:
            clip: (B, C) probabilities of the whole clip.
            windows: (B, 12, C) probabilities of its windows.
            loudness: (B, 12), of the windows.
            alone: (B, C) the pair tagger's probabilities given nothing.
            other_of: candidates (B, K) → log-probabilities (B, K, C + 1) of the other event, or none.
        """
        logs = (1 - self.alone_weight) * _log(clip, 1e-6) + self.alone_weight * _log(alone, 1e-6)
        tags = logs.softmax(-1)
        best = windows.amax(1)
        value, candidates = (tags.sqrt() * best.sqrt()).topk(CANDIDATES, 1)
        other = other_of(candidates)
        total = (1 - self.window_weight) * other[..., :-1] + self.window_weight * _log(best, 1e-4)[:, None]
        total = total.scatter(2, candidates[..., None], -torch.inf) + _log(value, 1e-6)[..., None]
        flat = total.flatten(1)
        chosen = flat.argmax(1)
        one = candidates.gather(1, (chosen // total.shape[2])[:, None])[:, 0]
        two = chosen % total.shape[2]
        pair = flat.softmax(1).amax(1)
        halves = [_weighted_mean(windows, loudness, half) for half in (FIRST_HALF, SECOND_HALF)]
        lead = halves[0] - halves[1]
        swap = _of(lead, two) > _of(lead, one)
        earlier, later = torch.where(swap, two, one), torch.where(swap, one, two)
        none = other[..., -1].exp()
        clues = torch.cat([_clues(clip, windows, loudness, halves), none[:, :2]], 1)
        return HeardEvents(tags, one, two, earlier, later, pair, clues)

    def forward(
        self, heard: HeardEvents, fine: torch.Tensor, pooled: torch.Tensor, silent: torch.Tensor
    ) -> torch.Tensor:
        """Events → embeddings.

        Args:
            heard: of B clips.
            fine: (B, F) probabilities of finer classes.
            pooled: (B, 1024) of `SoundTagger.normalized`.
            silent: (B,) bool, rows that are silence whatever was heard.

        Returns:
            (B, 512) unit rows.
        """
        relation = self.relation(heard.clues).softmax(-1)[:, : len(RELATIONS)]
        relation = relation / relation.sum(1, keepdim=True)
        several = (1 - relation[:, 0]) > self.pair_threshold
        sequence = several & (relation[:, 2] > relation[:, 1])
        several = several & ~silent
        first = torch.where(sequence, heard.earlier, heard.one)
        first = torch.where(several, first, heard.tags.argmax(1))
        first = torch.where(silent, self.silence_index, first)
        second = torch.where(sequence, heard.later, heard.two)
        sure = torch.where(several, heard.pair * (1 - relation[:, 0]), heard.tags.amax(1) * relation[:, 0])
        certainty = torch.where(silent, 1.0, sure).clamp(LEAST_CERTAINTY, 1).sqrt()[:, None]
        both = torch.cat([self._code(first, fine), several[:, None] * self._code(second, fine)], 1)
        events = both * ENERGY["event"] ** 0.5
        doubt = events.norm(dim=1, keepdim=True) * (1 - certainty.square()).clamp_min(0).sqrt()
        parts = [
            ENERGY["sentence"] ** 0.5 * self._sentence(heard.tags, first, second, several, silent),
            events * certainty,
            ENERGY["relation"] ** 0.5 * F.normalize(_said_relation(relation, several, sequence, silent), dim=-1),
            doubt,
            (ENERGY["style"] / STYLE) ** 0.5 * torch.where(torch.sin(4 * (pooled @ self.planes)) > 0, 1.0, -1.0),
        ]
        return F.normalize(torch.cat(parts, 1), dim=-1)

    def _code(self, tag: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """(B, 122) of a tag, or of its likeliest finer class where that outweighs all its others together."""
        own = fine * (self.fine_class[None] == tag[:, None])
        if not own.shape[1]:
            return self.codes[tag]
        share, which = (own / own.sum(1, keepdim=True).clamp_min(1e-9)).max(1)
        known = (share > 0.5) & (own.sum(1) > 0)
        return torch.where(known[:, None], self.fine_codes[which], self.codes[tag])

    def _sentence(self, tags, first, second, several, silent) -> torch.Tensor:
        """(B, 256): of the decided events, and of all that is likely."""
        squares = tags.square()
        soft = F.normalize(squares / squares.sum(1, keepdim=True) @ self.sentences, dim=-1)
        hard = F.one_hot(first, tags.shape[1]) + several[:, None] * F.one_hot(second, tags.shape[1])
        weight = torch.where(silent[:, None], 0.0, SOFT_SENTENCE).to(tags)
        return F.normalize(weight * soft + F.normalize(hard.to(tags) @ self.sentences, dim=-1), dim=-1)


def _said_relation(relation, several, sequence, silent) -> torch.Tensor:
    """(B, 3): the probabilities where they agree with what was decided, and the decision where they do not."""
    single = F.one_hot(torch.zeros_like(silent, dtype=torch.long), len(RELATIONS)).to(relation)
    kinds = torch.where(silent[:, None], single, relation)
    decided = torch.where(several, torch.where(sequence, 2, 1), 0)
    agree = several[:, None] == (kinds.argmax(1, keepdim=True) > 0)
    return torch.where(agree, kinds, F.one_hot(decided, len(RELATIONS)).to(kinds))


def _clues(clip: torch.Tensor, windows: torch.Tensor, loudness: torch.Tensor, halves: list) -> torch.Tensor:
    """(B, 27): how peaked the probabilities are, how alike the halves, how loud the windows."""
    weight = loudness / loudness.sum(1, keepdim=True).clamp_min(1e-6)
    mean = (windows * weight[..., None]).sum(1)
    top = [p.topk(4, -1).values for p in (clip, mean, windows.amax(1), *halves)]
    alike = [F.cosine_similarity(halves[0], halves[1], dim=-1), F.cosine_similarity(clip, mean, dim=-1)]
    entropy = [_entropy(clip), _entropy(mean)]
    spread = entropy[1] - (_entropy(windows) * weight).sum(1)
    level = [10 * loudness.mean(1), 10 * loudness.amax(1)]
    return torch.cat([*top, torch.stack([*alike, *entropy, spread, *level], 1)], 1)


def _weighted_mean(windows: torch.Tensor, loudness: torch.Tensor, some: slice) -> torch.Tensor:
    """(B, W, C) and (B, W) → (B, C): mean of some windows, the louder the weightier."""
    weight = loudness[:, some] / loudness[:, some].sum(1, keepdim=True).clamp_min(1e-6)
    return (windows[:, some] * weight[..., None]).sum(1)


def _of(rows: torch.Tensor, tag: torch.Tensor) -> torch.Tensor:
    """(B, C), (B,) → (B,)."""
    return rows.gather(1, tag[:, None])[:, 0]


def _log(probabilities: torch.Tensor, least: float) -> torch.Tensor:
    return probabilities.clamp_min(least).log()


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """(…, C) → (…)."""
    return -(probabilities * _log(probabilities, 1e-9)).sum(-1)
