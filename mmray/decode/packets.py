"""A media file → the packets of its sound and of its pictures, and when each is due, without decoding any.

A file's header says how long it is and where a seek will land; packets say what is there. So one pass over
the file notes each packet's time stamps, size and place, and all else is reckoned from these: which frames
exist, where sound has gaps, what a segment is made of, where a seek has landed. The last few files are
remembered: the utterances of one long recording share one pass, as do its features.

Times are those a player shows. They count from the recording's beginning, the first stamp of all streams.
Where stamps start again (files joined end to end, as MPEG-TS and Ogg can be), each part follows the one
before.
"""

import itertools
import mmap
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from mmray.decode.container import best_sound, best_video, faults, kinds, open_media, regular_file
from mmray.decode.declared import OF_THE_WHOLE, clearly_short, declared_end_s, whole_end_s

__all__ = ["NO_STAMP", "Packets", "Recording", "identity", "numbered", "read_recording", "sought"]

NO_STAMP = np.iinfo(np.int64).min
BACK_S = 0.5
"""Decoding stamps that go back by more start again."""
AHEAD_S = 10.0
"""So do those of all streams of a broadcast format that leap further; less is time without packets."""
KEY, HIDDEN, DAMAGED, BLANK = 1, 2, 4, 8
COLUMNS = 6
SEARCHED_PACKETS = 64
"""Looked at after a seek, to find out where it landed."""


FIRST_BYTES = {"asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "flv": b"FLV\1"}
"""How a file begins, of formats whose demuxers stop where another file is joined on. Sources: ASF
specification 1.20.03, section 10.1; FLV specification 10.1, annex E.2."""


class Packets(NamedTuple):
    """One stream's packets that have content, in the order of the file."""

    stream: int
    """Number of the stream among all of the file."""
    codec: str
    unit_s: float
    """Seconds of one unit of the stamps."""
    stamps: np.ndarray
    """int64 [P]: when each is presented, on the recording's one timeline; NO_STAMP where it does not say."""
    raw_stamps: np.ndarray
    """int64 [P]: the same as the file has them."""
    decoding: np.ndarray
    """int64 [P]: when each is decoded, or NO_STAMP."""
    durations: np.ndarray
    """int64 [P], in units; 0 where unknown."""
    places: np.ndarray
    """int64 [P]: bytes from the file's beginning, or -1."""
    sizes: np.ndarray
    """int64 [P]: bytes."""
    is_key: np.ndarray
    """bool [P]: decodable without another."""
    is_hidden: np.ndarray
    """bool [P]: decoded but not presented (edit lists; frames that are references only)."""
    is_damaged: np.ndarray
    """bool [P]: known not to be whole."""
    restarts: frozenset[int]
    """Packets at which the stamps start again."""
    declared_end_s: float | None
    """Where the stream ends by the file's own account, where it has one."""
    declared_packets: int
    """How many packets it has by that account; 0 where it does not say."""

    def times_s(self, origin_s: float) -> np.ndarray:
        """float64 [P]: the stamps in seconds from the recording's beginning."""
        return self.stamps * self.unit_s - origin_s

    def find(self, packet: Packet) -> int | None:
        """The number of a packet just read from the same file; None where it is none, or may be several."""
        if packet.pos is None or packet.pos < 0:
            return None
        found = np.flatnonzero((self.places == packet.pos) & (self.sizes == packet.size))
        if len(found) > 1 and packet.pts is not None:
            found = found[self.raw_stamps[found] == packet.pts]
        return int(found[0]) if len(found) == 1 else None


def sought(
    container: InputContainer, stream: VideoStream | AudioStream, packets: Packets, wanted: int
) -> Iterator[tuple[int, Packet]] | None:
    """Seek to the packet `wanted` or one before it; the numbered packets from there.

    None where the container lands on none that is known, or after it: a seek may land elsewhere than it
    says. Then the container is of no further use.
    """
    stamp = packets.raw_stamps[wanted]
    if packets.restarts or stamp == NO_STAMP:
        return None
    container.seek(int(stamp), stream=stream)
    following = container.demux(stream)
    for packet in itertools.islice(following, SEARCHED_PACKETS):  # some have no place, as in MPEG-TS
        number = packets.find(packet) if packet.size else None
        if number is not None:
            return (
                numbered(itertools.chain([packet], following), packets, number) if number <= wanted else None
            )
    return None


def numbered(following: Iterable[Packet], packets: Packets, first: int = 0) -> Iterator[tuple[int, Packet]]:
    """Packets with their numbers and, in place of what the container now says, the stamps they are known by.

    `first` is the number of the next one with content.
    """
    number = first
    for packet in following:
        if not packet.size:
            yield number, packet
            continue
        stamp, decoding = int(packets.stamps[number]), int(packets.decoding[number])
        shift = 0 if stamp == NO_STAMP else stamp - int(packets.raw_stamps[number])
        packet.pts = None if stamp == NO_STAMP else stamp
        packet.dts = None if decoding == NO_STAMP else decoding + shift
        yield number, packet
        number += 1


class Recording(NamedTuple):
    """What a file has: its best streams of pictures and of sound."""

    format: str
    origin_s: float
    """Time stamp of the recording's beginning."""
    pictures: Packets | None
    sound: Packets | None
    declared_end_s: float | None
    """Where the longest stream ends by the header's account, where it has one of the whole only."""
    streams: str
    """Kinds of all its streams, for messages."""
    fault: str | None
    """Why packets after the last could not be read."""

    def end_s(self, packets: Packets) -> float | None:
        """Where a stream ends by its packets; None where they know no times."""
        known = np.flatnonzero(packets.stamps != NO_STAMP)
        if not len(known):
            return float(packets.durations.sum() * packets.unit_s) or None
        last = known[np.argmax(packets.stamps[known])]
        following = packets.durations[last:].sum() if last == known[-1] else packets.durations[last]
        return float((packets.stamps[last] + following) * packets.unit_s - self.origin_s)

    @property
    def is_short(self) -> bool:
        """Whether the file ends long before the header says."""
        found = [self.end_s(track) or 0.0 for track in (self.pictures, self.sound) if track is not None]
        return clearly_short(max(found, default=0.0), self.declared_end_s)


def read_recording(path: str) -> Recording:
    """The packets of a local file, from memory where it is one of the last few asked for.

    Raises:
        MediaError: `missing_file`, `unreadable` or `corrupt`.

    """
    return _recording_of(path, identity(path))


def identity(path: str) -> tuple[int, ...]:
    """What tells a file from another that had the same path before it.

    Raises:
        MediaError: `missing_file`, or `unreadable` where it is no plain file.

    """
    state = regular_file(path)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=4)  # of an hour with sound: 13 MB each
def _recording_of(path: str, identity: tuple[int, ...]) -> Recording:
    with open_media(path) as container, faults("corrupt"):
        streams = [s for s in (best_video(container), best_sound(container)) if s is not None]
        tables, fault = _read(container, streams)
        if container.format.name == "ogg":
            for table in tables.values():
                _stamp_first_pages(table)
        origin_s = (container.start_time or 0) / av.time_base
        if early := _early_units(container, streams, tables):
            origin_s = _mend_early_sound(streams, tables, early)
        shifts, origin_s = _one_timeline(container, streams, tables, origin_s)
        found: dict[str, Packets] = {}
        for stream in streams:
            table, shift = tables[stream.index], shifts[stream.index]
            stamps, flags = table[:, 0].copy(), table[:, 5]
            stamps[stamps != NO_STAMP] += shift[stamps != NO_STAMP]
            if stream.type == "audio":  # a stamp given again says nothing
                stamps[1:][np.diff(stamps) == 0] = NO_STAMP
            found[stream.type] = Packets(
                stream.index,
                stream.codec_context.name,
                float(stream.time_base or 0),
                stamps,
                table[:, 0],
                table[:, 1],
                table[:, 2],
                table[:, 3],
                table[:, 4],
                (flags & KEY) != 0,
                (flags & HIDDEN) != 0,
                (flags & DAMAGED) != 0,
                frozenset((np.flatnonzero(np.diff(shift)) + 1).tolist()),
                declared_end_s(path, container, stream, origin_s),
                getattr(stream, "frames", 0),
            )
        fault = fault or _unread(path, container.format.name, tables)
        whole = whole_end_s(container, origin_s) if container.format.name in OF_THE_WHOLE else None
        return Recording(
            container.format.name,
            origin_s,
            found.get("video"),
            found.get("audio"),
            whole,
            kinds(container),
            fault,
        )


def _read(
    container: InputContainer, streams: list[VideoStream | AudioStream]
) -> tuple[dict[int, np.ndarray], str | None]:
    """{stream: int64 [P, 6]}: stamp, decoding stamp, duration, place, size, flags of each packet; a fault."""
    tables = {stream.index: array("q") for stream in streams}
    vp8 = {stream.index for stream in streams if stream.codec_context.name == "vp8"}
    following = container.demux(*streams) if streams else iter(())
    while True:
        try:
            packet = next(following, None)
        except FFmpegError as error:  # the rest is out of reach
            return _tables(tables), error.strerror
        if packet is None:
            return _tables(tables), None
        if not packet.size:
            continue
        pts, dts, place = packet.pts, packet.dts, packet.pos
        # The 5th bit of a VP8 frame says whether it is shown. Source: RFC 6386, section 9.1.
        hidden = packet.is_discard or (packet.stream_index in vp8 and not memoryview(packet)[0] & 16)
        tables[packet.stream_index].extend(
            (
                NO_STAMP if pts is None else pts,
                NO_STAMP if dts is None else dts,
                packet.duration or 0,
                -1 if place is None else place,
                packet.size,
                KEY * packet.is_keyframe | HIDDEN * hidden | DAMAGED * packet.is_corrupt,
            )
        )


def _unread(path: str, format_name: str, tables: Mapping[int, np.ndarray]) -> str | None:
    """A fault where another file begins after the last packet: the demuxer stops at such a seam."""
    ends = [int((table[:, 3] + table[:, 4]).max()) for table in tables.values() if len(table)]
    if format_name not in FIRST_BYTES or not ends:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        seam = whole.find(FIRST_BYTES[format_name], max(ends))
        if seam < 0:
            return None
        return f"{len(whole) - seam} bytes follow that are not part of this recording; were files joined?"


def _tables(tables: Mapping[int, array]) -> dict[int, np.ndarray]:
    return {number: np.array(table, np.int64).reshape(-1, COLUMNS) for number, table in tables.items()}


def _stamp_first_pages(table: np.ndarray) -> None:
    """Give an Ogg chain's first packets their own stamps: FFmpeg counts them on from the chain before."""
    back = np.flatnonzero(
        (np.diff(table[:, 0]) < 0) & (table[1:, 0] != NO_STAMP) & (table[:-1, 0] != NO_STAMP)
    )
    for last in back.tolist():
        while last >= 0 and table[last, 3] == table[last + 1, 3]:  # on the same page
            table[last, :2] = table[last + 1, 0] - table[last, 2]
            last -= 1


def _early_units(
    container: InputContainer, streams: list[VideoStream | AudioStream], tables: Mapping[int, np.ndarray]
) -> int:
    """By how much the sound's stamps are too early.

    FFmpeg wrote Opus into Matroska without the codec's delay until libavformat 59.30.100 (FFmpeg 5).
    Source: LadybirdBrowser/ladybird, pull request 6685.
    """
    writer = re.fullmatch(r"Lavf(\d+)\.(\d+)\.\d+", container.metadata.get("ENCODER", ""))
    if container.format.name != "matroska,webm" or not writer or (int(writer[1]), int(writer[2])) > (59, 30):
        return 0
    for stream in streams:
        table = tables[stream.index]
        if stream.codec_context.name == "opus" and len(table) and stream.start_time is not None:
            return max(stream.start_time - int(table[0, 0]), 0)  # FFmpeg says where what is played begins
    return 0


def _mend_early_sound(
    streams: list[VideoStream | AudioStream], tables: Mapping[int, np.ndarray], early: int
) -> float:
    """Delay the sound by `early` units; returns the stamp of the recording's beginning, in seconds."""
    begins_s = []
    for stream in streams:
        sound = stream.type == "audio"
        if sound:
            tables[stream.index][:, :2] += early
        if stream.start_time is not None and stream.time_base:
            begins_s.append(float((stream.start_time + early * sound) * stream.time_base))
    return min(begins_s)


# ------------------------------------------------------------------------------------ one timeline


def _one_timeline(
    container: InputContainer,
    streams: list[VideoStream | AudioStream],
    tables: Mapping[int, np.ndarray],
    origin_s: float,
) -> tuple[dict[int, np.ndarray], float]:
    """{stream: int64 [P]}, what to add to each stamp so that parts follow each other; and the beginning."""
    none = {number: np.zeros(len(table), np.int64) for number, table in tables.items()}
    leaps = bool(container.format.flags & Flags.ts_discont.value)
    units = {stream.index: float(stream.time_base or 0) for stream in streams}
    timed = {n: t for n, t in tables.items() if len(t) and (t[:, 0] != NO_STAMP).any()}
    parts = {n: _parts(table, units[n], leaps=leaps) for n, table in timed.items()}
    if leaps and len({part[-1] for part in parts.values()}) > 1:  # a leap of one stream is a gap in it
        parts = {n: _parts(table, units[n], leaps=False) for n, table in timed.items()}
    if not any(part[-1] for part in parts.values()):
        return none, origin_s
    spans = {
        (n, k): _span_s(table[(parts[n] == k) & (table[:, 0] != NO_STAMP)], units[n])
        for n, table in timed.items()
        for k in range(parts[n][-1] + 1)
    }
    last = max(k for _, k in spans)
    begins = [min(span[0] for (_, k), span in spans.items() if k == part) for part in range(last + 1)]
    if container.format.name == "ogg":  # what is before zero is not played
        begins = [max(begin, 0.0) for begin in begins]
    ends = [max(span[1] for (_, k), span in spans.items() if k == part) for part in range(last + 1)]
    shift_s = np.zeros(last + 1)
    for part in range(1, last + 1):
        shift_s[part] = ends[part - 1] + shift_s[part - 1] - begins[part]
    shifts = {n: np.round(shift_s[parts[n]] / units[n]).astype(np.int64) for n in timed}
    return {**none, **shifts}, origin_s if container.format.name == "ogg" else begins[0]


def _parts(table: np.ndarray, unit_s: float, *, leaps: bool) -> np.ndarray:
    """int64 [P]: the part each packet belongs to, from 0."""
    stamps = np.where(table[:, 1] != NO_STAMP, table[:, 1], table[:, 0])
    known = stamps != NO_STAMP
    at = np.maximum.accumulate(np.where(known, np.arange(len(stamps)), 0))
    stamps_s = stamps[at] * unit_s if known[0] else np.where(known, stamps, stamps[known][0])[at] * unit_s
    steps_s = np.diff(stamps_s)
    starts = steps_s < -BACK_S
    if leaps:
        starts |= steps_s > AHEAD_S
    return np.concatenate([[0], np.cumsum(starts)])


def _span_s(table: np.ndarray, unit_s: float) -> tuple[float, float]:
    """When the first packet is presented, and when the last one ends."""
    if not len(table):
        return np.inf, -np.inf
    return float(table[:, 0].min() * unit_s), float((table[:, 0] + table[:, 2]).max() * unit_s)
