"""A video file, or a segment of it → frames spread evenly in time, at the encoder's input size.

Three steps, of which only the last decodes:

    index    read the packets' time stamps: which frames exist, and whether the file is whole
    choose   the frame on screen in the middle of each of n equal spans
    read     only those frames, each fitted to its square before the next is decoded

So memory holds one full picture, however long the clip. decord reads where it finds the frame it is asked
for; measured against drawn frame numbers, that is in mp4 and Matroska with closed groups of pictures. In
MPEG-PS, MPEG-TS and AVI, and around open groups (HEVC, some H.264), it silently gives frames from other
times, up to half a second off; there PyAV reads, from the key frame before each frame or, where a
container has no index to seek by, from the beginning. PyAV also knows a picture that was patched up after
damage (`corrupt`); decord passes it on.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mmray.decode.container import (
    check_segment,
    clearly_short,
    declared_s,
    faults,
    open_media,
    origin_s,
    video_track,
)
from mmray.decode.image import Frames, PictureGeometry, fit
from mmray.errors import MediaError

if TYPE_CHECKING:
    import decord
else:
    try:
        import decord
    except ImportError:  # it has wheels for x86-64 Linux only
        decord = None

__all__ = ["Frames", "choose_frames", "decode_frames"]

INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers with an index to seek by; in others a seek lands anywhere, unnoticed."""
ROUNDING_S = 1e-3
"""Matroska rounds time stamps to a millisecond."""
LOST_FRACTION = 0.1
"""Missing frames, of those the file counts, that make a video short."""


class _Index(NamedTuple):
    """The frames of a stream in the order they are shown."""

    stamps: np.ndarray
    """int64 [F]: presentation time stamps; where the file has none, 0 … F - 1."""
    keys: np.ndarray
    """int64 [K]: the stamps of those that decode without another."""
    times_s: np.ndarray
    """float64 [F], from the recording's beginning."""
    end_s: float
    """Where the last frame ends."""
    counted: bool
    """Whether the stamps are counts."""
    closed: bool
    """Whether no frame shown before a key frame comes after it in the file."""


def decode_frames(
    path: str, *, frames: int, start_s: float | None, end_s: float | None, resize: PictureGeometry
) -> Frames:
    """`frames` pictures spread evenly over the segment (default: the whole recording), upright.

    Where the segment has fewer frames than asked for, each comes once at most, so T <= `frames`.

    Args:
        path: A local file.
        frames: How many.
        start_s: Beginning of the segment, from the recording's beginning; None: that beginning.
        end_s: End of the segment; None: the recording's end.
        resize: Which part of a picture is kept, at which size.

    Raises:
        MediaError: `missing_file`, `unreadable`, `no_video_stream`, `no_frames`, `bad_segment`,
            `short_video` where the file ends before the video it declares to have, or `corrupt`.

    """
    with open_media(path) as container, faults("corrupt"):
        stream = video_track(container)
        index = _index(container, stream)
        _check_whole(index, container, stream, start_s, end_s)
        first_s = float(index.times_s[0]) if start_s is None else start_s
        last_s = index.end_s if end_s is None else min(end_s, index.end_s)
        chosen = choose_frames(index.times_s, frames, first_s, last_s)
        pictures = _pictures(path, container.format.name in INDEXED_FORMATS, index, chosen)
        pixels = np.stack([fit(picture, resize) for picture in pictures])
    times_s = index.times_s[chosen]
    step_s = (times_s[-1] - times_s[0]) / (len(chosen) - 1) if len(chosen) > 1 else last_s - first_s
    return Frames(pixels, float(times_s[0] - (start_s or 0.0)), float(step_s))


def choose_frames(times_s: np.ndarray, frames: int, start_s: float, end_s: float) -> np.ndarray:
    """Indices [T] of the frames on screen in the middle of each of `frames` equal spans, none twice.

    With F frames at a constant rate over the whole span these are floor((i + 1/2) F / frames).

    Args:
        times_s: Sorted times [F] at which frames appear.
        frames: How many spans.
        start_s: Beginning of the first span.
        end_s: End of the last span.

    """
    middles_s = start_s + (np.arange(frames) + 0.5) * (end_s - start_s) / frames
    shown = np.searchsorted(times_s, middles_s + ROUNDING_S, side="right") - 1
    return np.unique(np.maximum(shown, 0))


# ------------------------------------------------------------------------------------ index


def _index(container: InputContainer, stream: VideoStream) -> _Index:
    """Every packet's time, without decoding any."""
    packets = [
        (packet.pts, packet.is_keyframe, packet.duration or 0)
        for packet in container.demux(stream)
        if packet.size and not packet.is_discard and not packet.is_corrupt
    ]
    if not packets:
        raise MediaError("no_frames", "the video stream has no whole frame")
    # AVI and raw streams know the order of frames only; FFmpeg's guesses of their times contradict it.
    if container.format.name == "avi" or any(pts is None for pts, _, _ in packets):
        stamps, rate_hz = np.arange(len(packets)), float(stream.average_rate or stream.guessed_rate or 25)
        return _Index(stamps, stamps[:1], stamps / rate_hz, len(stamps) / rate_hz, counted=True, closed=False)
    stamps = np.array([pts for pts, _, _ in packets], dtype=np.int64)
    is_key = np.array([key for _, key, _ in packets])
    is_key[np.argmin(stamps)] = True  # nothing is before the first
    closed = bool(np.all(stamps >= np.maximum.accumulate(np.where(is_key, stamps, stamps.min()))))
    order = np.argsort(stamps)
    steps = np.diff(stamps[order])
    last = packets[order[-1]][2] or (int(np.median(steps)) if len(steps) else 0)
    unit_s, zero_s = float(stream.time_base or 0), origin_s(container)
    return _Index(
        stamps[order],
        np.sort(stamps[is_key]),
        stamps[order] * unit_s - zero_s,
        float((stamps.max() + last) * unit_s - zero_s),
        counted=False,
        closed=closed,
    )


def _check_whole(
    index: _Index, container: InputContainer, stream: VideoStream, start_s: float | None, end_s: float | None
) -> None:
    """Refuse a segment outside the recording, and one that a truncated file has lost."""
    declared_end_s = max(index.end_s, float(index.times_s[0]) + (declared_s(container, stream) or 0.0))
    check_segment(start_s, end_s, declared_end_s)
    wanted_s = declared_end_s if end_s is None else min(end_s, declared_end_s)
    lost = len(index.stamps) < (1 - LOST_FRACTION) * stream.frames and wanted_s > index.end_s
    if lost or clearly_short(index.end_s, wanted_s):
        found = f"{len(index.stamps)} frames to {index.end_s:.3f} s"
        count = f"{stream.frames} frames to " if stream.frames else ""
        raise MediaError("short_video", f"{found}; the file declares {count}{declared_end_s:.3f} s")


# ------------------------------------------------------------------------------------ read


def _pictures(path: str, indexed: bool, index: _Index, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen frames one by one, upright, uint8 [H, W, 3]: by decord where it can be, else by PyAV."""
    reader = _decord_reader(path, index) if indexed else None
    if reader is not None:
        return (reader[int(frame)].asnumpy() for frame in chosen)
    return _read_with_pyav(path, index, index.stamps[chosen], seek=indexed and not index.counted)


def _decord_reader(path: str, index: _Index) -> "decord.VideoReader | None":
    """The file in decord; None where it is absent, cannot open it, or would miss frames."""
    if decord is None or index.counted or index.stamps[0] != 0 or not index.closed:
        return None
    try:
        reader = decord.VideoReader(path, num_threads=1)
    except Exception:  # noqa: BLE001 - DECORDError, RuntimeError or UnicodeDecodeError; PyAV tries next
        return None
    return reader if len(reader) == len(index.stamps) else None


def _read_with_pyav(path: str, index: _Index, wanted: np.ndarray, *, seek: bool) -> Iterator[np.ndarray]:
    """Frames at the stamps `wanted` (sorted), from the key frame before each or from the beginning."""
    with open_media(path) as container:
        stream = video_track(container)
        stream.codec_context.thread_count = 1
        frames, reached = _stamped(container, stream, index), index.keys[0]
        for position, stamp in enumerate(wanted):
            key = index.keys[max(np.searchsorted(index.keys, stamp, side="right") - 1, 0)]
            if sought := seek and key > reached:
                container.seek(int(key), stream=stream)
                frames = _stamped(container, stream, index)
            shown, frame = next(((at, frame) for at, frame in frames if at >= stamp), (None, None))
            if sought and shown != stamp:  # the container cannot seek after all
                yield from _read_with_pyav(path, index, wanted[position:], seek=False)
                return
            if frame is None or shown != stamp or frame.is_corrupt:
                at_s = index.times_s[np.searchsorted(index.stamps, stamp)]
                raise MediaError("corrupt", f"the frame at {at_s:.3f} s cannot be decoded whole")
            reached = stamp
            yield np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4)


def _stamped(
    container: InputContainer, stream: VideoStream, index: _Index
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in the order they are shown, each with its stamp."""
    frames = container.decode(stream)
    if index.counted:
        return enumerate(frames)
    return ((frame.pts, frame) for frame in frames if frame.pts is not None)
