"""The packets of a video → which frames it shows and when, without decoding any."""

from typing import NamedTuple

import numpy as np

from mmray.decode.declared import check_segment, clearly_short
from mmray.decode.packets import Packets, Recording
from mmray.decode.timeline import NO_STAMP
from mmray.errors import MediaError

__all__ = ["VideoIndex", "check_whole", "index_video"]

LOST_FRACTION = 0.1
"""Missing packets, of those the file counts, that make a video short."""
RATE_HZ = 25.0
"""Of streams that know no times at all."""
NOT_CODED_BYTES = 8
"""An MPEG-4 packet up to this size repeats the picture before. Source: ISO/IEC 14496-2, `vop_coded`."""


class VideoIndex(NamedTuple):
    """The frames of a stream in the order they are shown."""

    packets: Packets
    first: int
    """The packet at which decoding begins: the first key frame's."""
    numbers: np.ndarray
    """int64 [F]: the packet of each frame; where `counted`, only of as many frames."""
    is_key: np.ndarray
    """bool [F]: decodable without another."""
    times_s: np.ndarray
    """float64 [F], from the recording's beginning."""
    end_s: float
    """Where the last frame ends."""
    counted: bool
    """Whether the packets do not say when they are shown, only in which order frames come."""
    closed: bool
    """Whether no frame shown before a key frame comes after it in the file."""


def index_video(recording: Recording) -> VideoIndex:
    """Frames that can be shown: whole ones, from the first key frame on.

    Raises:
        MediaError: `no_video_stream`, or `no_frames`.

    """
    packets = recording.pictures
    if packets is None:
        raise MediaError("no_video_stream", f"streams: {recording.streams}")
    numbers = np.flatnonzero(~packets.is_hidden & ~packets.is_damaged)
    keys = np.flatnonzero(packets.is_key)
    first = int(keys[0]) if len(keys) else 0  # what comes before cannot be decoded
    numbers = numbers[numbers >= first]
    if recording.format == "avi" and packets.codec == "mpeg4":
        numbers = numbers[packets.sizes[numbers] >= NOT_CODED_BYTES]
    if not len(numbers):
        raise MediaError("no_frames", "the video stream has no whole frame")
    # AVI and raw streams know the order of frames only; FFmpeg's guesses of their times contradict it.
    if recording.format == "avi" or (packets.stamps[numbers] == NO_STAMP).any():
        return _counted(packets, first, numbers, recording.origin_s)
    stamps = packets.stamps[numbers]
    is_key = packets.is_key[numbers]
    if len(keys):  # and what is shown before the first key frame refers to what is not there
        whole = stamps >= packets.stamps[first]
        numbers, stamps, is_key = numbers[whole], stamps[whole], is_key[whole]
    is_key[np.argmin(stamps)] = True
    closed = bool(np.all(stamps >= np.maximum.accumulate(np.where(is_key, stamps, stamps.min()))))
    order = np.argsort(stamps, kind="stable")
    steps = np.diff(stamps[order])
    last = packets.durations[numbers[order[-1]]] or (int(np.median(steps)) if len(steps) else 0)
    return VideoIndex(
        packets,
        first,
        numbers[order],
        is_key[order],
        stamps[order] * packets.unit_s - recording.origin_s,
        float((stamps.max() + last) * packets.unit_s - recording.origin_s),
        counted=False,
        closed=closed,
    )


def _counted(packets: Packets, first: int, numbers: np.ndarray, origin_s: float) -> VideoIndex:
    """Frames in their order. In AVI each packet has its turn, empty ones (dropped frames) as well."""
    is_key = packets.is_key[numbers]
    is_key[0] = True
    turns, shown = packets.decoding[numbers], packets.stamps[numbers]
    # Of MPEG-4 FFmpeg knows which frames are shown later than decoded; all of them wait for the first.
    if packets.codec == "mpeg4" and (shown != NO_STAMP).all() and len(np.unique(shown)) == len(shown):
        turns = shown - shown.min() + turns.min()
    if (turns == NO_STAMP).any():
        duration = np.median(packets.durations[numbers])
        unit_s = float(duration * packets.unit_s) or 1 / RATE_HZ
        times_s, step_s = np.arange(len(numbers)) * unit_s, unit_s
    else:
        times_s = np.sort(turns) * packets.unit_s - origin_s
        step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else packets.unit_s
    return VideoIndex(
        packets, first, numbers, is_key, times_s, float(times_s[-1] + step_s), counted=True, closed=False
    )


def check_whole(recording: Recording, index: VideoIndex, start_s: float | None, end_s: float | None) -> None:
    """Refuse a segment outside the recording, and one that a truncated file has lost.

    Raises:
        MediaError: `bad_segment`, `short_video`, or `corrupt` where what follows could not be read.

    """
    packets = index.packets
    declared_s = recording.declared_end_s if recording.is_short else packets.declared_end_s
    declared_end_s = max(index.end_s, declared_s or 0.0)
    if recording.fault and (end_s is None or end_s > index.end_s):
        raise MediaError("corrupt", f"after {index.end_s:.3f} s: {recording.fault}")
    check_segment(start_s, end_s, declared_end_s)
    if recording.cut_inside and (end_s is None or end_s > index.end_s):
        raise MediaError(
            "short_video", f"the file ends inside {recording.cut_inside}, at {index.end_s:.3f} s"
        )
    wanted_s = declared_end_s if end_s is None else min(end_s, declared_end_s)
    found = len(packets.sizes)
    if index.counted and (packets.decoding[-1:] != NO_STAMP).all():
        found = max(found, int(packets.decoding[-1]) + 1)  # dropped frames count, and have no packet
    lost = found < (1 - LOST_FRACTION) * packets.declared_packets and wanted_s > index.end_s
    if lost or clearly_short(index.end_s, wanted_s):
        count = f"{packets.declared_packets} packets to " if packets.declared_packets else ""
        raise MediaError(
            "short_video",
            f"{found} packets to {index.end_s:.3f} s; the file declares {count}{declared_end_s:.3f} s",
        )
