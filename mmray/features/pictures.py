"""What kinds made from pictures share: which pictures are taken, and networks over many clips' pictures."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Discriminator, Tag, model_validator

from mmray.decode.wanted import Pictures, Track
from mmray.errors import ConfigError
from mmray.features.base import Cut, Dtype, FeatureSettings, Pooling, Step, joined
from mmray.features.device import Device
from mmray.settings import Fraction, Positive, PositiveFloat, Section

if TYPE_CHECKING:
    from torch import Tensor

    from mmray.decode.image import PictureGeometry

__all__ = ["PictureEncoder", "PictureSettings", "prepare", "wanted"]


class TrackedCrop(Section):
    """A square that follows a face through the pictures; a clip without one is a failure, `no_face`."""

    around: Literal["face", "mouth"]
    detector: Literal["mtcnn"] = "mtcnn"
    """mtcnn: of facenet-pytorch (`pip install --no-deps facenet-pytorch`: it asks for an older torch)."""


Crop = Annotated[
    Annotated[tuple[Fraction, Fraction, Fraction, Fraction], Tag("tuple[4]")]
    | Annotated[TrackedCrop, Tag(TrackedCrop.__name__)],
    Discriminator(lambda crop: TrackedCrop.__name__ if isinstance(crop, TrackedCrop | dict) else "tuple[4]"),
]
"""A region, or what to follow: so that faults are of the one that is meant."""


class PictureSettings(FeatureSettings):
    """Which pictures of a video (or which part of an image) a network sees."""

    source: Literal["video", "image"] = "video"
    sampling: Literal["uniform", "fps", "keyframes"] = "uniform"
    """uniform: so many spread evenly over the sample (the middle of each of n equal spans); fps: one every
    1 / `fps` seconds; keyframes: the pictures the codec stores whole."""
    frames: Positive = 8
    """How many; for fps and keyframes the most, of which more are thinned evenly."""
    fps: PositiveFloat | None = None
    """Frames a second, where sampling is fps."""
    crop: Crop | None = None
    """Left, top, right, bottom of the region to keep, as fractions of the picture, or `{around: face}`,
    `{around: mouth}` to follow it; default: all."""
    pooling: Pooling = "none"
    """A vector a picture (none), or one a sample: their mean, or the largest of each number."""
    dtype: Dtype = "float32"
    """Of the stored vectors."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        faults = []
        if (self.fps is None) == (self.sampling == "fps"):
            faults.append("fps is given where sampling is fps, and only there")
        if self.source == "image" and self.sampling != "uniform":
            faults.append(f"sampling {self.sampling} is for videos; an image is one picture")
        if self.region and (self.region[0] >= self.region[2] or self.region[1] >= self.region[3]):
            faults.append("crop must be [left, top, right, bottom] with left < right, top < bottom")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def region(self) -> tuple[float, float, float, float] | None:
        """The fixed one to keep."""
        return None if isinstance(self.crop, TrackedCrop) else self.crop

    @property
    def track(self) -> Track | None:
        """What the crop follows."""
        return Track(self.crop.around, self.crop.detector) if isinstance(self.crop, TrackedCrop) else None

    def packages(self) -> tuple[str, ...]:
        """Those of the detector."""
        if self.track is None:
            return ()
        if importlib.util.find_spec("facenet_pytorch") is None:
            remedy = "run `pip install --no-deps facenet-pytorch`, or give a fixed region"
            raise ConfigError("config", [("crop.detector", f"mtcnn needs facenet-pytorch; {remedy}")])
        return ("facenet-pytorch", "torch")


def wanted(feature: PictureSettings, geometry: "PictureGeometry") -> Pictures:
    """The pictures of a feature, resized and cropped."""
    still = feature.source == "image"
    return Pictures(geometry, still, feature.sampling, feature.frames, feature.fps, feature.track)


def prepare(feature: PictureSettings, pictures: Any, sample_id: str) -> Step:
    """Pictures as they were decoded, with their times."""
    return Step(*pictures)


class PictureEncoder:
    """A network, uint8 pictures [N, H, W, 3] → [N, dim], over the pictures of many clips."""

    cut = Cut(1)

    def __init__(self, network: Callable[["Tensor"], "Tensor"], dim: int, device: Device):
        self.network = network
        self.dim = dim
        self.device = device

    def __call__(self, steps: Sequence[Step]) -> Iterator[Any]:
        """The clips, a float32 vector for each picture; batches run across clips."""
        pictures = [picture for step in steps for picture in step.value]
        size = max(1, int(self.device.batch))
        vectors = (
            vector
            for first in range(0, len(pictures), size)
            for vector in self.device.run(self._encoded, pictures[first : first + size])
        )
        clips = joined(vectors, [len(step.value) for step in steps])
        for step, clip in zip(steps, clips, strict=True):
            yield step._replace(value=clip) if isinstance(clip, np.ndarray) else clip

    def _encoded(self, pictures: list[np.ndarray]) -> np.ndarray:
        """[N, 1, dim]: a row a picture."""
        import torch

        with self.device.inference():
            pixels_NHWC = self.device.moved(torch.from_numpy(np.stack(pictures)))
            return self.network(pixels_NHWC).float().cpu().numpy()[:, None]
