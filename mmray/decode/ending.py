"""Where a file ends: in the midst of something it holds, or where another file was joined on.

A file whose download or recording broke off is read like a shorter one. Many formats declare a length
(`declared`); of the others, the last thing they hold says how large it is, be it a page, a packet, a chunk
or a frame. A file cut between two of them cannot be told from a shorter one.
"""

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

from mmray.decode.declared import DECLARING, UNKNOWN_SIZE

__all__ = ["Last", "cut_inside", "joined_on", "tag_bytes"]


class Last(NamedTuple):
    """The last packet of a stream."""

    codec: str
    head: bytes
    """Its first bytes, 16 where it has so many."""
    size: int
    is_damaged: bool


def cut_inside(path: str, format_name: str, last: Iterable[Last]) -> str | None:
    """What the file ends in the midst of, in a word; None where it ends after something whole."""
    if format_name in ENDS:
        what, is_cut = ENDS[format_name]
        with open(path, "rb") as file:
            if is_cut(file, os.fstat(file.fileno()).st_size):
                return what
    for packet in last:
        if packet.is_damaged and format_name in TELLING:
            return "a packet"
        if packet.codec in FRAME_BYTES and format_name not in DECLARING:
            whole = FRAME_BYTES[packet.codec](packet.head.ljust(16, b"\0"))
            if whole and packet.size < whole:
                return "a frame"
    return None


# ------------------------------------------------------------------------------------ containers

MAX_PAGE_BYTES = 27 + 255 + 255 * 255
"""Of Ogg."""
PS_TAIL_BYTES = 2**20


def _in_page(file: BinaryIO, size: int) -> bool:
    """Ogg. RFC 3533, section 6: 26 bytes, the count of segments, their sizes, their data."""
    file.seek(max(size - MAX_PAGE_BYTES, 0))
    end = file.read()
    page = end[max(end.rfind(b"OggS"), 0) :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 or len(page) < 27 + page[26] + sum(sizes)


def _in_transport_packet(file: BinaryIO, size: int) -> bool:
    """MPEG-TS: packets of 188 bytes, with 4 before (M2TS) or 16 after; each begins with 0x47."""
    file.seek(max(size - 16 * 204, 0))
    end = file.read()
    for length, before, after in ((188, 0, 0), (192, 4, 0), (204, 0, 16)):
        for begin in range(len(end) - 1, len(end) - 1 - length - before, -1):
            marks = end[begin::-length][:8]
            if len(marks) > 4 and set(marks) == {0x47}:
                return len(end) - begin < 188 + after
    return False


def _in_stream_packet(file: BinaryIO, size: int) -> bool:
    """MPEG-PS: from one of the last packs, packets one after another. ISO/IEC 13818-1, section 2.5.3."""
    file.seek(max(size - PS_TAIL_BYTES, 0))
    end = file.read()
    at = end.find(b"\0\0\1\xba")
    while 0 <= at < len(end) - 6 and end[at : at + 3] == b"\0\0\1":
        if end[at + 3] == 0xBA:
            at += 14 + (end[at + 13 : at + 14] or b"\0")[0] % 8 if end[at + 4] >> 6 == 1 else 12
        elif end[at + 3] == 0xB9:
            at += 4
        elif end[at + 3] > 0xBA and (length := struct.unpack_from(">H", end, at + 4)[0]):
            at += 6 + length
        else:
            return False
    return at > len(end) or (at > len(end) - 6 and any(end[at:]))


def _in_movie(file: BinaryIO, size: int) -> bool:
    """AVI: chunks of a name, their size and their data; `movi` holds the packets. The index may be cut."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        name, length, kind = struct.unpack("<4sI4s", file.read(12))
        if name == b"RIFF":
            at += 12
        elif kind == b"movi" and at + 8 + length > size:
            return length < UNKNOWN_SIZE
        else:
            at += 8 + length + length % 2
    return False


def _in_asf_data(file: BinaryIO, size: int) -> bool:
    """ASF: the header's size, then the data object's own. ASF 1.20.03, sections 3.1 and 5.1."""
    head = file.read(24)
    header = struct.unpack("<Q", head[16:])[0] if len(head) == 24 else size
    file.seek(min(header, size))
    data = file.read(24)
    return len(data) == 24 and header + struct.unpack("<Q", data[16:])[0] > size


def _in_rm_packet(file: BinaryIO, size: int) -> bool:
    """RealMedia: chunks of a name and their size, of which `DATA` counts its packets; each has a length."""
    at, head = 0, b""
    while head[:4] != b"DATA":
        file.seek(at)
        head = file.read(18)
        if len(head) < 18 or (length := struct.unpack(">I", head[4:8])[0]) < 8:
            return False
        at += length if head[:4] != b"DATA" else 18
    found, declared = 0, struct.unpack(">I", head[10:14])[0]
    while at + 4 <= size:
        file.seek(at)
        version, length = struct.unpack(">HH", file.read(4))
        if version > 1 or length < 12:
            break
        found, at = found + 1, at + length
    return at > size or found < declared


def _in_swf(file: BinaryIO, size: int) -> bool:
    """SWF, not compressed: the length of the whole (SWF 19, chapter 2); FFmpeg writes 100 MiB to pipes."""
    head = file.read(8)
    return head[:3] == b"FWS" and size < struct.unpack("<I", head[4:])[0] != 100 * 2**20


def _in_ivf_frame(file: BinaryIO, size: int) -> bool:
    """IVF: 32 bytes, then frames of 12 bytes, the first 4 their size, and their data."""
    at = 32
    while at + 12 <= size:
        file.seek(at)
        at += 12 + struct.unpack("<I", file.read(4))[0]
    return at != size


def _in_roq_chunk(file: BinaryIO, size: int) -> bool:
    """RoQ of id Software: chunks of 8 bytes, of which 4 say the size, and their data; but for the first."""
    at = 8
    while at + 8 <= size:
        file.seek(at + 2)
        at += 8 + struct.unpack("<I", file.read(4))[0]
    return at > size


def _in_raw_picture(file: BinaryIO, size: int) -> bool:
    """YUV4MPEG2 of 8 bits: a line, then pictures of one size, each after a line `FRAME`."""
    head, line = file.readline(256), b"FRAME\n"
    start = file.tell()
    sides = re.search(rb" W(\d+) H(\d+)", head)
    space = re.search(rb" C(\S+)", head)
    name = space[1] if space else b"420"
    if not sides or file.readline(256) != line or name not in CHROMA:
        return False
    wide, high = int(sides[1]), int(sides[2])
    across, down = CHROMA[name]
    chroma = 2 * -(-wide // across) * -(-high // down) if across else 0
    return (size - start) % (len(line) + wide * high + chroma) != 0


CHROMA = {
    **dict.fromkeys((b"420", b"420jpeg", b"420mpeg2", b"420paldv"), (2, 2)),
    b"422": (2, 1),
    b"444": (1, 1),
    b"mono": (0, 0),
}
"""{name: pixels of luma that share one of colour, across and down; 0 where there is no colour}."""


def _without_mark(mark: bytes) -> Callable[[BinaryIO, int], bool]:
    """Of formats whose last bytes are a mark; zeros may follow."""

    def is_cut(file: BinaryIO, size: int) -> bool:
        file.seek(max(size - 2**16, 0))
        return not file.read().rstrip(b"\0").endswith(mark)

    return is_cut


ENDS: dict[str, tuple[str, Callable[[BinaryIO, int], bool]]] = {
    "asf": ("its data", _in_asf_data),
    "avi": ("its data", _in_movie),
    "gif": ("a picture", _without_mark(b";")),
    "ivf": ("a frame", _in_ivf_frame),
    "mjpeg": ("a picture", _without_mark(b"\xff\xd9")),
    "mpeg": ("a packet", _in_stream_packet),
    "mpegts": ("a packet", _in_transport_packet),
    "ogg": ("a page", _in_page),
    "rm": ("its data", _in_rm_packet),
    "roq": ("a chunk", _in_roq_chunk),
    "swf": ("its data", _in_swf),
    "yuv4mpegpipe": ("a picture", _in_raw_picture),
}
TELLING = frozenset({"mpeg", "mpegts", "nut"})
"""Formats without a length whose demuxers tell a last packet that is not whole."""

# ------------------------------------------------------------------------------------ frames of sound

KBPS_AC3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
KBPS_MPEG = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""{(version 1 or 2, as 3 and 2; layer I, II, III, as 3, 2, 1): rates}; ISO/IEC 11172-3, 2.4.2.3; 13818-3."""


def _mpeg_frame_bytes(head: bytes) -> int | None:
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, rate_hz = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or not layer or rate in (0, 15) or rate_hz == 3:
        return None
    kbps = KBPS_MPEG[min(version | (version == 0) * 2, 3), layer if version == 3 else max(layer, 2)][rate - 1]
    hertz = (44_100, 48_000, 32_000)[rate_hz] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 3:
        return (12_000 * kbps // hertz + padding) * 4
    return (72_000 if layer == 1 and version != 3 else 144_000) * kbps // hertz + padding


def _ac3_frame_bytes(head: bytes) -> int | None:
    """ETSI TS 102 366, tables 4.13 and E.1.4."""
    if head[:2] != b"\x0b\x77":
        return None
    if head[5] >> 3 > 10:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 2 * len(KBPS_AC3):
        return None
    kbps = KBPS_AC3[code // 2]
    return {0: 4 * kbps, 1: 2 * (kbps * 96_000 // 44_100 + code % 2), 2: 6 * kbps}[rate]


def _adts_frame_bytes(head: bytes) -> int | None:
    """ISO/IEC 13818-7, section 6.2."""
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _loas_frame_bytes(head: bytes) -> int | None:
    """ISO/IEC 14496-3, section 1.7.2: 11 bits of sync, 13 of length."""
    return ((head[1] & 31) << 8 | head[2]) + 3 if head[0] == 0x56 and head[1] >> 5 == 7 else None


def _dts_frame_bytes(head: bytes) -> int | None:
    """ETSI TS 102 114, section 5.3: 14 bits from the 47th."""
    if head[:4] != b"\x7f\xfe\x80\x01":
        return None
    return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1


FRAME_BYTES: dict[str, Callable[[bytes], int | None]] = {
    **dict.fromkeys(("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"), _mpeg_frame_bytes),
    **dict.fromkeys(("ac3", "eac3"), _ac3_frame_bytes),
    "aac": _adts_frame_bytes,
    "aac_latm": _loas_frame_bytes,
    "dca": _dts_frame_bytes,
}
"""{codec: the bytes of a frame by its first 16; None where these are no frame's}."""


def tag_bytes(data: bytes) -> int:
    """The size of a tag that begins here (ID3, APE, Lyrics3); 0 where none does. Joined mp3 files hold some.

    Source: ID3v2.4, section 3.1; APE tags 2.0.
    """
    if data[:3] == b"ID3" and len(data) >= 10:
        return 10 + sum((byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    if data[:8] == b"APETAGEX" and len(data) >= 24:
        return 32 + struct.unpack("<I", data[12:16])[0]
    if data[:3] == b"TAG":
        return 128
    return 20 if data[:11] == b"LYRICSBEGIN" else 0


# ------------------------------------------------------------------------------------ joined files

FIRST_BYTES: dict[str, bytes] = {
    "aiff": rb"FORM.{4}AIF[FC]",
    "apng": rb"\x89PNG\r\n\x1a\n",
    "asf": re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    "caf": rb"caff\x00\x01\x00\x00desc",
    "flac": rb"fLaC[\0\x80]\0\0\x22",
    "flv": rb"FLV\x01",
    "ivf": rb"DKIF\x00\x00 \x00",
    "mov,mp4,m4a,3gp,3g2,mj2": rb"\0\0\0[\x10-\x80]ftyp",
    "mxf": rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02[\x01-\x04]",
    "nut": rb"nut/multimedia container\0",
    "rm": rb"\.RMF\0\0\0\x12",
    "tta": rb"TTA[12]",
    "voc": rb"Creative Voice File\x1a",
    "w64": rb"riff\x2e\x91\xcf\x11",
    "wav": rb"(?:RIFF|RF64).{4}WAVE",
    "wtv": re.escape(bytes.fromhex("b7d800203749da11a64e0007e95ead8d")),
    "yuv4mpegpipe": rb"YUV4MPEG2 ",
}
"""How a file begins, of formats whose demuxers stop or go astray where another file is joined on."""
PASSED = frozenset({"flac", "ivf", "nut", "rm", "w64", "caf", "yuv4mpegpipe"})
"""Of these, they may read on: the other file's first bytes may be among its packets."""


def joined_on(path: str, format_name: str, after: int) -> int | None:
    """How many bytes of another file follow the packets, which end at byte `after`; None where none do."""
    if format_name not in FIRST_BYTES or after <= 0:
        return None
    begin = 16 if format_name in PASSED else after
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        seam = re.compile(FIRST_BYTES[format_name], re.DOTALL).search(whole, begin)
        return len(whole) - seam.start() if seam else None
