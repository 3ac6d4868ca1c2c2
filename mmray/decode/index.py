"""A video file → which frames it has and when each is shown, without decoding any.

The packets' time stamps say it. Reading them all costs a pass over the file, so the last few indexes are
kept: the utterances of one long recording share one pass, as do two features of one video.
"""

import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
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
from mmray.errors import MediaError

__all__ = ["VideoIndex", "check_whole", "identity", "index_video"]

INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers with an index to seek by; in others a seek lands anywhere, unnoticed."""
LOST_FRACTION = 0.1
"""Missing frames, of those the file counts, that make a video short."""


class VideoIndex(NamedTuple):
    """The frames of a stream in the order they are shown, and what the file declares."""

    stream: int
    """Number of the stream among all of the file."""
    stamps: np.ndarray
    """int64 [F]: presentation time stamps; where the file has none, 0 … F - 1."""
    unit_s: float
    """Seconds from one stamp to the next."""
    is_key: np.ndarray
    """bool [F]: packets marked as decodable without another; the first frame is."""
    times_s: np.ndarray
    """float64 [F], from the recording's beginning."""
    end_s: float
    """Where the last frame ends."""
    counted: bool
    """Whether the stamps are counts."""
    closed: bool
    """Whether no frame shown before a key frame comes after it in the file."""
    seekable: bool
    """Whether the container has an index to seek by."""
    declared_s: float | None
    """Seconds the stream lasts by the file's own account."""
    declared_frames: int
    """Frames by the file's own account; 0 where it does not say."""


def index_video(path: str) -> VideoIndex:
    """The index of a local file's video, from memory where the file is one of the last few asked for.

    Raises:
        MediaError: `missing_file`, `unreadable`, `no_video_stream`, `no_frames` or `corrupt`.

    """
    return _index_of(path, identity(path))


def identity(path: str) -> tuple[int, ...]:
    """What tells a file from another that had the same path before it.

    Raises:
        MediaError: `missing_file`.

    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing_file", path) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)  # of an hour at 30 frames/s: 2 MB each
def _index_of(path: str, identity: tuple[int, ...]) -> VideoIndex:
    with open_media(path) as container, faults("corrupt"):
        return _read_index(container, video_track(container))


def _read_index(container: InputContainer, stream: VideoStream) -> VideoIndex:
    """Every packet's time, without decoding any."""
    declared = (declared_s(container, stream), stream.frames)
    packets = [
        (packet.pts, packet.is_keyframe, packet.duration or 0)
        for packet in container.demux(stream)
        if packet.size and not packet.is_discard and not packet.is_corrupt
    ]
    if not packets:
        raise MediaError("no_frames", "the video stream has no whole frame")
    is_key = np.array([key for _, key, _ in packets])
    # AVI and raw streams know the order of frames only; FFmpeg's guesses of their times contradict it.
    if container.format.name == "avi" or any(pts is None for pts, _, _ in packets):
        is_key[0] = True
        stamps, unit_s = np.arange(len(packets)), 1 / float(stream.average_rate or stream.guessed_rate or 25)
        times_s = stamps * unit_s
        return VideoIndex(
            stream.index,
            stamps,
            unit_s,
            is_key,
            times_s,
            len(stamps) * unit_s,
            counted=True,
            closed=False,
            seekable=False,
            declared_s=declared[0],
            declared_frames=declared[1],
        )
    stamps = np.array([pts for pts, _, _ in packets], dtype=np.int64)
    is_key[np.argmin(stamps)] = True  # nothing is before the first
    closed = bool(np.all(stamps >= np.maximum.accumulate(np.where(is_key, stamps, stamps.min()))))
    order = np.argsort(stamps)
    steps = np.diff(stamps[order])
    last = packets[order[-1]][2] or (int(np.median(steps)) if len(steps) else 0)
    unit_s, zero_s = float(stream.time_base or 0), origin_s(container)
    return VideoIndex(
        stream.index,
        stamps[order],
        unit_s,
        is_key[order],
        stamps[order] * unit_s - zero_s,
        float((stamps.max() + last) * unit_s - zero_s),
        counted=False,
        closed=closed,
        seekable=container.format.name in INDEXED_FORMATS,
        declared_s=declared[0],
        declared_frames=declared[1],
    )


def check_whole(index: VideoIndex, start_s: float | None, end_s: float | None) -> None:
    """Refuse a segment outside the recording, and one that a truncated file has lost.

    Raises:
        MediaError: `bad_segment` or `short_video`.

    """
    declared_end_s = max(index.end_s, float(index.times_s[0]) + (index.declared_s or 0.0))
    check_segment(start_s, end_s, declared_end_s)
    wanted_s = declared_end_s if end_s is None else min(end_s, declared_end_s)
    lost = len(index.stamps) < (1 - LOST_FRACTION) * index.declared_frames and wanted_s > index.end_s
    if lost or clearly_short(index.end_s, wanted_s):
        found = f"{len(index.stamps)} frames to {index.end_s:.3f} s"
        count = f"{index.declared_frames} frames to " if index.declared_frames else ""
        raise MediaError("short_video", f"{found}; the file declares {count}{declared_end_s:.3f} s")
