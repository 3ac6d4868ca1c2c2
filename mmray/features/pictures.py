"""What kinds made from pictures share: which pictures are taken, and networks over many clips' pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import model_validator

from mmray.decode.wanted import Pictures
from mmray.features.base import Cut, Dtype, FeatureSettings, Pooling, Step, joined
from mmray.features.device import Device
from mmray.settings import Fraction, Positive, PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor

    from mmray.decode.image import PictureGeometry

__all__ = ["PictureEncoder", "PictureSettings", "prepare", "wanted"]


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
    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """Left, top, right, bottom of the region to keep, as fractions of the picture; default: all."""
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
        if self.crop and (self.crop[0] >= self.crop[2] or self.crop[1] >= self.crop[3]):
            faults.append("crop must be [left, top, right, bottom] with left < right, top < bottom")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def wanted(feature: PictureSettings, geometry: "PictureGeometry") -> Pictures:
    """The pictures of a feature, resized and cropped."""
    return Pictures(geometry, feature.source == "image", feature.sampling, feature.frames, feature.fps)


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
