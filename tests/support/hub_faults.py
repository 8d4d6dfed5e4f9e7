"""Faults of the test server: which request goes wrong, and how."""

import hashlib
from collections import Counter

# What a fault does to a request: an error status; a rate limit; no answer at all; half of the body; a body in small
# pieces with pauses; an action that is carried out, but whose answer gets lost.
FAULTS = ("error", "rate", "drop", "truncate", "slow", "lost")
# Faults that are an error status; "forbidden" is what a token without the right gets, and never random.
STATUSES = {"error": 500, "rate": 429, "forbidden": 403}


class ScriptedFaults:
    """The faults of a list for requests whose "METHOD path" contains a text: one per request, then none."""

    def __init__(self, **faults: list[str]):
        self.pending = {text: list(kinds) for text, kinds in faults.items()}

    @classmethod
    def on(cls, text: str, *kinds: str) -> "ScriptedFaults":
        return cls(**{text: list(kinds)})

    def __call__(self, request: str) -> str | None:
        for text, kinds in self.pending.items():
            if text in request and kinds:
                return kinds.pop(0)
        return None


class RandomFaults:
    """A fault for a share of all requests, drawn from (seed, request, how often it came): independent of threads."""

    def __init__(self, seed: int, probability: float):
        self.seed, self.probability, self.count = seed, probability, Counter()
        self.drawn: Counter[str] = Counter()

    def __call__(self, request: str) -> str | None:
        self.count[request] += 1
        digest = hashlib.sha256(f"{self.seed} {request} {self.count[request]}".encode()).digest()
        if int.from_bytes(digest[:4]) / 2**32 >= self.probability:
            return None
        kind = FAULTS[digest[4] % len(FAULTS)]
        self.drawn[kind] += 1
        return kind
