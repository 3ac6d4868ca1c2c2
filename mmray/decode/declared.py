"""What a file says about its own length, told from what FFmpeg guesses.

FFmpeg always answers. But where a format has no length in its header, its answer is a guess from a bit rate
or the last time stamp found, which says nothing about whether the file is whole.
"""

import os
import re
import struct

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from mmray.errors import MediaError

__all__ = ["DECLARING", "UNKNOWN_SIZE", "check_segment", "clearly_short", "declared_end_s", "whole_end_s"]

SLACK_S = 0.25
"""Encoder delay, padding and the rounding of containers stay below this together."""
SLACK_FRACTION = 0.02
MAX_SLACK_S = 3.0
DECLARING = frozenset(
    {
        *("aiff", "ape", "apng", "asf", "au", "avi", "caf", "flac", "flv", "matroska,webm"),
        *("mov,mp4,m4a,3gp,3g2,mj2", "mxf", "rm", "tta", "w64", "wav", "wv"),
    }
)
"""Formats with a length in the header; mp3 may have one too."""
OF_THE_WHOLE = frozenset({"asf", "flv", "matroska,webm"})
"""Formats whose header has one length: where the longest stream ends, from the zero of the stamps."""
UNKNOWN_SIZE = 2**31 - 2**16
"""A WAV of this size or more is said to be as long as can be said: it was written to a pipe."""
HEAD_BYTES = 2**16


def declared_end_s(
    path: str, container: InputContainer, stream: VideoStream | AudioStream, origin_s: float
) -> float | None:
    """Where the stream ends by the file's own account; None where the file does not say."""
    name = container.format.name
    if name == "mp3":
        return _mp3_duration_s(path)
    if name not in DECLARING or (name in SAYS_SIZE and not SAYS_SIZE[name](path)):
        return None
    # In Matroska, a tag of the stream: where it ends, from the zero of the stamps.
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds - origin_s
    if stream.duration and stream.time_base and name not in OF_THE_WHOLE:
        start_s = float((stream.start_time or 0) * stream.time_base) - origin_s
        return max(start_s, 0.0) + float(stream.duration * stream.time_base)
    # The length of the whole speaks for a stream that is alone.
    alone = len(container.streams.video) + len(container.streams.audio) == 1
    return whole_end_s(container, origin_s) if alone else None


def whole_end_s(container: InputContainer, origin_s: float) -> float | None:
    """Where the longest stream ends by the header's account; None where it has no such length."""
    if container.format.name not in DECLARING or not container.duration:
        return None
    return container.duration / av.time_base - (origin_s if container.format.name in OF_THE_WHOLE else 0.0)


def _mp3_duration_s(path: str) -> float | None:
    """By the first frame's Xing, Info or VBRI header, where it has one.

    Source: Gabriel Bouvigne's note on the Xing header, Fraunhofer's on VBRI; ID3v2.4, section 3.1.
    """
    with open(path, "rb") as file:
        head = file.read(10)
        while head[:3] == b"ID3" and len(head) == 10:  # skipped, as there may be several
            size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(size, os.SEEK_CUR)
            head = file.read(10)
        data = head + file.read(HEAD_BYTES)
    if not (frame := re.search(rb"\xff[\xe2-\xff][\x10-\xef]", data)):
        return None
    first = data[frame.start() : frame.start() + 256]
    version, rate = first[1] >> 3 & 3, first[2] >> 2 & 3
    if version == 1 or rate == 3:
        return None
    rate_hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 1152 if version == 3 else 576
    if xing := re.search(rb"(?:Xing|Info)(....)(....)", first, re.DOTALL):
        flags, frames = struct.unpack(">II", xing[1] + xing[2])
        return frames * samples / rate_hz if flags & 1 else None
    if first[36:40] == b"VBRI":
        return struct.unpack(">I", first[50:54])[0] * samples / rate_hz
    return None


def _wav_says_its_size(path: str) -> bool:
    """Whether the size of its samples is no mark for `unknown`: 0, or about all that 31 or 32 bits hold."""
    with open(path, "rb") as file:
        if file.read(4) not in (b"RIFF", b"RIFX", b"FFIR"):
            return True  # RF64 and BW64 have sizes of 64 bits
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = struct.unpack("<I", head[4:])[0]
            if head[:4] == b"data":
                follow = os.fstat(file.fileno()).st_size - file.tell()
                return follow == 0 if size == 0 else size < UNKNOWN_SIZE or size <= follow
            file.seek(size + size % 2, os.SEEK_CUR)
    return True


def _caf_says_its_size(path: str) -> bool:
    """Whether the size of its samples is no mark for `unknown`. Source: Apple, Core Audio Format 1.0."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(12)) == 12:
            size = struct.unpack(">q", head[4:])[0]
            if head[:4] == b"data" or size < 0:
                return size >= 0
            file.seek(size, os.SEEK_CUR)
    return True


SAYS_SIZE = {"wav": _wav_says_its_size, "caf": _caf_says_its_size}


def clearly_short(found_s: float, declared_s: float | None) -> bool:
    """Whether less is there than was declared, by more than delays and rounding explain."""
    if declared_s is None:
        return False
    return declared_s - found_s > min(max(SLACK_S, SLACK_FRACTION * declared_s), MAX_SLACK_S)


def check_segment(start_s: float | None, end_s: float | None, duration_s: float | None) -> None:
    """Refuse a segment that is empty or not inside the recording; an end may exceed it by `SLACK_S`.

    Raises:
        MediaError: `bad_segment`.

    """
    start = 0.0 if start_s is None else start_s
    last = float("inf") if duration_s is None else duration_s
    end = last if end_s is None else end_s
    if not 0 <= start < min(end, last) or (end_s is not None and end_s > last + SLACK_S):
        asked = f"{start:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"
        raise MediaError("bad_segment", f"{asked} of a recording of {last:.3f} s")
