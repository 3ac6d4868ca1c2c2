"""The sound of a video or audio file → one mono waveform at the wanted rate.

PyAV throughout: its resampler is FFmpeg's own, and it raises where decord's reader returns less sound than
there is. A segment is reached by seeking, and cut to the sample; a file's whole sound is held only when
the whole is asked for.
"""

from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer

from mmray.errors import MediaError

__all__ = ["Waveform", "decode_audio"]

SEEK_FROM_S = 10.0
"""Below this it is as fast to decode from the start, and exact in every container."""
PRE_ROLL_S = 1.0
"""Decoded before a segment that was reached by seeking: codecs and the resampler need a run-up."""
SHORT_S = 0.5
"""Sound that lacks more than this, and a tenth of what it should have, is short."""


class Waveform(NamedTuple):
    """Mono sound: `samples` float32 [N], nominally in [-1, 1]."""

    samples: np.ndarray
    sample_rate_hz: int


def decode_audio(
    path: str, *, sample_rate_hz: int, start_s: float | None = None, end_s: float | None = None
) -> Waveform:
    """The segment's sound; channels are averaged.

    Time 0 is the container's, so that sound and frames of one file agree.

    Raises:
        MediaError: `unreadable`, `no_audio_stream`, `bad_segment`, `corrupt`, `short_audio`, `empty`.
    """
    try:
        container = av.open(path)
    except Exception as error:  # noqa: BLE001 - FFmpeg's errors are many; the file is at fault
        raise MediaError("unreadable", _first_line(error)) from None
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise MediaError("no_audio_stream", "the file has no sound track")
        duration_s = _duration_s(container, stream)
        start, end = _segment(duration_s, start_s, end_s)
        try:
            samples = _decode(container, stream, sample_rate_hz, start, end)
        except Exception as error:  # noqa: BLE001 - decoders raise what the bytes make them raise
            raise MediaError("corrupt", _first_line(error)) from None
    if not len(samples):
        raise MediaError("empty", "no sound was decoded")
    if end is not None:
        missing = (end - start) - len(samples) / sample_rate_hz
        if missing > max(SHORT_S, 0.1 * (end - start)):
            got = len(samples) / sample_rate_hz
            raise MediaError("short_audio", f"{got:.2f} s of sound, {end - start:.2f} s declared")
    return Waveform(samples, sample_rate_hz)


def _duration_s(container: InputContainer, stream: av.AudioStream) -> float | None:
    """What the container declares of the stream, or None."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _segment(
    duration_s: float | None, start_s: float | None, end_s: float | None
) -> tuple[float, float | None]:
    start = start_s or 0.0
    end = end_s if duration_s is None else min(duration_s, end_s or duration_s)
    if end is not None and end <= start:
        raise MediaError(
            "bad_segment", f"{start:g}–{end_s or end:g} s of a sound of {duration_s or end:.3f} s"
        )
    return start, end


def _decode(
    container: InputContainer,
    stream: av.AudioStream,
    sample_rate_hz: int,
    start_s: float,
    end_s: float | None,
) -> np.ndarray:
    """Samples of [start_s, end_s), the first and last cut exactly."""
    origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
    if start_s > SEEK_FROM_S and stream.time_base is not None:
        container.seek(int((start_s - PRE_ROLL_S + origin_s) / stream.time_base), stream=stream)
    resampler = av.AudioResampler(format="fltp", rate=sample_rate_hz)
    parts: list[np.ndarray] = []
    first_s, count = None, 0
    for frame in container.decode(stream):
        if first_s is None:
            first_s = (frame.time or 0.0) - origin_s
        for resampled in resampler.resample(frame):
            parts.append(resampled.to_ndarray().mean(0, dtype=np.float32))
            count += len(parts[-1])
        if end_s is not None and first_s + count / sample_rate_hz >= end_s:
            break
    else:
        parts += [resampled.to_ndarray().mean(0, dtype=np.float32) for resampled in resampler.resample(None)]
    if first_s is None or not parts:
        return np.zeros(0, np.float32)
    skip = max(0, round((start_s - first_s) * sample_rate_hz))
    stop = None if end_s is None else max(0, round((end_s - first_s) * sample_rate_hz))
    return np.concatenate(parts)[skip:stop]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
