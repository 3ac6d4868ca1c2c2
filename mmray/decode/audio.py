"""A sound file, a video's sound track, or a segment of either → one mono waveform at the rate asked for.

torchcodec or PyAV, not decord: decord's AudioReader returns short waveforms of damaged files without an
error, resamples unlike anything else, and leaks. Whoever decodes, sound is averaged over channels and
resampled (FFmpeg's swresample) here, piece by piece, so memory holds the samples asked for and no more.

torchcodec reads short recordings whole: of pieces it gives other samples (measured: mp3 shifted by the
encoder's delay, AAC's last packets changed), and a whole long recording does not fit in bounded memory.
PyAV reads those, segments, files whose time stamps are not exact to the sample or that do not say how long
they are, and whatever torchcodec cannot: then it says what is wrong.

A segment is the same samples that a cut of the whole recording would give (in Matroska, whose time stamps
are whole milliseconds, to one): decoding begins a little earlier, at a sample where the grids of
the old and the new rate meet, and what is too much is cut off after resampling.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from mmray.decode.container import (
    check_segment,
    clearly_short,
    declared_s,
    faults,
    open_media,
    origin_s,
    sound_track,
)
from mmray.errors import MediaError

__all__ = ["Waveform", "decode_audio"]

MARGIN_S = 0.5
"""Decoded and thrown away on both sides of a segment: codecs and resampler need a run-up."""
CHUNK_S = 1.0
"""Resampled at a time, at least."""
WHOLE_VALUES = 2**23
"""Samples times channels that are decoded at once (32 MB): 87 s of stereo at 48 kHz."""
MAX_PAGE_BYTES = 27 + 255 + 255 * 255
"""Of Ogg."""
FRAME_S = 0.1
"""A track may be longer or shorter than declared by this: codecs work in frames."""


class Waveform(NamedTuple):
    """Mono sound; sample 0 is at the segment's beginning."""

    samples: np.ndarray
    """float32 [N], in [-1, 1]."""
    sample_rate_hz: int


def decode_audio(
    path: str, *, sample_rate_hz: int, start_s: float | None, end_s: float | None, decoder: str
) -> Waveform:
    """The mean of the channels of the segment (default: the whole recording), resampled.

    Where the sound track begins after the recording does, the time before it is silence.

    Args:
        path: A local file with sound.
        sample_rate_hz: Of the result.
        start_s: Beginning of the segment, from the recording's beginning; None: that beginning.
        end_s: End of the segment; None: the end of the sound.
        decoder: `torchcodec` or `pyav`; the samples are the same.

    Raises:
        MediaError: `missing_file`, `unreadable`, `no_audio_stream`, `bad_segment`, `empty`, `corrupt`, or
            `short_audio` where the file ends before the sound it declares to have.

    """
    begin_s = start_s or 0.0
    with open_media(path) as container, faults("corrupt"):
        declared_end_s = _declared_end_s(container, sound_track(container))
        check_segment(start_s, end_s, declared_end_s)
        samples, sound_end_s = _segment(path, container, sample_rate_hz, begin_s, end_s, decoder)
        if end_s is None and container.format.name == "ogg" and _ends_inside_a_page(path):
            raise MediaError("short_audio", f"the file ends inside a page, at {sound_end_s:.3f} s")
    wanted_end_s = declared_end_s if end_s is None else end_s
    if clearly_short(sound_end_s, wanted_end_s):
        declared = "" if declared_end_s is None else f" of {declared_end_s:.3f} s declared"
        raise MediaError("short_audio", f"the sound ends at {sound_end_s:.3f} s{declared}")
    if not len(samples):
        raise MediaError("empty", "no sound in the segment")
    return Waveform(samples, sample_rate_hz)


def _declared_end_s(container: InputContainer, stream: AudioStream) -> float | None:
    """Where the sound ends by the file's own account, from the recording's beginning."""
    duration_s = declared_s(container, stream)
    if duration_s is None or stream.start_time is None or stream.time_base is None:
        return duration_s
    return duration_s + max(float(stream.start_time * stream.time_base) - origin_s(container), 0.0)


def _ends_inside_a_page(path: str) -> bool:
    """Whether an Ogg file was cut off: it declares no length, but each page has its own.

    Source: RFC 3533, section 6: 26 bytes, the count of segments, their sizes, their data.
    """
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - MAX_PAGE_BYTES, 0))
        end = file.read()
    page = end[max(end.rfind(b"OggS"), 0) :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 or len(page) < 27 + page[26] + sum(sizes)


def _segment(
    path: str, container: InputContainer, rate_hz: int, begin_s: float, end_s: float | None, decoder: str
) -> tuple[np.ndarray, float]:
    """Samples float32 [N] of the segment at `rate_hz`, and where decoding came to an end."""
    if begin_s > MARGIN_S:
        # A seek may land late, or inside a packet; only the way from the beginning tells damage from that.
        with contextlib.suppress(MediaError), faults("corrupt"):
            sought_s = begin_s - MARGIN_S + origin_s(container)
            container.seek(round(sought_s * av.time_base))
            sound = _read_with_pyav(container)
            if sound is None or sound.position <= begin_s * sound.rate_hz:
                return _cut(sound, rate_hz, begin_s, end_s)
    elif decoder == "torchcodec":
        with contextlib.suppress(MediaError), faults("corrupt"):
            if sound := _read_with_torchcodec(path, container):
                return _cut(sound, rate_hz, begin_s, end_s)
    with open_media(path) as afresh:
        return _cut(_read_with_pyav(afresh), rate_hz, begin_s, end_s)


class _Sound(NamedTuple):
    """Mono sound at the rate it has in the file."""

    rate_hz: int
    position: int
    """Sample at which `pieces` begin; 0 is the recording's beginning."""
    pieces: Iterator[np.ndarray]
    """float32 [n] each, one after another without gaps."""


def _cut(sound: _Sound | None, rate_hz: int, begin_s: float, end_s: float | None) -> tuple[np.ndarray, float]:
    """The segment at `rate_hz`, float32 [N], and where `sound` came to an end."""
    if sound is None:
        return np.zeros(0, np.float32), 0.0
    # Sample i * grid of the old rate is, for every i, at the time of a sample of the new rate.
    grid = sound.rate_hz // math.gcd(sound.rate_hz, rate_hz)
    origin = int(max(begin_s - MARGIN_S, 0.0) * sound.rate_hz) // grid * grid
    stop = None if end_s is None else math.ceil((end_s + MARGIN_S) * sound.rate_hz)
    samples, consumed = _resampled(_chunks(sound, origin, stop), sound.rate_hz, rate_hz)
    offset = origin * rate_hz // sound.rate_hz
    begin = round(begin_s * rate_hz) - offset
    end = None if end_s is None else round(end_s * rate_hz) - offset
    segment = samples[begin:end]
    return np.clip(segment, -1.0, 1.0, out=segment), (origin + consumed) / sound.rate_hz


def _mean(samples: np.ndarray) -> np.ndarray:
    """[channels, n] → float32 [n], the mean; full scale of integer formats is 1."""
    mean = samples.mean(axis=0, dtype=np.float64)
    if samples.dtype == np.uint8:
        mean = (mean - 128) / 128
    elif samples.dtype.kind == "i":
        mean = mean / 2 ** (8 * samples.dtype.itemsize - 1)
    return mean.astype(np.float32)


# ------------------------------------------------------------------------------------ torchcodec


def _read_with_torchcodec(path: str, container: InputContainer) -> _Sound | None:
    """The whole track; None where it is too long, or does not say how long it is.

    Raises:
        MediaError: `corrupt` where it is not as long as it says.

    """
    stream = sound_track(container)
    rate_hz, first, duration_s = stream.rate, stream.start_time, declared_s(container, stream)
    if not duration_s or first is None or stream.time_base is None:
        return None
    if (stream.time_base * rate_hz).numerator != 1 or duration_s * rate_hz * stream.channels > WHOLE_VALUES:
        return None
    from torchcodec.decoders import AudioDecoder  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

    sound = AudioDecoder(path, stream_index=stream.index).get_all_samples()
    if sound.sample_rate != rate_hz or abs(sound.duration_seconds - duration_s) > FRAME_S:
        raise MediaError("corrupt", f"{sound.duration_seconds} s of {duration_s} s declared")
    position = round((sound.pts_seconds - origin_s(container)) * rate_hz)
    return _Sound(rate_hz, position, iter([_mean(sound.data.numpy())]))


# ------------------------------------------------------------------------------------ PyAV


def _read_with_pyav(container: InputContainer) -> _Sound | None:
    """The track from where the container is; None where no sound is left."""
    frames = _decoded(container, sound_track(container))
    first = next(frames, None)
    if first is None:
        return None
    rate_hz = first.sample_rate
    position = 0 if first.time is None else round((first.time - origin_s(container)) * rate_hz)
    if container.duration and position > (container.duration / av.time_base + MARGIN_S) * rate_hz:
        raise MediaError("corrupt", f"time stamps begin at {first.time} s, after the recording's end")

    def pieces() -> Iterator[np.ndarray]:
        for frame in itertools.chain([first], frames):
            if frame.sample_rate != rate_hz:
                raise MediaError("corrupt", f"the rate changes from {rate_hz} Hz to {frame.sample_rate} Hz")
            samples = frame.to_ndarray()
            yield _mean(
                samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T
            )

    return _Sound(rate_hz, position, pieces())


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """The stream's frames; a fault in its last packet is the end of a file that was cut off.

    Raises:
        MediaError: `corrupt` where sound follows the fault, `short_audio` where the last packet is cut.

    """
    fault: Exception | None = None
    cut = False
    for packet in container.demux(stream):
        if (fault or cut) and packet.size:
            raise MediaError("corrupt", f"a packet cannot be decoded: {fault or 'damaged'}") from fault
        cut = cut or packet.is_corrupt
        try:
            yield from packet.decode()
        except FFmpegError as error:
            fault = error
    if cut:
        raise MediaError("short_audio", "the file ends in the middle of a packet")


# ------------------------------------------------------------------------------------ resample


def _chunks(sound: _Sound, origin: int, stop: int | None) -> Iterator[np.ndarray]:
    """Mono sound [n] from sample `origin` until `stop` is passed."""
    position = sound.position
    parts = [np.zeros(max(position - origin, 0), np.float32)]
    for samples in sound.pieces:
        parts.append(samples[max(origin - position, 0) :])
        position += len(samples)
        if stop is not None and position >= stop:
            break
        if sum(map(len, parts)) >= CHUNK_S * sound.rate_hz:
            yield np.concatenate(parts)
            parts = []
    yield np.concatenate([np.zeros(0, np.float32), *parts])


def _resampled(chunks: Iterator[np.ndarray], native_hz: int, rate_hz: int) -> tuple[np.ndarray, int]:
    """Sound at `rate_hz`, float32, and how many samples at `native_hz` it was made from."""
    resampler = AudioResampler(format="fltp", layout="mono", rate=rate_hz)
    samples, consumed = bytearray(), 0  # grows in place: an hour's samples are not held twice
    for chunk in chunks:
        consumed += len(chunk)
        if native_hz == rate_hz or not len(chunk):
            samples += chunk.tobytes()
            continue
        frame = AudioFrame.from_ndarray(chunk[None], format="fltp", layout="mono")
        frame.sample_rate = native_hz
        samples += b"".join(out.to_ndarray().tobytes() for out in resampler.resample(frame))
    if native_hz != rate_hz and consumed:
        samples += b"".join(out.to_ndarray().tobytes() for out in resampler.resample(None))
    return np.frombuffer(samples, np.float32), consumed
