"""Sounds that nobody made: any one or two events, placed in the joint space with doubt and style, and their captions.

The decoder learns from these what it will meet behind the ears, without a recording.
"""

import json
from collections import defaultdict
from pathlib import Path

import joint_space
import numpy as np
import text_data
import torch
from captions import SceneEvent, Style, describe, fine_or_none

SHARES = {"single": 0.24, "overlap": 0.38, "sequence": 0.38}
HUMAN_FRAME = 6  # half of the styles with this frame say it as people do
FINE_SHARE = 0.6
LEAST_CERTAINTY = 0.04


def human_captions(train: text_data.Captions) -> dict[tuple, list[str]]:
    """(events, relation) → human captions that name exactly these; the events of a sequence in order, others sorted."""
    found = defaultdict(list)
    for text, events, relation, human in zip(train.texts, train.events, train.relations, train.is_human, strict=True):
        if human and events:
            labels = tuple(label for label, _ in events)
            found[labels if relation == "sequence" else tuple(sorted(labels)), relation].append(text)
    return found


class ImaginedSounds:
    """Draws batches of embeddings (B, 512) and captions."""

    def __init__(self, train: text_data.Captions):
        classes = json.loads(Path("classes.json").read_text())
        self.names = list(classes)
        self.sentences = joint_space.class_sentences(self.names)
        self.fine = {name: [f for f in row["fine"] if fine_or_none(name, f)] for name, row in classes.items()}
        groups = [0.25 if name == "silence" else max(row["groups"], 1) ** 0.25 for name, row in classes.items()]
        self.weight, self.people = np.array(groups) / sum(groups), human_captions(train)

    def batch(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
        """(count, 512) unit rows, and what is to be said of them."""
        sentence = np.zeros((count, joint_space.SENTENCE))
        codes = np.zeros((2, count, joint_space.EVENT))
        kinds = np.zeros((count, len(joint_space.RELATIONS)))
        style, captions = rng.integers(256, size=count), []
        for k in range(count):
            events, relation = self._events(rng)
            for place, (label, fine) in enumerate(events):
                codes[place, k] = joint_space.event_code(label, fine)
            own = [self.names.index(label) for label, _ in events]
            # Sounds are also a little like others.
            others = rng.dirichlet(np.ones(4) * 0.6) @ self.sentences[rng.integers(len(self.names), size=4)]
            sentence[k] = rng.dirichlet(np.ones(len(own)) * 4) @ self.sentences[own] + rng.uniform(0, 0.8) * others
            unsure = rng.uniform(0, 0.3)
            kinds[k] = unsure / len(joint_space.RELATIONS)
            kinds[k, joint_space.RELATIONS.index(relation)] += 1 - unsure
            captions.append(self._caption(events, relation, int(style[k])))
        certainty = np.sqrt(rng.uniform(LEAST_CERTAINTY, 1, count))
        return torch.from_numpy(joint_space.sounds(sentence, codes[0], codes[1], kinds, certainty, style)), captions

    def _events(self, rng: np.random.Generator) -> tuple[list[tuple[str, str | None]], str]:
        """Events as (class, finer class or None), and their relation."""
        relation = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        labels = [self.names[i] for i in rng.choice(len(self.names), 2, replace=False, p=self.weight)]
        if relation == "single" or "silence" in labels:
            relation, labels = "single", labels[:1]
        fine = [str(rng.choice(self.fine[x])) if self.fine[x] and rng.random() < FINE_SHARE else None for x in labels]
        return list(zip(labels, fine, strict=True)), relation

    def _caption(self, events: list[tuple[str, str | None]], relation: str, style: int) -> str:
        labels = tuple(label for label, _ in events)
        own = self.people.get((labels if relation == "sequence" else tuple(sorted(labels)), relation))
        if own and style >> 5 == HUMAN_FRAME and style & 1:
            return own[style % len(own)]
        return describe([SceneEvent(*event) for event in events], relation, Style(style))
