"""What the first caption need not load: of the libraries, and of this package, only what captioning takes."""

import subprocess
import sys
from pathlib import Path

import pytest

SOUND = Path(__file__).resolve().parents[2] / "examples" / "sounds" / "bell.ogg"
PROGRAM = """
import sys
from diffusion_link_hf import AudioCaptionPipeline
pipe = AudioCaptionPipeline.from_pretrained("tiny")
assert pipe(sys.argv[1]).captions[0]
print(*sys.modules)
"""
# Dependencies, extras and their own that training, data sets, scores and figures use. Not scipy, sympy and peft, nor
# accelerate: diffusers and transformers import these themselves.
FOREIGN = {"datasets", "pyarrow", "pandas", "evaluate", "pycocoevalcap", "sentence_transformers", "sklearn", "umap"}
FOREIGN |= {"matplotlib", "numba", "librosa", "bitsandbytes", "tensorboard", "torchvision", "torchaudio"}
OWN = {"training", "data", "embeddings", "metrics", "analysis", "reports", "experiments", "commands", "hub"}


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Names of the modules that are there after a first caption, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(SOUND)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_captions_load_no_library_that_they_do_not_use(loaded):
    assert {"torch", "transformers", "diffusers", "soundfile"} <= loaded
    assert not FOREIGN & loaded


def test_captions_load_one_pipeline_of_diffusers_and_no_other_model_of_ours(loaded):
    pipelines = {name.split(".")[2] for name in loaded if name.startswith("diffusers.pipelines.")}
    assert pipelines == {"pipeline_utils", "pipeline_loading_utils"}
    bridges = {name.split(".")[2] for name in loaded if name.startswith("diffusion_link_hf.bridges.")}
    assert bridges == {"base", "centering", "readouts", "sampling"}


def test_captions_load_no_part_of_the_package_that_trains_or_measures(loaded):
    own = {name.split(".")[1] for name in loaded if name.startswith("diffusion_link_hf.")}
    assert {"audio", "models", "pipelines"} <= own
    assert not OWN & own
