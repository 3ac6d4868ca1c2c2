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
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from mmray.decode.container import best_sound, best_video, faults, kinds, open_media, packets_of, regular_file
from mmray.decode.declared import OF_THE_WHOLE, clearly_short, declared_end_s, whole_end_s
from mmray.decode.ending import Last, cut_inside, joined_on, tag_bytes
from mmray.decode.timeline import NO_STAMP, early_units, mend_early_sound, one_timeline, stamp_first_pages

__all__ = ["Packets", "Recording", "identity", "numbered", "read_recording", "sought"]

KEY, HIDDEN, DAMAGED, TAG = 1, 2, 4, 8
COLUMNS = 6
SEARCHED_PACKETS = 64
"""Looked at after a seek, to find out where it landed."""


TAGGED = frozenset({"aac", "ac3", "mp3"})
"""Formats that may have tags among their frames."""


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
    is_tag: np.ndarray
    """bool [P]: text or a cover between files that were joined, not sound."""
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

    None where the container cannot seek, or lands on none that is known, or after it: a seek may land
    elsewhere than it says. Then the container is of no further use.
    """
    stamp = packets.raw_stamps[wanted]
    if packets.restarts or stamp == NO_STAMP:
        return None
    try:
        container.seek(int(stamp), stream=stream)
    except FFmpegError:
        return None
    following = packets_of(container, stream)
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
    cut_inside: str | None
    """In the midst of what the file ends, where that can be told."""

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
        tables, heads, fault = _read(container, streams)
        if container.format.name == "ogg":
            for table in tables.values():
                stamp_first_pages(table)
        origin_s = (container.start_time or 0) / av.time_base
        if early := early_units(container, streams, tables):
            origin_s = mend_early_sound(streams, tables, early)
        shifts, origin_s = one_timeline(container, streams, tables, origin_s)
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
                (flags & TAG) != 0,
                frozenset((np.flatnonzero(np.diff(shift)) + 1).tolist()),
                declared_end_s(path, container, stream, origin_s),
                getattr(stream, "frames", 0),
            )
        name = container.format.name
        end = max((int((t[:, 3] + t[:, 4]).max()) for t in tables.values() if len(t)), default=0)
        if not fault and (rest := joined_on(path, name, end)):
            fault = f"{rest} bytes follow that are not part of this recording; were files joined?"
        whole = whole_end_s(container, origin_s) if name in OF_THE_WHOLE else None
        last = [
            Last(t.codec, heads[t.stream], int(t.sizes[-1]), bool(t.is_damaged[-1]))
            for t in found.values()
            if len(t.sizes)
        ]
        return Recording(
            name,
            origin_s,
            found.get("video"),
            found.get("audio"),
            whole,
            kinds(container),
            fault,
            cut_inside(path, name, last),
        )


def _read(
    container: InputContainer, streams: list[VideoStream | AudioStream]
) -> tuple[dict[int, np.ndarray], dict[int, bytes], str | None]:
    """{stream: int64 [P, 6]}: stamp, decoding stamp, duration, place, size, flags of each packet.

    And {stream: the first bytes of its last packet}, and a fault.
    """
    tables = {stream.index: array("q") for stream in streams}
    vp8 = {stream.index for stream in streams if stream.codec_context.name == "vp8"}
    last: dict[int, Packet] = {}
    fault, tag_end = None, 0
    following = packets_of(container, *streams) if streams else iter(())
    while True:
        try:
            packet = next(following, None)
        except FFmpegError as error:  # the rest is out of reach
            packet, fault = None, error.strerror
        if packet is None:
            heads = {number: bytes(memoryview(end)[:16]) for number, end in last.items()}
            return _tables(tables), heads, fault
        if not packet.size:
            continue
        last[packet.stream_index] = packet
        if container.format.name in TAGGED and (size := tag_bytes(bytes(memoryview(packet)[:32]))):
            tag_end = max(tag_end, (packet.pos or 0) + size)
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
                KEY * packet.is_keyframe
                | HIDDEN * hidden
                | DAMAGED * packet.is_corrupt
                | TAG * ((packet.pos or 0) < tag_end),
            )
        )


def _tables(tables: Mapping[int, array]) -> dict[int, np.ndarray]:
    return {number: np.array(table, np.int64).reshape(-1, COLUMNS) for number, table in tables.items()}
