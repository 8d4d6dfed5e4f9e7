"""How long one waits for the import, the help and the first caption, in fresh processes."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

from harness import SOUNDS, DisagreementError, Row, Settings, interleave

IMPORT, HELP, CAPTION = 0.3, 0.5, 3.0  # seconds; the last beyond `import torch`
SOUND = SOUNDS / "bell.ogg"
# The modules of the libraries that the embedded pipeline is built of: whatever else is loaded, they import themselves.
NEEDED = (
    "import torch, transformers.models.clap.modeling_clap, transformers.models.llama.modeling_llama, "
    "diffusers.pipelines.pipeline_utils, diffusers.schedulers.scheduling_ddim, diffusers.models.modeling_utils"
)
READY = "; print('ready', flush=True)"
PROGRAMS = {
    "python": "pass" + READY,
    "ours": "import diffusion_link_hf" + READY,
    "torch": "import torch" + READY,
    "libraries": "import transformers, diffusers, peft; transformers.ClapModel, transformers.LlamaForCausalLM, "
    "diffusers.DiffusionPipeline, diffusers.DDIMScheduler, peft.PeftModel" + READY,
    # Without the garbage collector, which no import needs: the least that the libraries take.
    "needed": "import gc; gc.disable(); " + NEEDED + READY,
    "caption": f"""
from diffusion_link_hf import AudioCaptionPipeline
pipe = AudioCaptionPipeline.from_pretrained("tiny")
pipe.set_progress_bar_config(disable=True)
print(pipe({str(SOUND)!r}).captions[0], flush=True)
""",
}
# Where the seconds to the first caption go.
STAGES = f"""
import json, time
begun, marks = time.perf_counter(), {{}}
def mark(name):
    global begun
    marks[name], begun = time.perf_counter() - begun, time.perf_counter()
from diffusion_link_hf import AudioCaptionPipeline; mark("import")
pipe = AudioCaptionPipeline.from_pretrained("tiny"); mark("load")
pipe.set_progress_bar_config(disable=True)
pipe({str(SOUND)!r}); mark("caption")
print(json.dumps(marks), flush=True)
"""
LARGEST = 6  # importers that the note names


def rows(settings: Settings) -> Iterator[Row]:
    if settings.device == "cuda":
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    calls = {name: _first_line(environment, "-c", program) for name, program in PROGRAMS.items()}
    calls["help"] = _first_line(environment, "-m", "diffusion_link_hf.cli", "--help")
    calls["command"] = _first_line(environment, "-m", "diffusion_link_hf.cli", "caption", str(SOUND))
    caption, printed = calls["caption"](), calls["command"]()
    if not caption or not printed.endswith(caption):
        raise DisagreementError(f"first caption: the pipeline says {caption!r}, the command {printed!r}")
    times, repeats = interleave(calls, settings)

    def row(name: str, ours: str, limit: float, floor: str, note: str, more: dict[str, float] | None = None) -> Row:
        return Row(
            "start_up",
            name,
            times[ours],
            times["libraries"],
            times[floor],
            f"≤ {limit:.2f} s",
            times[ours] <= limit,
            f"until the process writes its first line; peer: import transformers, diffusers, peft; {note}",
            settings.threads,
            repeats,
            more,
        )

    yield row("import diffusion_link_hf", "ours", IMPORT, "python", "floor: Python itself")
    yield row("diffusion-link --help", "help", HELP, "python", "floor: Python itself")
    stages = json.loads(_first_line(environment, "-c", STAGES)())
    shares = import_shares(environment)
    limit = times["torch"] + CAPTION
    note = (
        f"limit: import torch ({times['torch']:.2f} s) + {CAPTION:g} s; floor: importing the modules of ClapModel, "
        f"LlamaForCausalLM, DiffusionPipeline and DDIMScheduler without garbage collection, of which "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in list(shares.items())[:LARGEST])
        + " (each library's own modules); in one process: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.items())
    )
    yield row("first caption with tiny", "caption", limit, "needed", note, {**stages, **shares})
    command = "as above, by the command"
    yield row("diffusion-link caption", "command", limit, "needed", command)


def _first_line(environment: dict[str, str], *arguments: str) -> Callable[[], str]:
    """A call that runs Python in a process of its own until it writes a line, which is returned."""

    def run() -> str:
        with subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        ) as process:
            line = process.stdout.readline()
            process.kill()  # the wait is over: taking a million objects apart at exit is no part of it
        if not line:
            raise RuntimeError(f"{' '.join(arguments)} wrote nothing and ended with {process.returncode}")
        return line.strip()

    return run


def import_shares(environment: dict[str, str]) -> dict[str, float]:
    """Seconds that the modules of each top-level package need for themselves while `NEEDED` is imported, most first."""
    command = [sys.executable, "-X", "importtime", "-c", "import gc; gc.disable(); " + NEEDED]
    report = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    return own_seconds(report)


def own_seconds(report: str) -> dict[str, float]:
    """The first column of what ``-X importtime`` writes (µs without a module's own imports), summed by package."""
    seconds: Counter[str] = Counter()
    for line in report.splitlines():
        own, _, module = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():  # the header has words there
            seconds[module.rpartition("|")[2].strip().split(".")[0]] += int(own) / 1e6
    return dict(seconds.most_common())
