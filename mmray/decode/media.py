"""A local file → what a feature wants of it: the one function that a decoding child is asked to call."""

import numpy as np

from mmray.decode.audio import decode_audio
from mmray.decode.choice import Decoders
from mmray.decode.image import Frames, decode_image
from mmray.decode.video import decode_frames
from mmray.decode.wanted import Pictures, Sound

__all__ = ["decode"]


def decode(
    wanted: Pictures | Sound, path: str, segment: dict[str, float | None], decoders: Decoders
) -> Frames | np.ndarray:
    """Pictures with their times, or a waveform float32 [N], of the segment `start_s` to `end_s` of a file.

    Raises:
        MediaError: as the decoders do.

    """
    if isinstance(wanted, Sound):
        return decode_audio(path, sample_rate_hz=wanted.rate_hz, **segment).samples
    if wanted.still:
        return decode_image(path, wanted.geometry, wanted.track)
    return decode_frames(
        path,
        sampling=wanted.sampling,
        frames=wanted.frames,
        fps=wanted.fps,
        resize=wanted.geometry,
        decoder=decoders.frames,
        track=wanted.track,
        **segment,
    )
