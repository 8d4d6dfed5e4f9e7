"""Pausing the garbage collector while libraries are imported: what it leaves behind, and who does it."""

import gc
import subprocess
import sys
import weakref

import pytest

from diffusion_link_hf.collector import collector_paused


class Node:
    """Of a reference cycle that only the collector can free."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_inside_and_as_before_afterwards(enabled):
    if not enabled:
        gc.disable()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(ImportError), collector_paused():
        raise ImportError("no such library")
    assert gc.isenabled() is enabled


def test_what_was_made_inside_is_still_collected():
    with collector_paused():
        node = Node()
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None


def test_what_the_caller_froze_stays_frozen():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collector_paused():
        pass
    assert gc.get_freeze_count() == frozen > 0


def test_public_names_are_imported_without_the_collector():
    program = """
import gc, sys, diffusion_link_hf
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("numpy"):
            assert not gc.isenabled()
sys.meta_path.insert(0, Watch())
diffusion_link_hf.load_audio
assert "numpy" in sys.modules and gc.isenabled()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
