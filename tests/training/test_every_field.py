"""Every field of the recipes acts: changing it changes the run in the way that the table says, or is refused.

What a field does exactly is tested elsewhere; here none is forgotten, and none is without effect.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import PreTrainedModel

from diffusion_link_hf.errors import DiffusionLinkError, RecipeError
from diffusion_link_hf.training.arguments import STAGES
from diffusion_link_hf.training.bridge import rows_device
from diffusion_link_hf.training.recipes import load_recipe
from diffusion_link_hf.training.train import train
from support.models import make_clap
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache, make_uneven_cache

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

BRIDGE = {
    "max_steps": 4,
    "batch_size": 16,
    "validate_every": 2,
    "checkpoint_every": 2,
    "log_every": 2,
    "lr_decay_every": 2,
    "model": {"width": 16, "time_embed_dim": 8, "add_noise": False, "num_inference_steps": 1},
    "report_to": "tensorboard",
}
DECODER = {"max_steps": 4, "warmup_steps": 1, "batch_size": 4, "validate_every": 2}
WEIGHTS, METRICS, FILES, CHECKPOINTS, LOGS = "weights", "metrics", "files", "checkpoints", "logs"  # of `observe`
REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class Change:
    """A field's other value, and what differs then: one of `observe`, or `REFUSED` with words of the message.

    Attributes:
        value: ``ROOM/`` in a text stands for the folder of `room`.
        beside: other fields, in both runs; the field itself has there its first value, if that is no default.
    """

    value: object
    differs: str
    words: str = ""
    beside: dict = dataclasses.field(default_factory=dict)


def change(value, differs, **beside):
    return Change(value, differs, beside=beside)


def refusal(value, words, **beside):
    return Change(value, REFUSED, words, beside)


SHARED = {
    "cache": change("ROOM/other", WEIGHTS),
    "seed": change(1, WEIGHTS),
    "batch_size": change(8, WEIGHTS),
    "gradient_accumulation_steps": refusal(32, "for 32 micro-batches"),
    "max_steps": change(3, WEIGHTS),
    "learning_rate": change(1e-2, WEIGHTS),
    "max_grad_norm": change(1e-7, WEIGHTS),
    "validation_fraction": change(0.4, WEIGHTS),
    "validation_cache": change("ROOM/other", METRICS, validation_fraction=0.0),
    "validate_every": change(1, LOGS),
    "checkpoint_every": change(1, CHECKPOINTS),
    "log_every": change(1, LOGS),
    "keep": change("best", METRICS, learning_rate=3.0, ema_decay=0.0, validate_every=1, max_steps=9),
    "keep_checkpoints": change(1, CHECKPOINTS),
    "init_from": change("ROOM/bridge", WEIGHTS),
    "mixed_precision": change("bf16", WEIGHTS),
    "report_to": change("none", LOGS),
    "project": change("mine", LOGS),
    "run_name": change("first", LOGS),
    "push_to_hub": refusal("me/x", "nothing here pushes"),  # what pushes is tested with a server, in tests/hub
    "push_every_checkpoint": refusal(True, "push_to_hub"),
    "hub_private": refusal(True, "push_to_hub"),
}
OF_BRIDGES = {
    "method": change("diffusion-link-shallow", WEIGHTS, max_train_timestep=None),
    "model": change({"width": 8, "time_embed_dim": 8}, WEIGHTS),
    "loss": change({"preset": "literal"}, WEIGHTS),
    "max_train_timestep": change(10, WEIGHTS),
    "lr_schedule": change("cosine", WEIGHTS),
    "lr_decay": change(0.5, WEIGHTS),
    "lr_decay_every": change(1, WEIGHTS),
    "ema_decay": change(0.1, WEIGHTS),
}
BY_EPOCHS = {"max_steps": 0, "warmup_steps": 0, "warmup_epochs": 0, "batch_size": 64}
OF_DECODERS = {
    "mode": change("zeroshot", WEIGHTS),
    "link": change("ROOM/bridge/link", WEIGHTS),
    "clap": change("ROOM/clap", FILES),
    "base_model": change("ROOM/other_base", WEIGHTS),
    "base_revision": refusal("main", "revision"),
    "init_from": change("ROOM/decoder", WEIGHTS),
    "instruction": change("a dog ", WEIGHTS),
    "projector": change({"num_prefix_tokens": 1}, WEIGHTS),
    "lora": change({"r": 2, "target_modules": ["q_proj"]}, WEIGHTS),
    "epochs": change(2, METRICS, epochs=1, **BY_EPOCHS),
    "warmup_epochs": change(1, WEIGHTS, epochs=1, **BY_EPOCHS),
    "warmup_steps": change(3, WEIGHTS),
    "weight_decay": change(0.5, WEIGHTS),
    "bucket_batches": change(1, WEIGHTS),
    "load_in_4bit": refusal(True, "load_in_4bit"),
    "base_dtype": change("bfloat16", WEIGHTS, weights_dtype="bfloat16"),
    "validate_metric": refusal("cider_d", "validation_fraction", validation_fraction=0.005),
    "patience": change(1, METRICS, learning_rate=1e-30, weight_decay=0.0, validate_every=1),
    "bridge_noise": change("fixed", WEIGHTS, link="ROOM/noisy/link"),
    "include_base": refusal(False, "include_base"),
    "weights_dtype": change("float16", WEIGHTS),
}
TABLES = {"bridge": SHARED | OF_BRIDGES, "decoder": OF_DECODERS}
# With a test of their own below.
APART = {"stage", "output", "resume", "torch_compile", "rows_on", "gradient_checkpointing", "validation_captions"}


def test_no_field_is_forgotten():
    known = {*SHARED, *OF_BRIDGES, *OF_DECODERS, *APART}
    assert {field.name for stage in STAGES.values() for field in dataclasses.fields(stage)} == known


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Data, models and earlier trainings."""
    room = tmp_path_factory.mktemp("room")
    make_uneven_cache().save(room / "cache")
    make_cache(n=120, seed=7).save(room / "other")
    for base in ("base", "other_base"):
        make_base(room / base)
    file = room / "other_base" / "model.safetensors"
    weights = load_file(file)
    save_file({name: 1.1 * value for name, value in weights.items()}, file, metadata={"format": "pt"})
    make_clap().save_pretrained(room / "clap")
    noisy = BRIDGE["model"] | {"add_noise": True, "num_inference_steps": 2}
    for name, changes in (("bridge", {"seed": 5}), ("noisy", {"model": noisy, "max_train_timestep": 300})):
        changes = BRIDGE | {"report_to": "none"} | changes
        train(bridge_arguments(room / "cache", room / name, **changes), progress=False)
    train(decoder_arguments(room / "cache", room / "base", room / "decoder", seed=5, **DECODER), progress=False)
    return room


def arguments(stage, room, output, **changes):
    changes = {n: v.replace("ROOM", str(room)) if isinstance(v, str) else v for n, v in changes.items()}
    if stage == "bridge":
        whole = bridge_arguments(room / "cache", output, **BRIDGE)
    else:
        whole = decoder_arguments(room / "cache", room / "base", output, **DECODER)
    return dataclasses.replace(whole, **changes)


def observe(args):
    """What a run leaves."""
    metrics = train(args, progress=False)
    output = Path(args.output)
    weights = b"".join(path.read_bytes() for path in sorted(output.rglob("*.safetensors")))
    logs = {}
    for path in output.rglob("events.out.tfevents*"):
        found = EventAccumulator(str(path)).Reload()
        for tag in found.Tags()["scalars"]:
            logs[f"{path.parent.relative_to(output)}/{tag}"] = [event.step for event in found.Scalars(tag)]
    return {
        WEIGHTS: hashlib.sha256(weights).hexdigest(),
        METRICS: metrics | {"seconds": None},
        FILES: sorted(str(path.relative_to(output)) for path in output.rglob("*.json")),
        CHECKPOINTS: sorted(path.name for path in (output / "checkpoints").iterdir()),
        LOGS: logs,
    }


@pytest.fixture(scope="module")
def observed(room, tmp_path_factory):
    """`observe` of a stage with fields, once per set of fields."""
    known = {}

    def look(stage, fields):
        key = json.dumps([stage, fields], sort_keys=True)
        if key not in known:
            known[key] = observe(arguments(stage, room, tmp_path_factory.mktemp("run"), **fields))
        return known[key]

    return look


@pytest.mark.parametrize(("stage", "field"), [(stage, field) for stage, table in TABLES.items() for field in table])
def test_a_field_acts(room, observed, stage, field, tmp_path):
    tried = TABLES[stage][field]
    if tried.differs == REFUSED:
        with pytest.raises(DiffusionLinkError, match=tried.words) as caught:
            train(arguments(stage, room, tmp_path, **{**tried.beside, field: tried.value}), progress=False)
        assert caught.value.remedy
        return
    before = observed(stage, tried.beside)[tried.differs]
    AcceleratorState._reset_state(reset_partial_state=True)
    after = observed(stage, {**tried.beside, field: tried.value})[tried.differs]
    assert after != before


def test_the_stage_says_which_fields_there_are(tmp_path):
    (tmp_path / "r.yaml").write_text("method: ridge\ncache: a\noutput: b\n")
    assert load_recipe(tmp_path / "r.yaml", ["stage=bridge"]).stage == "bridge"
    for stage in ("decoder", "link2"):
        with pytest.raises(RecipeError):
            load_recipe(tmp_path / "r.yaml", [f"stage={stage}"])


def test_output(room, tmp_path):
    for name in "ab":
        train(arguments("bridge", room, tmp_path / name), progress=False)
        assert (tmp_path / name / "metrics.json").is_file()


def test_resume(room, tmp_path):
    """Without it a checkpoint of another recipe is no hindrance, and is gone."""
    train(arguments("bridge", room, tmp_path, seed=3), progress=False)
    with pytest.raises(RecipeError, match="another recipe"):
        train(arguments("bridge", room, tmp_path), progress=False)
    train(arguments("bridge", room, tmp_path, resume=False, max_steps=1), progress=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_torch_compile(room, tmp_path, monkeypatch, stage):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *args, **options: compiled.append(module))
    for on in (False, True):
        train(arguments(stage, room, tmp_path / str(on), torch_compile=on), progress=False)
        assert len(compiled) == on


def test_rows_on(room, tmp_path):
    device = torch.device("meta")  # stands for an accelerator
    places = {
        on: rows_device(arguments("bridge", room, tmp_path, rows_on=on), device, None) for on in ("device", "host")
    }
    assert places == {"device": device, "host": torch.device("cpu")}


def test_gradient_checkpointing(room, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", lambda *args, **options: calls.append(args))
    for on in (False, True):
        train(arguments("decoder", room, tmp_path / str(on), gradient_checkpointing=on), progress=False)
        assert len(calls) == on


def test_validation_captions(room, tmp_path, monkeypatch):
    """CIDEr-D itself needs Java; here it counts its captions."""
    monkeypatch.setattr("diffusion_link_hf.training.decoder.check_validation", lambda *args: None)
    counting = lambda captions, *args: SimpleNamespace(corpus={"cider_d": len(captions)})  # noqa: E731
    monkeypatch.setattr("diffusion_link_hf.training.validation.score", counting)
    for count in (3, 5):
        recipe = arguments("decoder", room, tmp_path / str(count), validate_metric="cider_d", validation_captions=count)
        assert train(recipe, progress=False)["cider_d"] == count
