"""Recordings as they are found: joined, chained, tagged, cut, and declared wrongly. Sound is decoded to its end."""

import csv
import functools
import io
import struct

import numpy as np
import pytest
import soundfile as sf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion_link_hf.audio import SAMPLING_RATE, load_audio
from diffusion_link_hf.audio.containers.splice import Splice
from diffusion_link_hf.errors import AudioContentError, AudioDecodeError, AudioError

CODEC_FRAME = 0.048  # seconds: the longest codec frame here, MP3's at 24 kHz, with the delay of one more
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
MP3_SLACK = 0.06  # seconds of silence that an encoder puts before and behind a sound


@functools.lru_cache(maxsize=256)
def encoded(kind: str, seconds: float, rate: int = 48_000, seed: int = 0, **options) -> bytes:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * rate)).astype(np.float32)
    file = io.BytesIO()
    format, subtype = KINDS[kind]
    sf.write(file, samples, rate, format=format, subtype=subtype, **options)
    return file.getvalue()


def seconds_of(data: bytes) -> float:
    return len(load_audio(data)) / SAMPLING_RATE


durations = st.sampled_from([0.2, 0.35, 0.7])
rates = st.sampled_from([24_000, 48_000])


def test_recordings_of_users_decode_to_their_last_sample(shared_data):
    folder = shared_data / "cases"
    for row in csv.DictReader((folder / "durations.csv").open()):
        if row["file"].endswith(".m4a"):
            pytest.importorskip("av")
        seconds = len(load_audio(folder / row["file"])) / SAMPLING_RATE
        assert seconds == pytest.approx(float(row["seconds"]), abs=1152 / 44_100 + 0.001), row["file"]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["wav", "flac", "vorbis", "opus", "mp3"]),
    st.lists(st.tuples(durations, rates), min_size=1, max_size=3),
)
def test_joined_files_are_decoded_to_the_last_one(kind, parts):
    parts = [(seconds, 48_000 if kind == "opus" else rate) for seconds, rate in parts]
    data = b"".join(encoded(kind, seconds, rate, seed) for seed, (seconds, rate) in enumerate(parts))
    slack = len(parts) * (2 * MP3_SLACK if kind == "mp3" else 0.01)
    assert seconds_of(data) == pytest.approx(sum(seconds for seconds, _ in parts), abs=slack)


def test_joined_parts_are_what_they_are_alone():
    first, second = encoded("flac", 0.5, seed=1), encoded("flac", 0.7, seed=2)
    whole = load_audio(first + second)
    np.testing.assert_array_equal(whole, np.concatenate([load_audio(first), load_audio(second)]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["flac", "vorbis", "mp3", "wav"]),
    st.integers(0, 5000),
    st.sampled_from(["", "id3v1", "ape", "zeros"]),
    st.integers(0, 3000),
)
def test_tags_and_padding_are_no_sound_and_no_loss(kind, front, tail, zeros):
    data = encoded(kind, 0.35)
    syncsafe = bytes(front >> shift & 0x7F for shift in (21, 14, 7, 0))
    before = b"ID3\x04\x00\x00" + syncsafe + bytes(front) if front else b""
    behind = {
        "": b"",
        "id3v1": b"TAG" + bytes(125),
        "ape": b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8),
        "zeros": bytes(zeros),
    }[tail]
    if tail == "ape":
        behind = behind + bytes(32) + b"APETAGEX" + struct.pack("<IIII", 2000, 64, 0, 0x80000000) + bytes(8)
    assert seconds_of(before + data + behind) == pytest.approx(seconds_of(data), abs=CODEC_FRAME)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**36 - 1), durations)
def test_the_total_of_flac_is_a_hint(total, seconds):
    data = bytearray(encoded("flac", seconds))
    frames = round(seconds * 48_000)
    data[21] = data[21] & 0xF0 | total >> 32
    data[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    if total > frames + 1152:
        with pytest.raises(AudioDecodeError, match=f"ends after {frames} of {total} frames"):
            load_audio(bytes(data))
    else:
        assert len(load_audio(bytes(data))) == frames


@settings(max_examples=60, deadline=None)
@given(st.integers(-40, 2000) | st.sampled_from([0x7FFFFFFF, 0xFFFFFFFF, "zero"]), durations)
def test_the_data_size_of_wav_is_a_hint(extra, seconds):
    data = bytearray(encoded("wav", seconds))
    at = data.index(b"data") + 4
    real = int.from_bytes(data[at : at + 4], "little")
    declared = 0 if extra == "zero" else extra if extra > 2000 else real + extra
    data[at : at + 4] = declared.to_bytes(4, "little")
    if extra == "zero" or extra > 2000:
        data[4:8] = (0 if extra == "zero" else 0xFFFFFFFF).to_bytes(4, "little")
    assert seconds_of(bytes(data)) == pytest.approx(seconds, abs=0.001)


def test_an_empty_wav_is_empty_whatever_follows_its_data():
    data = bytearray(encoded("wav", 0.2))
    at = data.index(b"data")
    empty = bytes(data[:at]) + b"data" + bytes(4) + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    with pytest.raises(AudioContentError, match="no samples"):
        load_audio(empty)


def frames_of_mp3(data: bytes) -> list[bytes]:
    from diffusion_link_hf.audio.containers.mpeg import parse_header

    frames, at = [], 0
    while at + 4 <= len(data) and (parsed := parse_header(data[at : at + 4])):
        frames.append(data[at : at + parsed[0]])
        at += parsed[0]
    return frames


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), durations, rates)
def test_the_count_of_an_mp3_header_is_a_hint(count, seconds, rate):
    data = bytearray(encoded("mp3", seconds, rate))
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assume(at > 0 and data[at + 7] & 3 == 3)
    data[at + 8 : at + 12] = count.to_bytes(4, "big")
    assert seconds_of(bytes(data)) == pytest.approx(seconds, abs=2 * MP3_SLACK)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9]), min_size=2, max_size=4))
def test_an_mp3_of_variable_bitrate_needs_no_header(levels):
    """Without one, libsndfile estimates the length from the first frames, and stops there."""
    streams = [
        frames_of_mp3(encoded("mp3", 0.7, seed=k, compression_level=level, bitrate_mode="CONSTANT"))
        for k, level in enumerate(levels)
    ]
    frames = [
        frame for stream in streams for frame in stream if b"Info" not in frame[:48] and b"Xing" not in frame[:48]
    ]
    assert seconds_of(b"".join(frames)) == pytest.approx(len(frames) * 1152 / 48_000, abs=2 * CODEC_FRAME)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.floats(0.0, 1.0), st.sampled_from([0.7, 1.5]))
def test_a_cut_recording_is_refused_or_whole(kind, share, seconds):
    data = encoded(kind, seconds)
    cut = data[: int(len(data) * share)]
    try:
        found = seconds_of(cut)
    except AudioError:
        return
    if kind not in ("vorbis", "opus"):  # a file that ends with a whole page looks like a whole file
        assert found >= seconds - CODEC_FRAME


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["vorbis", "opus"]), st.data())
def test_marks_of_the_end_are_hints(kind, data):
    """A page in the middle that says it is the last, and a last page that does not."""
    from diffusion_link_hf.audio.containers.ogg import _checksum, _pages

    ogg = bytearray(encoded(kind, 1.5))
    pages = list(_pages(io.BytesIO(bytes(ogg)), 0, len(ogg), "a"))
    for page in pages[1:]:
        marked = data.draw(st.booleans())
        ogg[page.begin + 5] = page.flags & ~4 | 4 * marked
        ogg[page.begin + 22 : page.begin + 26] = bytes(4)
        ogg[page.begin + 22 : page.begin + 26] = _checksum(ogg[page.begin : page.end]).to_bytes(4, "little")
    assert seconds_of(bytes(ogg)) == pytest.approx(1.5, abs=0.03)


def test_the_checksum_is_that_of_ogg():
    from diffusion_link_hf.audio.containers.ogg import _checksum, _pages

    ogg = encoded("vorbis", 0.7)
    for page in _pages(io.BytesIO(ogg), 0, len(ogg), "a"):
        data = bytearray(ogg[page.begin : page.end])
        declared = int.from_bytes(data[22:26], "little")
        data[22:26] = bytes(4)
        assert _checksum(data) == declared


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 0.9), st.integers(1, 3000), st.randoms(use_true_random=False))
def test_damage_in_the_middle_of_an_mp3_costs_what_it_covers(place, length, random):
    data = bytearray(encoded("mp3", 1.5))
    at = int(place * len(data))
    data[at : at + length] = bytes(random.randrange(256) for _ in range(min(length, len(data) - at)))
    covered = length / len(data) * 1.5
    try:
        found = seconds_of(bytes(data))
    except AudioError:
        return
    assert found >= 1.5 - covered - 4 * 1152 / 48_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=9) | st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6),
    st.data(),
)
def test_a_splice_is_its_pieces(pieces, data):
    source = bytes(range(41))
    pieces = [piece if isinstance(piece, bytes) else tuple(sorted(piece)) for piece in pieces]
    whole = b"".join(piece if isinstance(piece, bytes) else source[slice(*piece)] for piece in pieces)
    splice = Splice(io.BytesIO(source), pieces)
    assert len(splice) == len(whole)
    begin = data.draw(st.integers(0, len(whole) + 3))
    size = data.draw(st.integers(0, 50))
    splice.seek(begin)
    assert splice.read(size) == whole[begin : begin + size]
    assert splice.tell() == min(begin + size, max(begin, len(whole)))
