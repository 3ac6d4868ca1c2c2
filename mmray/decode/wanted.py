"""What a feature wants of a medium; light, for whoever only asks."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmray.decode.image import PictureGeometry

__all__ = ["Pictures", "Sound", "Track"]


class Track(NamedTuple):
    """A square that follows a face."""

    around: str
    """`face` or `mouth`."""
    detector: str


class Pictures(NamedTuple):
    """Frames of a video, chosen as the config says, or the one picture of an image (`still`)."""

    geometry: "PictureGeometry"
    still: bool = False
    sampling: str = "uniform"
    frames: int = 8
    fps: float | None = None
    track: Track | None = None


class Sound(NamedTuple):
    """A mono waveform at this rate."""

    rate_hz: int
