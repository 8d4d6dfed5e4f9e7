"""The test of a trained captioner: captions of a data set, all metrics, a report, and the figures for its card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from .. import __version__
from ..data.captioned_audio import CaptionedAudioData, open_data
from ..errors import InputError, listed
from ..files import make_writable
from ..hub.card_figures import write_figures
from ..hub.results import add_result, pipeline_fingerprint, read_results
from ..loading import DEFAULT_PIPELINE, resolve_folder
from ..pipelines.audio_caption import AudioCaptionPipeline
from ..tensors import check_device
from ..training.recipes import RECIPE_FILE, RECIPES, translate_recipe
from .data_captioning import CaptioningOptions, caption_data, shard_count
from .progress import say, show_bar
from .scored_captions import Scoring, data_set_result, report_captions
from .written_captions import WrittenCaptions

FORMAT = "diffusion-link test captions 1"
BATCHES = "batches"  # folder of the captions as they are made


def evaluate_pipeline(
    model: str | Path,
    data: str | Path | CaptionedAudioData,
    output: str | Path,
    *,
    split: str | None = None,
    audio: str | Path | None = None,
    limit: int | None = None,
    data_revision: str | None = None,
    data_config: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    loading: Mapping[str, Any] | None = None,
    num_beams: int = 1,
    max_new_tokens: int = 40,
    do_sample: bool = False,
    generation_kwargs: Mapping[str, Any] | None = None,
    rerank: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    metrics: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    sbert_model: str | Path | None = None,
    fluency_model: str | Path | None = None,
    resamples: int = 1000,
    card: bool = True,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Caption a data set with a pipeline, score the captions, and write a report beside the paper's Tables 3 and 4.

    Writes ``report.md``, ``results.json``, and ``captions.jsonl`` with the scores of every caption. A recording longer
    than ten seconds gets one caption, of the mean of its windows, as in training. One that cannot be read is left out
    and listed.

    Captions are kept batch by batch in ``output/batches``: called again with equal arguments, the function goes on
    where it stopped, with the same report as if it had not. In several processes (``accelerate launch``) each captions
    its share, and the last one writes the report.

    Args:
        model: pipeline, a folder or a Hub id.
        data: captioned recordings, as `open_data` takes them, or what that returned.
        output: folder of the report, created if absent.
        split, audio, limit, data_revision, data_config: of the data, as `open_data`; only where ``data`` is a path or a
            Hub id.
        revision: branch, tag or commit of the pipeline on the Hub.
        token: for the Hub, by default the one that is logged in.
        dtype: of the pipeline's weights.
        device: "cpu", "cuda" …; by default what Accelerate chooses.
        loading: further arguments of `AudioCaptionPipeline.from_pretrained`.
        num_beams: 1 for greedy decoding.
        max_new_tokens: of a caption.
        do_sample: whether to sample.
        generation_kwargs: further fields of `transformers.GenerationConfig`, such as ``{"temperature": 0.7}``.
        rerank: how many captions to write of each recording (as many beams, or samples), of which the one is taken
            whose CLAP embedding is nearest to the recording's (CLAP-Refine, arXiv 2410.09503). 1 for no choice.
        seed: of sampling and of the bootstrap.
        batch_size: recordings captioned at once.
        num_workers: processes that decode and resample audio; 0 does it in this one.
        metrics: names of scores. By default all; then one that cannot be had is listed in the report with the reason,
            and otherwise it is an error.
        skip: names of scores to leave out.
        sbert_model, fluency_model: of the metrics, as `score`.
        resamples: of the bootstrap over recordings.
        card: whether a pipeline in a folder also gets the figures: in its test_results.json, from where `push` takes
            them, and in its README.md.
        progress: whether to report progress on standard error.

    Returns:
        What results.json holds; see `pipeline_document`. None where other processes are still at work.

    Raises:
        DiffusionLinkError: a pipeline or data that cannot be used, an unknown or missing metric, an option that the
            decoder refuses, or a folder with captions of other arguments; all of that before anything is captioned. Or
            a named metric that fails; the captions are kept.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np, soundfile
        >>> from diffusion_link_hf import evaluate_pipeline
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("rain", "wind"):
        ...     soundfile.write(folder / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 48_000), 48_000)
        >>> _ = (folder / "metadata.csv").write_text("file_name,caption\\nrain.wav,Rain falls\\nwind.wav,Wind blows\\n")
        >>> quick = {"metrics": ["rouge_l"], "device": "cpu", "max_new_tokens": 8}  # the metrics need Java
        >>> document = evaluate_pipeline("tiny", folder, folder / "report", **quick)
        >>> document["data"]["recordings"], list(document["figures"])
        (2, ['rouge_l'])
    """
    state = PartialState(cpu=str(device) == "cpu")
    main = state.is_main_process
    options = CaptioningOptions(
        num_beams, max_new_tokens, do_sample, generation_kwargs or {}, rerank, seed, batch_size, num_workers
    )
    models = {"sbert_model": sbert_model, "fluency_model": fluency_model, "device": str(device or state.device)}
    models = {name: value for name, value in models.items() if value is not None}
    scoring = Scoring.chosen(metrics, skip, models, resamples, seed)
    make_writable(Path(output))
    folder = resolve_folder(model, revision, token=token)
    is_local = Path(model).is_dir() and str(model) != DEFAULT_PIPELINE
    if card and is_local:
        make_writable(folder)
    recordings = _open(data, split, audio, limit, data_revision, data_config, token)
    pipeline = AudioCaptionPipeline.from_pretrained(folder, dtype=dtype, token=token, **(loading or {}))
    if not {"device_map", "quantization_config"} & set(loading or {}):
        pipeline.to(check_device(device if device is not None else state.device))
    _check_pipeline(pipeline, options)
    fingerprint, shards = pipeline_fingerprint(folder), shard_count(recordings, options)
    written = WrittenCaptions(
        Path(output) / BATCHES,
        {
            "format": FORMAT,
            "version": __version__,
            "pipeline": fingerprint,
            "data": recordings.name,
            "data_fingerprint": recordings.fingerprint,
            "split": recordings.split,
            "shards": shards,
            **options.conditions,
            "dtype": str(dtype),
            "device": pipeline.clap.device.type,
            "loading": {name: str(value) for name, value in (loading or {}).items()},
        },
    )
    process = (state.process_index, state.num_processes)
    caption_data(pipeline, recordings, written, options, shards, process, main and show_bar(progress))
    captioned = written.read(shards)
    if captioned is None:
        return None
    say("scoring", progress)
    named_split = split if isinstance(data, (str, Path)) else recordings.split
    about = {
        "pipeline": {
            "name": _pipeline_name(model, folder),
            "fingerprint": fingerprint,
            "link": None if pipeline.link is None else type(pipeline.link).__name__,
            "mode": _training_mode(folder),
        },
        "data": {"name": recordings.name, "split": named_split, "fingerprint": recordings.fingerprint, "limit": limit},
        "settings": {"generation": options.described},
    }
    document = report_captions(captioned, about, scoring, Path(output))
    if card and is_local:
        add_result(folder, data_set_result(document))
        write_figures(folder, read_results(folder))
    return document


def _open(
    data: str | Path | CaptionedAudioData,
    split: str | None,
    audio: str | Path | None,
    limit: int | None,
    revision: str | None,
    config: str | None,
    token: str | bool | None,
) -> CaptionedAudioData:
    given = {"split": split, "audio": audio, "limit": limit, "data_revision": revision, "data_config": config}
    if isinstance(data, (str, Path)):
        return open_data(data, split=split, audio=audio, revision=revision, token=token, limit=limit, config=config)
    if named := [name for name, value in given.items() if value is not None]:
        raise InputError(listed(named), "is given beside an opened data set", "Give it to open_data")
    return data


def _check_pipeline(pipeline: AudioCaptionPipeline, options: CaptioningOptions) -> None:
    """Refuses what would fail only after hours.

    Raises:
        InputError: options that the decoder refuses, or a CLAP that cannot read captions, though it is to choose one.
    """
    pipeline.decoder.generation_config(**options.generation)
    if options.rerank > 1 and pipeline.clap.tokenizer is None:
        raise InputError("rerank", f"is {options.rerank}, but the CLAP has no tokenizer", "Add tokenizer.json to it")


def _pipeline_name(model: str | Path, folder: Path) -> str:
    """The folder's name, or ``owner/name@commit`` of a Hub id; no path of this machine."""
    if Path(model).is_dir():
        return folder.resolve().name
    return f"{model}@{folder.name}" if folder.parent.name == "snapshots" else str(model)


def _training_mode(folder: Path) -> str | None:
    """How the decoder was trained, as far as a recipe in the folder says so."""
    for path in (folder / RECIPE_FILE, folder / RECIPES / "decoder.yaml", folder / "decoder.yaml"):
        if path.is_file():
            try:
                recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, yaml.YAMLError):
                continue
            if isinstance(recipe, dict) and recipe.get("stage") == "decoder":
                return translate_recipe(recipe).get("mode", "zeroshot")
    return None
