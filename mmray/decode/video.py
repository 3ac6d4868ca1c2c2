"""A video file, or a segment of it → some of its frames, at the encoder's input size.

Three steps, of which only the last decodes:

    index    which frames exist and when each is shown; whether the file is whole     decode/index.py
    choose   frames by their times, as `sampling` says                                here
    read     only those frames, each fitted to its square before the next is decoded  decode/readers.py

So memory holds one full picture, however long the clip, and every decoder gives the same frames.
"""

import math
from dataclasses import replace
from itertools import repeat

import numpy as np

from mmray.decode.container import faults
from mmray.decode.image import Frames, PictureGeometry, fit
from mmray.decode.index import VideoIndex, check_whole, index_video
from mmray.decode.packets import read_recording
from mmray.decode.readers import read_pictures
from mmray.decode.tracking import follow
from mmray.decode.wanted import Track
from mmray.errors import MediaError

__all__ = ["Frames", "choose_frames", "decode_frames"]

ROUNDING_S = 1e-3
"""Matroska rounds time stamps to a millisecond."""


def decode_frames(
    path: str,
    *,
    sampling: str,
    frames: int,
    fps: float | None,
    start_s: float | None,
    end_s: float | None,
    resize: PictureGeometry,
    decoder: str,
    track: Track | None = None,
) -> Frames:
    """Pictures of the segment (default: the whole recording), upright, T <= `frames`, none twice.

    Args:
        path: A local file.
        sampling: `uniform`, `fps` or `keyframes`, as `choose_frames` has it.
        frames: How many; for `fps` and `keyframes`, how many at most.
        fps: Frames a second, for `fps` only.
        start_s: Beginning of the segment, from the recording's beginning; None: that beginning.
        end_s: End of the segment; None: the recording's end.
        resize: Which part of a picture is kept, at which size.
        decoder: `torchcodec`, `decord` or `pyav`; where the first two would err, PyAV reads.
        track: What is followed instead of a fixed region; the frames are then read twice.

    Raises:
        MediaError: `missing_file`, `unreadable`, `no_video_stream`, `no_frames` (also where no key frame
            is in the segment), `bad_segment`, `short_video` where the file ends before the video it
            declares to have, `no_face` where there is none to follow, or `corrupt`.

    """
    recording = read_recording(path)
    index = index_video(recording)
    check_whole(recording, index, start_s, end_s)
    first_s = float(index.times_s[0]) if start_s is None else start_s
    last_s = index.end_s if end_s is None else min(end_s, index.end_s)
    chosen = choose_frames(index, sampling, frames, fps, first_s, last_s)
    if not len(chosen):
        raise MediaError("no_frames", f"no key frame from {first_s:g} s to {last_s:g} s")
    times_s = index.times_s[chosen]
    with faults("corrupt"):
        boxes = None
        if track:
            boxes = follow(read_pictures(path, recording.format, index, chosen, decoder), times_s, track)
        pictures = read_pictures(path, recording.format, index, chosen, decoder)
        crops = repeat(resize) if boxes is None else (replace(resize, crop=tuple(box)) for box in boxes)
        pixels = np.stack([fit(picture, crop) for picture, crop in zip(pictures, crops)])
    step_s = (times_s[-1] - times_s[0]) / (len(chosen) - 1) if len(chosen) > 1 else last_s - first_s
    times_s = times_s - (start_s or 0.0)
    return Frames(pixels, float(times_s[0]), float(step_s), times_s.astype(np.float32), boxes)


def choose_frames(
    index: VideoIndex, sampling: str, frames: int, fps: float | None, start_s: float, end_s: float
) -> np.ndarray:
    """Indices [T] of the frames to read, sorted, none twice.

    uniform      those on screen in the middle of each of `frames` equal spans: of F frames at a constant
                 rate, floor((i + 1/2) F / frames)
    fps          those on screen at start_s + i / fps, before end_s
    keyframes    those with start_s <= time < end_s that decode without another; in AVI, whose packets
                 carry no times, the frames that are shown at their packets' places

    Of more than `frames`, the middle ones of as many equal spans of the list are kept.
    """
    if sampling == "keyframes":
        times_s = index.times_s + ROUNDING_S
        found = np.flatnonzero(index.is_key & (times_s >= start_s) & (times_s < end_s))
    else:
        if sampling == "fps":
            assert fps is not None
            count = max(1, math.ceil((end_s - start_s) * fps - ROUNDING_S))
            asked_s = start_s + np.arange(count) / fps
        else:
            asked_s = start_s + (np.arange(frames) + 0.5) * (end_s - start_s) / frames
        shown = np.searchsorted(index.times_s, asked_s + ROUNDING_S, side="right") - 1
        found = np.unique(np.maximum(shown, 0))
    if len(found) <= frames:
        return found
    return found[((np.arange(frames) + 0.5) * len(found) / frames).astype(int)]
