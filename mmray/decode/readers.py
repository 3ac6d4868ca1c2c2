"""A file, its index and the frames wanted of it → those pictures one by one, by one of three decoders.

    read(path, index, chosen)    indices [T], sorted → T upright pictures, uint8 [H, W, 3] RGB

The decoder does not choose: it is asked for frames by their number or stamp, and the next picture is only
decoded after the last has been taken, so one is held however many are wanted.

decord and torchcodec read where they find what they are asked for. Measured against drawn frame numbers,
that is in mp4 and Matroska with closed groups of pictures; in MPEG-PS, MPEG-TS and AVI, and around open
groups (HEVC, some H.264), they silently give frames from other times. There PyAV reads, from the key frame
before each frame or, where a container has no index to seek by, from the beginning. PyAV also takes over
where another decoder fails, and says what is wrong: it knows a picture patched up after damage
(`corrupt`), which the others pass on.

The last file opened by decord or torchcodec stays open until the next, for a recording's other segments.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mmray.decode.container import open_media, video_track
from mmray.decode.index import VideoIndex, identity
from mmray.errors import MediaError

if TYPE_CHECKING:
    import decord
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

__all__ = ["read_pictures"]

TAIL_FRAMES = 4
"""decord was seen to err by up to three frames, among the last two."""


def read_pictures(path: str, index: VideoIndex, chosen: np.ndarray, decoder: str) -> Iterator[np.ndarray]:
    """The frames `chosen` (sorted indices [T]), upright, uint8 [H, W, 3], one by one.

    `decoder` (torchcodec, decord or pyav) reads where it gives the right frames, else PyAV.

    Raises:
        MediaError: `corrupt` where a frame cannot be decoded whole.

    """
    done = 0
    if decoder in READERS and index.seekable and index.closed and not index.counted:
        reader, opened = READERS[decoder]
        try:
            for picture in reader(path, index, chosen):
                done += 1
                yield picture
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - any type, by the bytes they meet; PyAV goes on and says why
            opened.cache_clear()
    yield from _read_with_pyav(path, index, chosen[done:], seek=index.seekable)


class _OtherFrameError(Exception):
    """The decoder does not give the frames of the index, as PyAV would."""


# ------------------------------------------------------------------------------------ torchcodec


def _read_with_torchcodec(path: str, index: VideoIndex, chosen: np.ndarray) -> Iterator[np.ndarray]:
    reader = _torchcodec(path, identity(path), index.stream)
    if len(reader) != len(index.stamps):
        raise _OtherFrameError
    for number in chosen:
        frame = reader.get_frame_at(int(number))
        if round(frame.pts_seconds / index.unit_s) != index.stamps[number]:
            raise _OtherFrameError
        yield frame.data.numpy()


@lru_cache(maxsize=1)
def _torchcodec(path: str, identity: tuple[int, ...], stream: int) -> "VideoDecoder":
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage, reportMissingImports]

    return VideoDecoder(path, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1)


# ------------------------------------------------------------------------------------ decord


def _read_with_decord(path: str, index: VideoIndex, chosen: np.ndarray) -> Iterator[np.ndarray]:
    # It counts time from zero; and asked for one of the last frames, it may give one before (H.264).
    if index.stamps[0] != 0 or chosen[-1] >= len(index.stamps) - TAIL_FRAMES:
        raise _OtherFrameError
    reader = _decord(path, identity(path))
    if len(reader) != len(index.stamps):
        raise _OtherFrameError
    for number in chosen:
        picture = reader[int(number)].asnumpy()
        # Turned by a quarter, it comes with a fourth channel; at odd sizes, with colours that run.
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


def _read_with_pyav(path: str, index: VideoIndex, chosen: np.ndarray, *, seek: bool) -> Iterator[np.ndarray]:
    """From the key frame before each, or from the beginning."""
    if not len(chosen):
        return
    keys = index.stamps[index.is_key]
    with open_media(path) as container:
        stream = video_track(container)
        stream.codec_context.thread_count = 1
        frames, reached = _stamped(container, stream, index), keys[0]
        for position, number in enumerate(chosen):
            stamp = index.stamps[number]
            key = keys[max(np.searchsorted(keys, stamp, side="right") - 1, 0)]
            if sought := seek and key > reached:
                container.seek(int(key), stream=stream)
                frames = _stamped(container, stream, index)
            shown, frame = next(((at, frame) for at, frame in frames if at >= stamp), (None, None))
            if sought and shown != stamp:  # the container cannot seek after all
                yield from _read_with_pyav(path, index, chosen[position:], seek=False)
                return
            if frame is None or shown != stamp or frame.is_corrupt:
                raise MediaError(
                    "corrupt", f"the frame at {index.times_s[number]:.3f} s cannot be decoded whole"
                )
            reached = stamp
            # Bicubic is what torchcodec and decord take for planes of colour at half size: equal to the bit.
            picture = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
            yield np.rot90(picture, frame.rotation // 90 % 4)


def _stamped(
    container: InputContainer, stream: VideoStream, index: VideoIndex
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in the order they are shown, each with its stamp."""
    frames = container.decode(stream)
    if index.counted:
        return enumerate(frames)
    return ((frame.pts, frame) for frame in frames if frame.pts is not None)
