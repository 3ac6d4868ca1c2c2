"""A media file → an open container, the stream to decode, and what the file declares about it.

What video and audio share: which stream, where time zero is, how long the recording says it is, and the
boundary at which a decoder's faults become a `MediaError`. FFmpeg reports damage through many exception
types, so faults are translated by where they happen (opening, decoding), never by type.
"""

import contextlib
import re
from collections.abc import Iterator

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from mmray.errors import MediaError, Reason

__all__ = [
    "check_segment",
    "clearly_short",
    "declared_s",
    "faults",
    "open_media",
    "origin_s",
    "sound_track",
    "video_track",
]

SLACK_S = 0.25
"""Encoder delay, padding and the rounding of containers stay below this together."""
SLACK_FRACTION = 0.02


@contextlib.contextmanager
def faults(reason: Reason) -> Iterator[None]:
    """Whatever a decoder raises inside, as `MediaError(reason)`; out of memory stays what it is."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # deliberately broad: by the bytes they meet, decoders raise any type
        detail = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(reason, detail) from error


@contextlib.contextmanager
def open_media(path: str) -> Iterator[InputContainer]:
    """The file, open for reading.

    Only local files are followed: a playlist must not reach the network.

    Raises:
        MediaError: `missing_file` or `unreadable`.

    """
    with faults("unreadable"):
        try:
            container = av.open(path, metadata_errors="replace", options={"protocol_whitelist": "file"})
        except FileNotFoundError as error:
            raise MediaError("missing_file", path) from error
    with container:
        yield container


def video_track(container: InputContainer) -> VideoStream:
    """FFmpeg's best video stream (decord's choice too), never a cover picture.

    Raises:
        MediaError: `no_video_stream`.

    """
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        raise MediaError("no_video_stream", f"streams: {_kinds(container)}")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in moving else moving[0]


def sound_track(container: InputContainer) -> AudioStream:
    """FFmpeg's best audio stream.

    Raises:
        MediaError: `no_audio_stream`.

    """
    best = container.streams.best("audio")
    if not isinstance(best, AudioStream):
        raise MediaError("no_audio_stream", f"streams: {_kinds(container)}")
    return best


def origin_s(container: InputContainer) -> float:
    """Time stamp of the recording's beginning; our times count from here."""
    return (container.start_time or 0) / av.time_base


def declared_s(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """Seconds the stream lasts by the file's own account; None where the file does not say.

    The container's duration is that of its longest stream, so it speaks for a stream that is alone only.
    """
    if container.format.name == "aac":  # a bare stream declares nothing: FFmpeg guesses from the bit rate
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams.video) + len(container.streams.audio) == 1
    return container.duration / av.time_base if alone and container.duration else None


def clearly_short(found_s: float, declared_s: float | None) -> bool:
    """Whether less is there than was declared, by more than delays and rounding explain."""
    return declared_s is not None and declared_s - found_s > max(SLACK_S, SLACK_FRACTION * declared_s)


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


def _kinds(container: InputContainer) -> str:
    return ", ".join(stream.type for stream in container.streams) or "none"
