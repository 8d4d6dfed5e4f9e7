"""Audio in: recordings found, decoded to mono at 48 kHz, and cut into ten-second windows."""

from .decoding import AudioInput, check_sampling_rate, is_decoded, load_audio, stream_audio
from .folders import AUDIO_EXTENSIONS, find_audio_files, iter_audio_files
from .sources import iter_sources
from .windows import SAMPLING_RATE, WINDOW_SAMPLES, WINDOW_SECONDS, AudioWindow, split_windows, stream_windows

__all__ = [
    "AUDIO_EXTENSIONS",
    "SAMPLING_RATE",
    "WINDOW_SAMPLES",
    "WINDOW_SECONDS",
    "AudioInput",
    "AudioWindow",
    "check_sampling_rate",
    "find_audio_files",
    "is_decoded",
    "iter_audio_files",
    "iter_sources",
    "load_audio",
    "split_windows",
    "stream_audio",
    "stream_windows",
]
