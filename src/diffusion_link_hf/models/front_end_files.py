"""The front end of a CLAP in a folder's JSON: every setting is followed, or refused before anything is loaded."""

import numbers
from pathlib import Path
from typing import Any

from transformers import ClapConfig, ClapFeatureExtractor

from ..audio import SAMPLING_RATE, WINDOW_SAMPLES, WINDOW_SECONDS
from ..errors import ModelFolderError
from ..loading import read_json
from .log_mel import ClapLogMel

FRONT_END_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"  # in which the processors of today's transformers keep the front end


def read_front_end(folder: Path, config: ClapConfig) -> ClapLogMel:
    """The log-mel that a folder describes.

    Args:
        config: of the model that is to hear through it.

    Raises:
        ModelFolderError: neither file is there, or a setting is damaged, or is one that the recordings or the model
            do not follow: another sampling rate than 48 kHz, another padding than ``repeatpad``, a ``max_length_s``
            other than 10, a ``truncation`` or a number of bands that is not the model's, or too many frames for it.
    """
    path, values = _front_end_values(folder)
    try:
        extractor = ClapFeatureExtractor.from_dict(values)
        for name in ("sampling_rate", "fft_window_size", "hop_length", "feature_size"):
            value = getattr(extractor, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}")
        for name in ("frequency_min", "frequency_max"):
            if not isinstance(getattr(extractor, name), numbers.Real):
                raise ValueError(f"{name} is {getattr(extractor, name)!r}")
        front_end = ClapLogMel.from_feature_extractor(extractor)
    except Exception as error:
        raise ModelFolderError(path, f"describes no front end ({error})", "See ClapFeatureExtractor") from error
    if front_end.sampling_rate != SAMPLING_RATE:
        raise ModelFolderError(
            path, f"says {front_end.sampling_rate} Hz", f"Recordings are read at {SAMPLING_RATE} Hz: use such a CLAP"
        )
    audio = config.audio_config
    for name, followed, why in (
        ("padding", "repeatpad", "short recordings are repeated as often as they fit, then padded"),
        ("padding_value", 0, "recordings are padded with zeros"),
        ("max_length_s", WINDOW_SECONDS, "recordings are cut into windows of ten seconds"),
        ("top_db", None, "no band is raised to a floor below the loudest"),
        ("truncation", "fusion" if audio.enable_fusion else "rand_trunc", "config.json describes such a model"),
        ("feature_size", audio.num_mel_bins, "the model of config.json has so many bands"),
    ):
        if getattr(extractor, name) != followed:
            raise ModelFolderError(
                path, f"says {name} = {getattr(extractor, name)!r}, but {why}", f"Use a CLAP with {name} = {followed!r}"
            )
    frames, most = WINDOW_SAMPLES // front_end.hop_length + 1, audio.spec_size**2 // audio.num_mel_bins
    if frames > most:
        problem = f"says hop_length = {front_end.hop_length}, which makes {frames} frames"
        raise ModelFolderError(path, problem, f"The model of config.json takes {most}: use its own front end")
    return front_end


def write_front_end(front_end: ClapLogMel, folder: Path) -> None:
    """Write ``preprocessor_config.json``; a processor's file of an earlier model, which would come first, goes."""
    (folder / PROCESSOR_FILE).unlink(missing_ok=True)
    ClapFeatureExtractor(
        feature_size=front_end.num_mel_bins,
        sampling_rate=front_end.sampling_rate,
        hop_length=front_end.hop_length,
        fft_window_size=front_end.n_fft,
        frequency_min=front_end.frequency_min,
        frequency_max=front_end.frequency_max,
        truncation="fusion" if front_end.mel_scale == "htk" else "rand_trunc",
    ).save_pretrained(folder)


def _front_end_values(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that describes the front end, and what it says; as in transformers, that of a processor comes first."""
    path = folder / PROCESSOR_FILE
    if path.is_file() and isinstance(values := read_json(path).get("feature_extractor"), dict):
        return path, values
    path = folder / FRONT_END_FILE
    if not path.is_file():  # as `ClapModel.save_pretrained` leaves a folder
        raise ModelFolderError(
            path, "is missing, and so the front end", "Save the model's processor or feature extractor into the folder"
        )
    return path, read_json(path)
