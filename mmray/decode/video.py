"""A video file → some of its frames, spread evenly over the sample.

decord where it is (x86-64 Linux), else PyAV. Both read the same stream, the one that FFmpeg calls best;
rotation is applied with both; each frame is cut to the encoder's square before the next group is decoded,
so memory does not grow with the clip's length or resolution. A stream that ends clearly earlier than its
container says is an error, never a silently shorter clip.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition

from mmray.decode.image import Frames, PictureGeometry
from mmray.errors import MediaError

try:
    import decord
except ImportError:  # no wheel for this platform
    decord = None

__all__ = ["Frames", "decode_frames"]

GROUP = 4
"""Frames decoded at full size at a time."""
SEEK_FROM_S = 10.0
"""Below this it is as fast to decode from the start, and exact in every container."""
SHORT_S = 0.5
"""A stream that lacks more than this, and a tenth of what it should have, is short."""


def decode_frames(
    path: str,
    *,
    frames: int,
    start_s: float | None = None,
    end_s: float | None = None,
    resize: PictureGeometry,
    decoder: str | None = None,
) -> Frames:
    """At most `frames` frames, each in the middle of one of as many equal spans of the segment.

    A segment with fewer source frames gives each of them once. `decoder`: `decord` or `pyav`, default the
    first of them that is installed.

    Raises:
        MediaError: `unreadable`, `no_video_stream`, `bad_segment`, `no_frames`, `short_video`, `corrupt`.
    """
    stream = probe(path)
    start, end = _segment(stream.duration_s, start_s, end_s)
    decoder = decoder or ("decord" if decord is not None else "pyav")
    reading = _decord_frames if decoder == "decord" else _pyav_frames
    try:
        times_s, pictures = reading(path, stream, _wanted_times(start, end, frames), resize)
    except MediaError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise what the bytes make them raise
        raise MediaError("corrupt", f"{decoder}: {_first_line(error)}") from None
    if not pictures:
        raise MediaError("no_frames", f"no frame between {start:.3f} and {end:.3f} s")
    offset = times_s[0] - start
    step = (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else end - start
    return Frames(np.stack(pictures), float(offset), float(step))


class VideoStream(NamedTuple):
    """What the container says of the stream that is read."""

    index: int
    start_s: float
    duration_s: float


def probe(path: str) -> VideoStream:
    """Open the container and choose FFmpeg's best video stream, as decord does.

    Raises:
        MediaError: `unreadable`, `no_video_stream`.
    """
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream) or _is_cover(stream):
                raise MediaError("no_video_stream", "the file has no video stream")
            tick = float(stream.time_base or 0)
            duration_s = (container.duration or 0) / av.time_base
            if stream.duration:
                duration_s = stream.duration * tick
            return VideoStream(stream.index, (stream.start_time or 0) * tick, duration_s)
    except MediaError:
        raise
    except Exception as error:  # noqa: BLE001 - FFmpeg's errors are many; the file is at fault
        raise MediaError("unreadable", _first_line(error)) from None


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _segment(duration_s: float, start_s: float | None, end_s: float | None) -> tuple[float, float]:
    start = start_s or 0.0
    end = min(end_s, duration_s) if end_s is not None and duration_s > 0 else (end_s or duration_s)
    if end <= start:
        raise MediaError("bad_segment", f"{start:g}–{end_s or end:g} s of a video of {duration_s:.3f} s")
    return start, end


def _wanted_times(start: float, end: float, frames: int) -> list[float]:
    """The middle of each of n equal spans."""
    span = (end - start) / frames
    return [start + (index + 0.5) * span for index in range(frames)]


def _require_length(decoded_s: float, stream: VideoStream) -> None:
    missing = stream.duration_s - decoded_s
    if missing > max(SHORT_S, 0.1 * stream.duration_s):
        raise MediaError("short_video", f"{decoded_s:.2f} s of frames, {stream.duration_s:.2f} s declared")


def _decord_frames(
    path: str, stream: VideoStream, wanted_s: list[float], resize: PictureGeometry
) -> tuple[list[float], list[np.ndarray]]:
    assert decord is not None
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    spans_s = reader.get_frame_timestamp(range(len(reader)))  # [frames, (start, end)]
    starts_s = spans_s[:, 0] - spans_s[0][0]
    _require_length(float(spans_s[-1][1] - spans_s[0][0]), stream)
    on_screen = np.searchsorted(starts_s, wanted_s, side="right") - 1
    chosen = np.unique(np.clip(on_screen, 0, len(reader) - 1))
    pictures: list[np.ndarray] = []
    for at in range(0, len(chosen), GROUP):
        group = reader.get_batch(chosen[at : at + GROUP].tolist()).asnumpy()
        pictures += [resize(picture) for picture in group]
    return starts_s[chosen].tolist(), pictures


def _pyav_frames(
    path: str, stream: VideoStream, wanted_s: list[float], resize: PictureGeometry
) -> tuple[list[float], list[np.ndarray]]:
    times_s: list[float] = []
    pictures: list[np.ndarray] = []

    def keep(time_s: float, frame: av.VideoFrame) -> None:
        if not times_s or times_s[-1] != time_s:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            times_s.append(time_s)
            pictures.append(resize(upright))

    targets = deque(wanted_s)
    shown: tuple[float, av.VideoFrame] | None = None
    for time_s, frame in _frames_from(path, stream, wanted_s[0]):
        while targets and targets[0] < time_s:
            keep(*(shown or (time_s, frame)))
            targets.popleft()
        if not targets:
            return times_s, pictures
        shown = (time_s, frame)
    if shown is not None:
        _require_length(shown[0], stream)
        keep(*shown)
    return times_s, pictures


def _frames_from(path: str, stream: VideoStream, time_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the stream's start, frame) in order, from some frame at or before `time_s` on."""
    for seek in (True, False) if time_s > SEEK_FROM_S else (False,):
        with av.open(path) as container:
            source = container.streams[stream.index]
            assert isinstance(source, av.VideoStream)
            if seek:
                container.seek(int((time_s + stream.start_s) / float(source.time_base or 1)), stream=source)
            for count, frame in enumerate(container.decode(source)):
                frame_s = (frame.time or 0.0) - stream.start_s
                if seek and count == 0 and frame_s > time_s:
                    break  # a container whose seek overshoots: once more, from the start
                yield frame_s, frame
            else:
                return


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
