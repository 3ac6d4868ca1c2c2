"""A media file → an open container, and the streams of it that are decoded.

What pictures and sound share: which files are opened at all, which stream is taken, and the boundary at
which a decoder's faults become a `MediaError`. FFmpeg reports damage through many exception types, so faults
are translated by where they happen (opening, decoding), never by type.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from mmray.errors import MediaError, Reason

__all__ = [
    "best_sound",
    "best_video",
    "faults",
    "kinds",
    "open_media",
    "packets_of",
    "regular_file",
    "sound_track",
    "video_track",
]

DEMUXERS = (
    "3dostr,aac,aax,ac3,ac4,act,adp,aiff,amr,amrnb,amrwb,ape,apng,asf,asf_o,ast,au,av1,avi,avs2,avs3,"
    "bmp_pipe,caf,cavsvideo,dnxhd,dsf,dts,dtshd,dv,eac3,evc,flac,flic,flv,g722,g723_1,g726,"
    "g726le,g729,gif,gsm,gxf,h261,h263,h264,hevc,iff,ilbc,ircam,ivf,jpeg_pipe,lmlm4,loas,m4v,matroska,"
    "mjpeg,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mtaf,mxf,nistsphere,nsv,nut,nuv,obu,ogg,oma,paf,"
    "png_pipe,pva,pvf,qcp,qoa,r3d,rm,roq,rpl,rso,sbc,sds,sln,smjpeg,smk,sol,sox,spdif,swf,tak,"
    "tiff_pipe,truehd,tta,vc1,voc,vqf,vvc,w64,wav,webp_pipe,wsd,wtv,wv,xmv,xwma,yuv4mpegpipe"
)
"""FFmpeg's formats that read their one file and nothing else. Left out are playlists and scripts that name
other files (hls, dash, concat, imf, image2, sdp), devices, subtitles and texts."""


def regular_file(path: str) -> os.stat_result:
    """The state of a plain file; nothing else is opened, since a pipe or a device may block or never end.

    Raises:
        MediaError: `missing_file`, or `unreadable` where it is no plain file.

    """
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing_file", path) from error
    except (OSError, ValueError) as error:
        raise MediaError("unreadable", f"{path}: {error}") from error
    if not stat.S_ISREG(state.st_mode):
        raise MediaError("unreadable", f"{path} is no plain file")
    return state


@contextlib.contextmanager
def faults(reason: Reason) -> Iterator[None]:
    """Whatever a decoder raises inside, as `MediaError(reason)`; out of memory stays what it is."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # deliberately broad: by the bytes they meet, decoders raise any type
        told = getattr(error, "strerror", None) or str(error)
        raise MediaError(reason, " ".join(told.split()) or type(error).__name__) from error


@contextlib.contextmanager
def open_media(path: str) -> Iterator[InputContainer]:
    """The file, open for reading.

    Only this file is read: formats that name other files are not recognised, and no protocol but `file` is.

    Raises:
        MediaError: `missing_file` or `unreadable`.

    """
    regular_file(path)
    with faults("unreadable"):
        options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
        # With its protocol before it, a name is a name: no colon, percent or question mark in it says more.
        try:
            container = av.open(f"file:{os.path.abspath(path)}", metadata_errors="replace", options=options)
        except av.error.ArgumentError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise MediaError("unreadable", "no format of sound or video that is read here") from error
    with container:
        yield container


def packets_of(container: InputContainer, *streams: VideoStream | AudioStream) -> Iterator[Packet]:
    """The packets of some streams, in the order of the file."""
    with contextlib.suppress(PermissionError):  # -1: how old demuxers say that nothing follows
        yield from container.demux(*streams)


def video_track(container: InputContainer) -> VideoStream:
    """FFmpeg's best video stream (decord's choice too), never a cover picture.

    Raises:
        MediaError: `no_video_stream`.

    """
    if found := best_video(container):
        return found
    raise MediaError("no_video_stream", f"streams: {kinds(container)}")


def sound_track(container: InputContainer) -> AudioStream:
    """FFmpeg's best audio stream.

    Raises:
        MediaError: `no_audio_stream`.

    """
    if found := best_sound(container):
        return found
    raise MediaError("no_audio_stream", f"streams: {kinds(container)}")


def best_video(container: InputContainer) -> VideoStream | None:
    """As `video_track`; None where there is none."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in moving else next(iter(moving), None)


def best_sound(container: InputContainer) -> AudioStream | None:
    """As `sound_track`; None where there is none."""
    best = container.streams.best("audio")
    return best if isinstance(best, AudioStream) else None


def kinds(container: InputContainer) -> str:
    """The streams of a file, in words."""
    return ", ".join(stream.type for stream in container.streams) or "none"
