"""How long one waits for the import, the help and the first caption, in fresh processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from harness import SOUNDS, Row, Settings, interleave

IMPORT, HELP, CAPTION = 0.3, 0.5, 3.0  # seconds; the last beyond `import torch`
IMPORTS = {
    "ours": "import diffusion_link_hf",
    "torch": "import torch",
    "libraries": "import transformers, diffusers, peft; transformers.ClapModel, transformers.LlamaForCausalLM, "
    "diffusers.DiffusionPipeline, diffusers.DDIMScheduler, peft.PeftModel",
    # What of the libraries the embedded pipeline is built of.
    "needed": "from transformers import ClapModel, LlamaForCausalLM; "
    "from diffusers import DiffusionPipeline, DDIMScheduler, ModelMixin",
}
# Where the seconds to the first caption go.
STAGES = """
import json, time
begun, marks = time.perf_counter(), {}
def mark(name):
    global begun
    marks[name], begun = time.perf_counter() - begun, time.perf_counter()
import torch; mark("torch")
torch.set_num_threads(int(__import__("sys").argv[2]))
from diffusion_link_hf import AudioCaptionPipeline; mark("libraries")
pipe = AudioCaptionPipeline.from_pretrained("tiny"); mark("load")
pipe.set_progress_bar_config(disable=True)
pipe(__import__("sys").argv[1]); mark("caption")
print(json.dumps(marks))
"""


def rows(settings: Settings) -> Iterator[Row]:
    if settings.device == "cuda":
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    times, repeats = interleave(
        {
            **{name: _process(environment, "-c", program) for name, program in IMPORTS.items()},
            "help": _process(environment, "-m", "diffusion_link_hf.cli", "--help"),
            "python": _process(environment, "-c", "pass"),
            "caption": _process(environment, "-c", STAGES, str(_sound()), str(settings.threads)),
        },
        settings,
    )

    def row(name: str, ours: float, limit: float, floor: float, note: str, more=None) -> Row:
        wanted = f"≤ {limit:.2f} s"
        peer = times["libraries"]
        return Row("start_up", name, ours, peer, floor, wanted, ours <= limit, note, settings.threads, repeats, more)

    bare = "floor: Python itself; peer: import transformers, diffusers, peft"
    yield row("import diffusion_link_hf", times["ours"], IMPORT, times["python"], bare)
    yield row("diffusion-link --help", times["help"], HELP, times["python"], bare)
    stages = _stages(environment, settings)
    note = (
        f"limit: import torch ({times['torch']:.2f} s) + {CAPTION:g} s; floor: importing ClapModel, LlamaForCausalLM, "
        f"DiffusionPipeline and DDIMScheduler; peer imports all three libraries and captions nothing; in one process: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.items())
    )
    yield row("first caption with tiny", times["caption"], times["torch"] + CAPTION, times["needed"], note, stages)


def _sound():
    return SOUNDS / "bell.ogg"


def _process(environment: dict[str, str], *arguments: str) -> Callable[[], None]:
    """A call that runs Python in a process of its own, to its end."""

    def run() -> None:
        subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)

    return run


def _stages(environment: dict[str, str], settings: Settings) -> dict[str, float]:
    """Seconds of each stage up to the first caption, in one process."""
    command = [sys.executable, "-c", STAGES, str(_sound()), str(settings.threads)]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - begun
    stages = json.loads(done.stdout.splitlines()[-1])
    return {**stages, "whole process": whole}
