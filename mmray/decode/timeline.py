"""The packets' own time stamps → when each is presented, on one timeline of the whole recording.

What is mended here: stamps that start again where files were joined end to end (MPEG-TS, Ogg), stamps that
FFmpeg counts on from the file before, and those that an old writer made too early.
"""

import re
from collections.abc import Mapping

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

__all__ = ["NO_STAMP", "early_units", "mend_early_sound", "one_timeline", "stamp_first_pages"]

NO_STAMP = np.iinfo(np.int64).min
BACK_S = 0.5
"""Decoding stamps that go back by more start again."""
AHEAD_S = 10.0
"""So do those of all streams of a broadcast format that leap further; less is time without packets."""


def stamp_first_pages(table: np.ndarray) -> None:
    """Give an Ogg chain's first packets their own stamps: FFmpeg counts them on from the chain before."""
    back = np.flatnonzero(
        (np.diff(table[:, 0]) < 0) & (table[1:, 0] != NO_STAMP) & (table[:-1, 0] != NO_STAMP)
    )
    for last in back.tolist():
        while last >= 0 and table[last, 3] == table[last + 1, 3]:  # on the same page
            table[last, :2] = table[last + 1, 0] - table[last, 2]
            last -= 1


def early_units(
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


def mend_early_sound(
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


def one_timeline(
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
