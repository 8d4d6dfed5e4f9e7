"""Times a cold start to the first caption, in fresh processes: where the seconds go, medians of several runs."""

import argparse
import json
import platform
import statistics
import subprocess
import sys

PROGRAM = """
import json, sys, time
begun = time.perf_counter()
marks = {}
def mark(name):
    global begun
    marks[name], begun = time.perf_counter() - begun, time.perf_counter()
import diffusion_link_hf; mark("import diffusion_link_hf")
import torch; torch.set_num_threads(int(sys.argv[2])); mark("import torch")
from diffusion_link_hf import AudioCaptionPipeline; mark("import transformers, diffusers and the pipeline")
pipe = AudioCaptionPipeline.from_pretrained("tiny"); mark("load tiny")
pipe.set_progress_bar_config(disable=True)
pipe(sys.argv[1]); mark("first caption")
pipe(sys.argv[1]); mark("second caption")
print(json.dumps(marks))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sound", default="examples/sounds/bell.ogg")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rows: dict[str, list[float]] = {}
    for _ in range(args.runs):
        command = [sys.executable, "-c", PROGRAM, args.sound, str(args.threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        for name, seconds in json.loads(run.stdout.splitlines()[-1]).items():
            rows.setdefault(name, []).append(seconds)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, {args.threads} threads, median of {args.runs} runs"
    )
    total = 0.0
    for name, seconds in rows.items():
        median = statistics.median(seconds)
        total += median if name != "second caption" else 0
        print(f"{name:50} {median:6.2f} s")
    print(f"{'cold start to the first caption':50} {total:6.2f} s")


if __name__ == "__main__":
    main()
