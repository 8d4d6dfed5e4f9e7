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


def test_what_was_made_inside_is_old_and_still_collected():
    with collector_paused():
        node = Node()
        assert any(found is node for found in gc.get_objects(generation=0))
    assert any(found is node for found in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None


def test_what_the_caller_froze_stays_frozen():
    kept = Node()
    gc.freeze()
    with collector_paused():
        made = Node()
    assert not any(found is kept for found in gc.get_objects())  # where frozen objects are not listed
    assert any(found is made for found in gc.get_objects())


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_the_modules_of_public_names_are_imported_without_the_collector():
    program = """
import gc, sys, diffusion_link_hf
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("numpy"):
            print(gc.isenabled())
sys.meta_path.insert(0, Watch())
diffusion_link_hf.load_audio
print(gc.isenabled())
"""
    *during, after = run(program).split()
    assert len(during) > 10
    assert set(during) == {"False"}
    assert after == "True"


@pytest.mark.parametrize(("call", "frozen"), [("main()", True), ("main(['--version'])", False)])
def test_only_a_process_of_the_command_leaves_nothing_to_collect_at_its_end(call, frozen):
    program = f"""
import atexit, gc, sys
from diffusion_link_hf.cli import main
atexit.register(lambda: print("frozen:", gc.get_freeze_count() > 1000))  # what is registered first is called last
sys.argv = ["diffusion-link", "--version"]
{call}
"""
    assert run(program).splitlines()[-1] == f"frozen: {frozen}"
