"""A media file → an open container, the stream to decode, and what the file declares about it.

What video and audio share: which stream, where time zero is, how long the recording says it is, and the
boundary at which a decoder's faults become a `MediaError`. FFmpeg reports damage through many exception
types, so faults are translated by where they happen (opening, decoding), never by type.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from mmray.errors import MediaError, Reason

__all__ = ["best_stream", "check_segment", "clearly_short", "declared_s", "faults", "open_media", "origin_s"]

SLACK_S = 0.25
"""Encoder delay, padding and the rounding of containers together stay below this."""


@contextlib.contextmanager
def faults(reason: Reason) -> Iterator[None]:
    """Whatever a decoder raises inside, as `MediaError(reason)`; out of memory stays what it is."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - by the bytes they meet, decoders raise nearly any type
        detail = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(reason, detail) from error


@contextlib.contextmanager
def open_media(path: str) -> Iterator[InputContainer]:
    """The file, open for reading.

    Only local files are followed: a playlist inside a media file must not reach the network.

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


def best_stream(container: InputContainer, kind: Literal["video", "audio"]) -> VideoStream | AudioStream:
    """The stream FFmpeg takes for the main one (as decord does), but never a cover picture.

    Raises:
        MediaError: `no_video_stream` or `no_audio_stream`.

    """
    streams = [s for s in container.streams.get({kind: None}) if not _is_cover(s)]
    best = container.streams.best(kind)
    if best is not None and not _is_cover(best):
        return best
    return streams[0]


def origin_s(container: InputContainer) -> float:
    """Time stamp of the recording's beginning: every time of ours counts from here."""
    return (container.start_time or 0) / av.time_base
