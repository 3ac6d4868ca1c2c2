"""A file, its index and the frames wanted of it → those pictures one by one, by one of three decoders.

    read(path, index, chosen)    indices [T], sorted → T upright pictures, uint8 [H, W, 3] RGB

The decoder does not choose: it is asked for frames by their number or stamp, and the next picture is only
decoded after the last has been taken, so one is held however many are wanted.

PyAV reads every file: from the key frame before each frame wanted, or, where a seek lands on no packet the
index knows, from the beginning; frames that nobody wants nor refers to are left out. decord and torchcodec
read only what they are known to read right, H.264 and the like in mp4 and Matroska with closed groups of
pictures: in MPEG-PS, MPEG-TS and AVI, around open groups (HEVC, some H.264) and in rare codecs they silently
give frames from other times. PyAV also takes over where they fail, and says what is wrong: it knows a
picture patched up after damage (`corrupt`), which they pass on.

The last file opened by decord or torchcodec stays open until the next, for a recording's other segments.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from mmray.decode.container import open_media, packets_of, video_track
from mmray.decode.index import VideoIndex
from mmray.decode.packets import identity, numbered, sought
from mmray.errors import MediaError

if TYPE_CHECKING:
    import decord
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

__all__ = ["read_pictures"]

TAIL_FRAMES = 4
"""decord was seen to err by up to three frames, among the last two."""
OTHERS_READ = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4"})
"""Codecs that decord and torchcodec read right, in these containers:"""
SKIPPED = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs with frames that no other refers to, which their decoders leave out when they are told to."""
OTHERS_OPEN = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})


def read_pictures(
    path: str, container_format: str, index: VideoIndex, chosen: np.ndarray, decoder: str
) -> Iterator[np.ndarray]:
    """The frames `chosen` (sorted indices [T]), upright, uint8 [H, W, 3], one by one.

    `decoder` (torchcodec, decord or pyav) reads where it gives the right frames, else PyAV.

    Raises:
        MediaError: `corrupt` where a frame cannot be decoded whole.

    """
    done = 0
    plain = index.closed and not index.counted and container_format in OTHERS_OPEN
    if decoder in READERS and plain and index.packets.codec in OTHERS_READ:
        reader, opened = READERS[decoder]
        try:
            _check_shown_as_stored(path)
            for picture in reader(path, index, chosen):
                done += 1
                yield picture
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - any type, by the bytes they meet; PyAV goes on and says why
            opened.cache_clear()
    yield from _read_with_pyav(path, index, chosen[done:])


class _OtherFrameError(Exception):
    """The decoder does not give the frames of the index, as PyAV would."""


def _check_shown_as_stored(path: str) -> None:
    """Pictures that need no turning: of the others, some decoders turn them, none mirrors them."""
    with open_media(path) as container:
        if Type.DISPLAYMATRIX in next(container.decode(video_track(container))).side_data:
            raise _OtherFrameError


# ------------------------------------------------------------------------------------ torchcodec


def _read_with_torchcodec(path: str, index: VideoIndex, chosen: np.ndarray) -> Iterator[np.ndarray]:
    packets = index.packets
    reader = _torchcodec(path, identity(path), packets.stream)
    if len(reader) != len(index.numbers):
        raise _OtherFrameError
    for number in chosen:
        frame = reader.get_frame_at(int(number))
        if round(frame.pts_seconds / packets.unit_s) != packets.raw_stamps[index.numbers[number]]:
            raise _OtherFrameError
        yield frame.data.numpy()


@lru_cache(maxsize=1)
def _torchcodec(path: str, identity: tuple[int, ...], stream: int) -> "VideoDecoder":
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

    return VideoDecoder(path, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1)


# ------------------------------------------------------------------------------------ decord


def _read_with_decord(path: str, index: VideoIndex, chosen: np.ndarray) -> Iterator[np.ndarray]:
    # It counts time from zero; and asked for one of the last frames, it may give one before (H.264).
    first = index.packets.raw_stamps[index.numbers[0]]
    if first != 0 or chosen[-1] >= len(index.numbers) - TAIL_FRAMES:
        raise _OtherFrameError
    reader = _decord(path, identity(path))
    if len(reader) != len(index.numbers):
        raise _OtherFrameError
    for number in chosen:
        picture = reader[int(number)].asnumpy()
        # At odd sizes its colours run.
        if picture.shape[2] != 3 or picture.shape[0] % 2 or picture.shape[1] % 2:
            raise _OtherFrameError
        yield picture


@lru_cache(maxsize=1)
def _decord(path: str, identity: tuple[int, ...]) -> "decord.VideoReader":
    import decord

    return decord.VideoReader(path, num_threads=1)


Reader = Callable[[str, VideoIndex, np.ndarray], Iterator[np.ndarray]]
READERS: dict[str, tuple[Reader, Any]] = {
    "torchcodec": (_read_with_torchcodec, _torchcodec),
    "decord": (_read_with_decord, _decord),
}

# ------------------------------------------------------------------------------------ PyAV


def _read_with_pyav(
    path: str, index: VideoIndex, chosen: np.ndarray, *, seek: bool = True
) -> Iterator[np.ndarray]:
    """From the key frame before each, or from the beginning."""
    if not len(chosen):
        return
    keys = np.flatnonzero(index.is_key)
    with open_media(path) as container:
        stream = video_track(container)
        stream.codec_context.thread_count = 1
        frames, reached = _shown(numbered(packets_of(container, stream), index.packets), index, chosen), 0
        rgb = VideoReformatter()  # one: each sets up its tables anew
        for position, number in enumerate(chosen):
            key = keys[max(np.searchsorted(keys, number, side="right") - 1, 0)]
            if seek and not index.counted and key > reached:
                following = sought(container, stream, index.packets, int(index.numbers[key]))
                if following is None:
                    yield from _read_with_pyav(path, index, chosen[position:], seek=False)
                    return
                frames = _shown(following, index, chosen)
            shown, frame = next(((at, frame) for at, frame in frames if at >= number), (None, None))
            if frame is None or shown != number or frame.is_corrupt:
                told = f"the frame at {index.times_s[number]:.3f} s cannot be decoded whole"
                raise MediaError("corrupt", told)
            reached = number
            # Bicubic is what torchcodec and decord take for planes of colour at half size: equal to the bit.
            picture = rgb.reformat(frame, format="rgb24", interpolation="BICUBIC").to_ndarray()
            yield _upright(picture, frame)


def _shown(
    following: Iterator[tuple[int, Packet]], index: VideoIndex, chosen: np.ndarray
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in the order they are shown, each with its place in the index.

    Of those that are not chosen, only what others refer to need come.
    """
    packets = index.packets
    following = ((number, packet) for number, packet in following if number >= index.first)
    if index.counted:
        yield from enumerate(frame for _, packet in following for frame in packet.decode())
        return
    stamps = packets.stamps[index.numbers]
    needed = np.full(len(packets.sizes) + 1, packets.codec not in SKIPPED)
    needed[index.numbers[chosen]] = True
    needed[1:] |= needed[:-1].copy()  # the next one may be the other field of the same picture
    for number, packet in following:
        if isinstance(decoder := packet.stream.codec_context, VideoCodecContext):
            decoder.skip_frame = "DEFAULT" if needed[number] else "NONREF"
        for frame in packet.decode():
            place = len(stamps) if frame.pts is None else int(np.searchsorted(stamps, frame.pts))
            if place < len(stamps) and stamps[place] == frame.pts:
                yield place, frame


def _upright(picture: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The picture turned and mirrored as its display matrix says, to a multiple of a quarter turn.

    The matrix [[a, b], [c, d]] maps (x, y) of the stored picture to (a x + c y, b x + d y) of the shown one,
    y downwards. Source: ISO/IEC 14496-12, section 6.2.2.
    """
    if Type.DISPLAYMATRIX not in frame.side_data:
        return picture
    a, b, _, c, d, *_ = np.frombuffer(bytes(frame.side_data[Type.DISPLAYMATRIX]), np.int32).astype(np.int64)  # pyright: ignore[reportGeneralTypeIssues]
    if abs(b) + abs(c) > abs(a) + abs(d):  # x and y change places
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
