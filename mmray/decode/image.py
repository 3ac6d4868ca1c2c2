"""A picture → the square the encoder wants; the same geometry serves every frame of a video.

Crop, resize and centre crop follow torchvision's classification presets, on uint8: a picture leaves this
module at the encoder's input size, so nothing later holds or moves full pictures.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mmray.decode.container import faults
from mmray.errors import MediaError

__all__ = ["Frames", "PictureGeometry", "decode_image", "fit"]


class Frames(NamedTuple):
    """Pictures of one sample; a still image is one frame with step 0."""

    pixels: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    start_s: float
    """Time of the first frame, from the segment's start."""
    step_s: float
    """Mean time from one frame to the next."""
    times_s: np.ndarray
    """float32 [T]: time of each frame, from the segment's start."""


@dataclass(frozen=True)
class PictureGeometry:
    """What of a picture is kept, at which size; applied in this order."""

    crop: tuple[float, float, float, float] | None
    """Left, top, right, bottom as fractions of the upright picture; None keeps all."""
    resize_px: int
    """The shorter side becomes this; both sides, where `squash`."""
    crop_px: int
    """Side of the square then cut from the centre."""
    squash: bool = False
    bicubic: bool = False
    """Else bilinear."""


def fit(picture: np.ndarray, geometry: PictureGeometry) -> np.ndarray:
    """A picture [H, W, 3] → [crop_px, crop_px, 3], both uint8 RGB; antialiased."""
    if geometry.crop is not None:
        picture = _region(picture, geometry.crop)
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    sides = [geometry.resize_px] * (2 if geometry.squash else 1)
    mode = InterpolationMode.BICUBIC if geometry.bicubic else InterpolationMode.BILINEAR
    pixels = functional.resize(pixels, sides, mode, antialias=True)
    pixels = functional.center_crop(pixels, [geometry.crop_px])
    return pixels.permute(1, 2, 0).contiguous().numpy()


def decode_image(path: str, geometry: PictureGeometry) -> Frames:
    """An image file → one frame [1, crop_px, crop_px, 3], upright (EXIF), in RGB.

    Raises:
        MediaError: `missing_file`, `unreadable` or `corrupt`.

    """
    with faults("unreadable"):
        try:
            image = Image.open(path)
        except FileNotFoundError as error:
            raise MediaError("missing_file", path) from error
    with image, faults("corrupt"):
        picture = np.array(_rgb(ImageOps.exif_transpose(image)))
        return Frames(fit(picture, geometry)[None], 0.0, 0.0, np.zeros(1, np.float32))


def _rgb(image: Image.Image) -> Image.Image:
    """Without transparency (on black) and without a palette; 16-bit grey scaled, not clipped, to 8 bits."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def _region(picture: np.ndarray, crop: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a picture [H, W, 3] inside `crop`, to the nearest pixel, at least one."""
    height, width = picture.shape[:2]
    left, right = _span(crop[0], crop[2], width)
    top, bottom = _span(crop[1], crop[3], height)
    return picture[top:bottom, left:right]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, max(round(high * size), first + 1)
