"""Containers that need FFmpeg: decoded with PyAV, and named where it is missing."""

import io
import sys

import numpy as np
import pytest

from diffusion_link_hf.audio import SAMPLING_RATE, find_audio_files, load_audio
from diffusion_link_hf.errors import AudioDecodeError, AudioFormatError

RATE = 44_100
FORMATS = [  # container, codec, kind in messages
    ("ipod", "aac", "MP4"),
    ("mp4", "aac", "MP4"),
    ("mov", "pcm_s16le", "MP4"),
    ("matroska", "flac", "WebM or Matroska"),
    ("webm", "libopus", "WebM or Matroska"),
    ("asf", "wmav2", "WMA"),
    ("avi", "mp2", "AVI"),
    ("adts", "aac", "AAC"),
    ("ogg", "libspeex", "Speex"),
]


def tone(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def mux(container: str, codec: str, seconds: float = 2.0, pictures: bool = False) -> bytes:
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    rate = {"libopus": 48_000, "libspeex": 16_000}.get(codec, RATE)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        if pictures:
            video = add_video(out)
        frame = av.AudioFrame.from_ndarray(tone(seconds, rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        stream.codec_context.open()
        to_codec = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for piece in [*to_codec.resample(frame), *to_codec.resample(None)]:
            piece.pts = None
            fifo.write(piece)
        if pictures:
            for k in range(int(10 * seconds)):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * k % 255, np.uint8))))
            out.mux(video.encode(None))
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def add_video(out):
    video = out.add_stream("mpeg4", rate=10)
    video.width = video.height = 32
    video.pix_fmt = "yuv420p"
    return video


def peak_frequency(samples: np.ndarray) -> float:
    return np.argmax(np.abs(np.fft.rfft(samples))) * SAMPLING_RATE / len(samples)


@pytest.mark.parametrize(("container", "codec", "kind"), FORMATS)
def test_containers_decode_to_their_sound(container, codec, kind):
    samples = load_audio(mux(container, codec))
    assert samples.dtype == np.float32
    assert len(samples) / SAMPLING_RATE == pytest.approx(2.0, abs=0.08)  # codecs pad
    assert peak_frequency(samples) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.3 / np.sqrt(2), abs=0.02)


def test_the_sound_of_a_video():
    samples = load_audio(mux("mp4", "aac", pictures=True))
    assert peak_frequency(samples) == pytest.approx(440, abs=1)


def test_a_video_without_sound_says_so():
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = add_video(out)
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(video.encode(None))
    with pytest.raises(AudioDecodeError, match="is MP4 without sound"):
        load_audio(file.getvalue())


@pytest.mark.parametrize(("container", "codec", "kind"), FORMATS)
def test_without_ffmpeg_the_file_is_named_with_its_remedy(container, codec, kind, monkeypatch):
    data = mux(container, codec)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioFormatError, match=rf"a\.xyz: is {kind}, which needs FFmpeg\. Install .*\[media\]"):
        load_audio(data, name="a.xyz")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_video_is_refused(share):
    data = mux("matroska", "flac", 4.0)
    with pytest.raises(AudioDecodeError, match=r"ends \d\.\d+ s before the end that it declares|cannot be decoded"):
        load_audio(data[: int(share * len(data))])


def test_every_container_is_found_in_a_folder(tmp_path):
    names = ["a.m4a", "b.MP4", "c.webm", "d.wave", "e.mp2", "f.amr"]
    for name in [*names, "._a.m4a", ".hidden.wav", "notes.txt"]:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_audio_files(tmp_path)] == names
