"""Importing large libraries without the garbage collector, which would walk through them again and again in vain."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection inside; what was made so far counts as old afterwards, as if it had outlived two collections.

    torch, transformers and diffusers make more than a million objects that live as long as the process. Every full
    collection walks through all of them, and their import sets off many. Afterwards the collector is on or off as it
    was, and objects that the caller froze (`gc.freeze`) are still frozen.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # thawing could not tell these objects from the caller's
            gc.freeze()
            gc.unfreeze()  # into the oldest generation, where a collection seldom looks
        if enabled:
            gc.enable()
