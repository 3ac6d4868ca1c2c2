"""A sound file, a video's sound track, or a segment of either → one mono waveform at the rate asked for.

Sound is decoded by PyAV, averaged over channels, put where its time stamps say, and resampled (FFmpeg's
swresample) piece by piece, so memory holds the samples asked for and no more. decord and torchcodec were
rejected for sound: decord returns short waveforms of damaged files without an error and resamples unlike
anything else; torchcodec joins what time stamps leave apart, and is no faster here.

Time that the stamps leave out is silence, as a player has it; the sound before the track begins too. Stamps
jitter, so less than `JITTER_S` is not believed (FFmpeg's `aresample=async=1` does the same).

A segment is the same samples that a cut of the whole recording would give: decoding begins a little
earlier, at a packet whose place is known from the whole file's packets, at a sample where the grids of the
old and the new rate meet, and what is too much is cut off after resampling. Where a codec's packets differ
in length and the container rounds stamps (Vorbis in Matroska), the two agree to that rounding, 1 ms.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from mmray.decode.container import faults, open_media, packets_of, sound_track
from mmray.decode.declared import DECLARING, check_segment, clearly_short
from mmray.decode.packets import Packets, Recording, numbered, read_recording, sought
from mmray.decode.timeline import NO_STAMP
from mmray.errors import MediaError

__all__ = ["Waveform", "decode_audio"]

MARGIN_S = 0.5
"""Decoded and thrown away on both sides of a segment: codecs and resampler need a run-up."""
RUN_UP_PACKETS = 8
"""After a seek these may be undecodable: they lean on what came before (mp3's bit reservoir)."""
CHUNK_S = 1.0
"""Resampled at a time, at least."""
JITTER_S = 0.1
"""Sound whose stamp is this far from where the sound before it ends still follows it."""
EQUAL_PACKETS = frozenset(
    {"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp2float", "mp3", "mp3float", "opus"}
)
"""Codecs whose packets all have the same number of samples; so have PCM and ADPCM."""
EXACT_SEEKS = frozenset({"aiff", "au", "caf", "w64", "wav"})
"""Formats in which a seek in PCM lands on the very sample."""


class Waveform(NamedTuple):
    """Mono sound; sample 0 is at the segment's beginning."""

    samples: np.ndarray
    """float32 [N], in [-1, 1]."""
    sample_rate_hz: int


def decode_audio(path: str, *, sample_rate_hz: int, start_s: float | None, end_s: float | None) -> Waveform:
    """The mean of the channels of the segment (default: the whole recording), resampled.

    Args:
        path: A local file with sound.
        sample_rate_hz: Of the result.
        start_s: Beginning of the segment, from the recording's beginning; None: that beginning.
        end_s: End of the segment; None: the end of the sound.

    Raises:
        MediaError: `missing_file`, `unreadable`, `no_audio_stream`, `bad_segment`, `empty`, `corrupt` (also
            where samples are no numbers), or `short_audio` where the file ends before the sound it declares.

    """
    recording = read_recording(path)
    packets = recording.sound
    if packets is None:
        raise MediaError("no_audio_stream", f"streams: {recording.streams}")
    tracks = [track for track in (packets, recording.pictures) if track is not None]
    ends_s = [end for track in tracks for end in (track.declared_end_s, recording.end_s(track)) if end]
    last_s = max(ends_s, default=None)
    if recording.fault and (end_s is None or last_s is None or end_s > last_s):
        raise MediaError("corrupt", f"after {last_s or 0.0:.3f} s: {recording.fault}")
    check_segment(start_s, end_s, last_s)
    with faults("corrupt"):
        samples, sound_end_s = _segment(path, recording, packets, sample_rate_hz, start_s or 0.0, end_s)
    declared_s = packets.declared_end_s
    wanted_s = min((end for end in (declared_s, end_s) if end is not None), default=None)
    if recording.is_short and (end_s is None or end_s > sound_end_s):
        wanted_s = declared_s = recording.declared_end_s
    if clearly_short(sound_end_s, wanted_s):
        raise MediaError(
            "short_audio", f"the sound ends at {sound_end_s:.3f} s of {declared_s:.3f} s declared"
        )
    if recording.cut_inside and (end_s is None or end_s > sound_end_s):
        raise MediaError(
            "short_audio", f"the file ends inside {recording.cut_inside}, at {sound_end_s:.3f} s"
        )
    if not len(samples):
        raise MediaError("empty", "no sound in the segment")
    return Waveform(samples, sample_rate_hz)


def _segment(
    path: str, recording: Recording, packets: Packets, rate_hz: int, begin_s: float, end_s: float | None
) -> tuple[np.ndarray, float]:
    """Samples float32 [N] of the segment at `rate_hz`, and where decoding came to an end."""
    if begin_s > MARGIN_S:
        # Where the container lands elsewhere, or what it gives there is odd, only the way from the beginning
        # tells damage from that.
        with contextlib.suppress(MediaError), faults("corrupt"), open_media(path) as container:
            if sound := _from_within(container, recording, packets, begin_s - MARGIN_S):
                return _cut(sound, rate_hz, begin_s, end_s)
    with open_media(path) as container:
        following = numbered(packets_of(container, sound_track(container)), packets)
        return _cut(_placed(_frames(following, recording, packets)), rate_hz, begin_s, end_s)


class _Sound(NamedTuple):
    """Mono sound at the rate it has in the file."""

    rate_hz: int
    position: int
    """Sample at which `pieces` begin; 0 is the recording's beginning."""
    pieces: Iterator[np.ndarray]
    """float32 [n] each, one after another without gaps."""


class _Frame(NamedTuple):
    """Some decoded sound."""

    rate_hz: int
    position: int | None
    """Sample at which it begins by its time stamp; 0 is the recording's beginning."""
    samples: np.ndarray
    """float32 [n], mono."""
    packet: int
    """The one last given to the decoder."""
    jitter_s: float = JITTER_S
    """How far its stamp may be off."""


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
    if not np.isfinite(segment).all():  # floating-point formats can hold anything
        raise MediaError("corrupt", "the sound has samples that are no numbers")
    return np.clip(segment, -1.0, 1.0, out=segment), (origin + consumed) / sound.rate_hz


# ------------------------------------------------------------------------------------ decode


def _frames(
    following: Iterable[tuple[int, Packet]], recording: Recording, packets: Packets, run_up: int = 0
) -> Iterator[_Frame]:
    """What numbered packets decode to; a fault in the last one is the end of a file that was cut off.

    Packets before number `run_up` may be undecodable.

    Raises:
        MediaError: `corrupt` where sound follows a fault, `short_audio` where the last packet is cut.

    """
    fault: str | None = None
    cut, rate_hz, jitter_s = False, 0, JITTER_S
    for number, packet in following:
        if packet.size and packets.is_tag[number]:
            continue
        if packet.size and (fault or cut):
            at_s = packets.times_s(recording.origin_s)[number - 1]
            where = "a packet" if packets.stamps[number - 1] == NO_STAMP else f"the packet at {at_s:.3f} s"
            raise MediaError("corrupt", f"{where} cannot be decoded: {fault or 'damaged'}; sound follows it")
        if number in packets.restarts and packet.size:  # nothing of the part before belongs to this one
            packet.stream.codec_context.flush_buffers()
            jitter_s = 0.0
        cut = cut or packet.is_corrupt
        try:
            decoded = packet.decode()
        except FFmpegError as error:
            decoded = []
            fault = None if number < run_up else error.strerror
        for frame in decoded:
            rate_hz = rate_hz or frame.sample_rate
            if frame.sample_rate != rate_hz:
                raise MediaError("corrupt", f"the rate changes from {rate_hz} Hz to {frame.sample_rate} Hz")
            time_s = None if frame.pts is None else frame.pts * float(frame.time_base) - recording.origin_s
            position = None if time_s is None else round(time_s * rate_hz)
            yield _Frame(rate_hz, position, _mean(frame), number, jitter_s)
            jitter_s = JITTER_S
    if cut and (packets.declared_end_s is not None or recording.format not in DECLARING):
        raise MediaError("short_audio", "the file ends in the middle of a packet")


def _mean(frame: AudioFrame) -> np.ndarray:
    """float32 [n], the mean of the channels; full scale of integer formats is 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mean = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float64)
    if samples.dtype == np.uint8:
        mean = (mean.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        mean = mean.astype(np.float64) / 2 ** (8 * samples.dtype.itemsize - 1)
    return mean.astype(np.float32)


def _from_within(
    container: InputContainer, recording: Recording, packets: Packets, from_s: float
) -> _Sound | None:
    """The sound from a little before `from_s`, in its place to the sample; None where that is not known."""
    stream = sound_track(container)
    times_s = packets.times_s(recording.origin_s)
    before = np.flatnonzero((packets.stamps != NO_STAMP) & (times_s <= from_s))
    wanted = int(before[-1]) - RUN_UP_PACKETS if len(before) else 0
    if wanted <= RUN_UP_PACKETS or packets.is_tag.any():  # between joined files frames cannot be counted
        return None
    first = next(_frames(numbered(packets_of(container, stream), packets), recording, packets), None)
    if packets.codec.startswith("pcm_") and recording.format in EXACT_SEEKS:
        container.seek(int(packets.raw_stamps[wanted]), stream=stream)
        return _placed(_frames(((wanted, p) for p in packets_of(container, stream)), recording, packets))
    following = sought(container, stream, packets, wanted)
    if first is None or following is None:
        return None
    frames = _frames(following, recording, packets, run_up=wanted + RUN_UP_PACKETS)
    begin = next(frames, None)
    if begin is None or begin.position is None:
        return None
    begin = begin._replace(position=_place(recording, packets, first, begin))
    sound = _placed(itertools.chain([begin], frames))
    return sound if sound and sound.position <= from_s * sound.rate_hz else None


def _place(recording: Recording, packets: Packets, first: _Frame, frame: _Frame) -> int | None:
    """Where decoding from the beginning would put a frame whose stamp may be rounded or jitter."""
    known = packets.codec in EQUAL_PACKETS or packets.codec.startswith(("adpcm_", "pcm_"))
    stamped = np.round(packets.times_s(recording.origin_s) * frame.rate_hz).astype(np.int64)
    if not known or first.position is None or frame.position != stamped[frame.packet]:
        return frame.position
    size = len(frame.samples)
    unit = packets.unit_s * frame.rate_hz
    step = float(np.median(np.diff(packets.stamps[packets.stamps != NO_STAMP])))
    if abs(step * unit - size) > max(unit, 1.0):  # a packet has several frames
        return frame.position
    number, position = first.packet + 1, first.position + len(first.samples)
    jitter = JITTER_S * frame.rate_hz
    for packet, at in enumerate(stamped[number : frame.packet + 1].tolist(), start=number):
        if abs(at - position - (packet - number) * size) > jitter:
            number, position = packet, at
    return position + (frame.packet - number) * size


# ------------------------------------------------------------------------------------ place and resample


def _placed(frames: Iterator[_Frame]) -> _Sound | None:
    """Frames one after another, silence where they leave time out; None where there is no frame."""
    first = next(frames, None)
    if first is None:
        return None
    start = first.position or 0

    def pieces() -> Iterator[np.ndarray]:
        end, held = start, np.zeros(0, np.float32)
        for frame in itertools.chain([first], frames):
            samples, gap = frame.samples, 0 if frame.position is None else frame.position - end
            jitter = frame.jitter_s * first.rate_hz
            if gap < 0 and not jitter:  # another part begins: the one before ends here
                held = held[:gap] if -gap < len(held) else held[:0]
                end += gap
            elif gap < -jitter:
                samples = samples[-gap:]
            yield held
            if gap > jitter:
                end += gap
                while gap > 0:  # piece by piece: a stamp may say anything
                    yield np.zeros(min(gap, first.rate_hz), np.float32)
                    gap -= first.rate_hz
            end += len(samples)
            held = samples
        yield held

    return _Sound(first.rate_hz, start, pieces())


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
