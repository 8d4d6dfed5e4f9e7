"""MPEG audio (MP1, MP2, MP3): every frame counts, since what headers say of the length is a hint."""

import functools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ...errors import AudioDecodeError
from .splice import Piece, Splice
from .stream import TORN, Stream
from .tags import tag_size

BUFFER_BYTES = 1 << 20
HEAD_BYTES = 4 + 2 + 32 + 16  # a header, its checksum, side information, and an Info header behind them
BITRATES = {  # kbit/s by (MPEG-1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; half of it in MPEG-2, a quarter in MPEG-2.5
ROOMY_BITRATE = 9  # index of a bitrate whose frames have room for an Info header at every rate


class Form(NamedTuple):
    """What does not change within a stream."""

    rate: int  # Hz
    layer: int
    mpeg1: bool
    mono: bool

    @property
    def samples(self) -> int:
        """Samples per channel of a frame."""
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.mpeg1 else 576

    @property
    def side_bytes(self) -> int:
        """Bytes of layer III's side information."""
        return (17 if self.mono else 32) if self.mpeg1 else (9 if self.mono else 17)


@functools.lru_cache(maxsize=4096)
def parse_header(head: bytes) -> tuple[int, Form] | None:
    """Bytes and form of the frame with this header (4 bytes); None if it is none, or of a free bitrate."""
    word = int.from_bytes(head, "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate, padding = word >> 12 & 15, word >> 10 & 3, word >> 9 & 1
    if len(head) < 4 or word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    form = Form(RATES[rate] >> {3: 0, 2: 1, 0: 2}[version], layer, version == 3, word >> 6 & 3 == 3)
    bits = 1000 * BITRATES[form.mpeg1, layer][bitrate - 1]
    if layer == 1:
        return 4 * (12 * bits // form.rate + padding), form
    return form.samples // 8 * bits // form.rate + padding, form


class _Frame(NamedTuple):
    begin: int
    end: int
    form: Form
    head: bytes  # its first bytes


class _Buffer:
    """A window that slides over a file, forward for the most part."""

    def __init__(self, file: BinaryIO, end: int):
        self.file, self.end, self.base, self.data = file, end, 0, b""

    def bytes(self, at: int, count: int) -> bytes:
        k = at - self.base
        if k < 0 or k + count > len(self.data):
            self.file.seek(at)
            self.base, self.data, k = at, self.file.read(max(0, min(max(BUFFER_BYTES, count), self.end - at))), 0
        return self.data[k : k + count]


def find_frame(file: BinaryIO, begin: int, end: int) -> int | None:
    """Where the first frame is that another of the same form follows; None if there is none."""
    return _find_frame(_Buffer(file, end), begin, None)


def _find_frame(buffer: _Buffer, begin: int, form: Form | None) -> int | None:
    at = begin
    while at < buffer.end:
        chunk = buffer.bytes(at, min(4096, buffer.end - at))
        k = chunk.find(b"\xff")
        while k >= 0:
            if _starts_frames(buffer, at + k, form):
                return at + k
            k = chunk.find(b"\xff", k + 1)
        at += len(chunk)
        if not chunk:
            break
    return None


def _starts_frames(buffer: _Buffer, at: int, form: Form | None) -> bool:
    """Whether a frame is here, of that form, and a second of the same form, or the end, right behind it."""
    first = parse_header(buffer.bytes(at, 4))
    if first is None or (form and first[1][:3] != form[:3]):
        return False
    behind = at + first[0]
    if behind >= buffer.end:
        return form is not None and behind == buffer.end
    second = parse_header(buffer.bytes(behind, 4))
    return second is not None and second[1][:3] == first[1][:3]


def _walk(file: BinaryIO, begin: int, end: int) -> Iterator[_Frame]:
    """All whole frames; tags, damage and a frame that is cut at the end are passed over."""
    buffer, at, ready = _Buffer(file, end), begin, None
    while at < end:
        head = buffer.bytes(at, HEAD_BYTES)
        parsed = parse_header(head[:4])
        if parsed is None or (ready and parsed[1] != ready.form and not _starts_frames(buffer, at, None)):
            tag = tag_size(head)
            found = at + tag if tag else _find_frame(buffer, at, None)
            if found is None:
                break
            if not tag:
                ready = None  # the damage began within that frame
            at = found
            continue
        if ready:
            yield ready
        size, form = parsed
        if at + size > end:
            return
        ready = _Frame(at, at + size, form, head)
        at += size
    if ready:
        yield ready


class _Group:
    """Frames of one form, in order."""

    def __init__(self, form: Form):
        self.form, self.ranges, self.count = form, [], 0
        self.info: _Frame | None = None

    def add(self, frame: _Frame) -> None:
        self.count += 1
        if self.ranges and self.ranges[-1][1] == frame.begin:
            self.ranges[-1] = (self.ranges[-1][0], frame.end)
        else:
            self.ranges.append((frame.begin, frame.end))

    def stream(self, file: BinaryIO) -> Stream:
        pieces: list[Piece] = list(self.ranges)
        if self.form.layer == 3:
            pieces.insert(0, self._counted_header(file))
        # A decoder may leave out the encoder's delay and its own, and needs a frame to find into the bit reservoir.
        samples = max(0, self.count - 4) * self.form.samples
        return Stream(Splice(file, pieces), f"MPEG layer {self.form.layer}", samples)

    def _counted_header(self, file: BinaryIO) -> bytes:
        """An Info frame that says how many frames follow: without it, libsndfile would stop at an estimate."""
        if self.info:
            file.seek(self.info.begin)
            frame = bytearray(file.read(self.info.end - self.info.begin))
            place = _info_place(self.info)
            flags = frame[place + 7]
            if flags & 1:
                frame[place + 8 : place + 12] = self.count.to_bytes(4, "big")
                if flags & 2:
                    size = sum(end - begin for begin, end in self.ranges) + len(frame)
                    frame[place + 12 : place + 16] = min(size, 0xFFFFFFFF).to_bytes(4, "big")
                return bytes(frame)
        file.seek(self.ranges[0][0])
        word = int.from_bytes(file.read(4), "big") & ~0xF200 | ROOMY_BITRATE << 12 | 0x10000  # no checksum, no padding
        head = word.to_bytes(4, "big")
        frame = bytearray(parse_header(head)[0])
        place = 4 + self.form.side_bytes
        frame[:4] = head
        frame[place : place + 12] = b"Info" + (1).to_bytes(4, "big") + self.count.to_bytes(4, "big")
        return bytes(frame)


def _info_place(frame: _Frame) -> int | None:
    """Where a frame's Xing or Info header is; None in a frame of sound."""
    if frame.form.layer == 3:
        for place in (4 + frame.form.side_bytes, 6 + frame.form.side_bytes):  # the second behind a checksum
            if frame.head[place : place + 4] in (b"Xing", b"Info"):
                return place
    return None


def _declared(frame: _Frame) -> tuple[int, int] | None:
    """(frames, bytes) that a frame declares for the file, 0 where it does not say; None in a frame of sound."""
    place = _info_place(frame)
    if place is not None:
        flags, first, second = (int.from_bytes(frame.head[place + i : place + i + 4], "big") for i in (4, 8, 12))
        return first if flags & 1 else 0, (second if flags & 1 else first) if flags & 2 else 0
    if frame.form.layer == 3 and frame.head[36:40] == b"VBRI":
        return int.from_bytes(frame.head[50:54], "big"), int.from_bytes(frame.head[46:50], "big")
    return None


def mpeg_streams(file: BinaryIO, name: str, begin: int, end: int) -> list[Stream]:
    """The streams between two places of a file: one, unless files of different forms were joined.

    Damaged stretches are left out, and what stands behind them is kept. Of joined files, the first one's header is
    kept for the encoder's delay, and told how many frames there are.

    Raises:
        AudioDecodeError: the last header declares over one frame more than there is.
    """
    groups: list[_Group] = []
    header, behind, last = None, 0, None
    for frame in _walk(file, begin, end):
        last = frame
        if not groups or groups[-1].form != frame.form:
            groups.append(_Group(frame.form))
        if (declared := _declared(frame)) is not None:
            header, behind = (frame, *declared), 0
            if not groups[-1].count and _info_place(frame):
                groups[-1].info = frame
            continue
        groups[-1].add(frame)
        behind += 1
    if header:
        _refuse_torn(name, *header, behind, end - header[0].begin, last)
    return [group.stream(file) for group in groups if group.count]


def _refuse_torn(name: str, header: _Frame, frames: int, size: int, found: int, present: int, last: _Frame) -> None:
    one_frame = last.end - last.begin
    if size:
        if present + 2 * one_frame < size:
            raise AudioDecodeError(name, f"holds {present} of the {size} bytes that it declares", TORN)
    elif found + 1 < frames:
        raise AudioDecodeError(name, f"holds {found} of the {frames} frames that it declares", TORN)
