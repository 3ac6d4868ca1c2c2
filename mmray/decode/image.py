"""Pictures as an encoder wants them: cropped, resized, a uint8 square; and still images from files.

The same geometry serves frames and images. It is applied to each picture as soon as it is decoded, so that
a long 4K video is never held: what is kept are squares of the encoder's size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional as F

from mmray.errors import MediaError

__all__ = ["Frames", "PictureGeometry", "decode_image"]


class Frames(NamedTuple):
    """Pictures over time: `pixels` uint8 RGB [T, H, W, 3]; time of the first, and between two, in s."""

    pixels: np.ndarray
    start_s: float
    step_s: float


@dataclass(frozen=True)
class PictureGeometry:
    """Keep `crop` (left, top, right, bottom as fractions), resize the shorter side, cut the middle square."""

    resize_px: int
    crop_px: int
    crop: tuple[float, float, float, float] | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """One uint8 picture [H, W, 3] → [crop_px, crop_px, 3]; antialiased bilinear."""
        if self.crop:
            height, width = picture.shape[:2]
            left, top, right, bottom = self.crop
            rows = slice(round(top * height), max(round(bottom * height), round(top * height) + 1))
            columns = slice(round(left * width), max(round(right * width), round(left * width) + 1))
            picture = picture[rows, columns]
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        resized = F.resize(tensor, [self.resize_px], antialias=True)
        square = F.center_crop(resized, [self.crop_px, self.crop_px])
        return np.ascontiguousarray(square.permute(1, 2, 0).numpy())


def decode_image(path: str, geometry: PictureGeometry) -> Frames:
    """A still image as one frame at time 0; EXIF orientation applied.

    Raises:
        MediaError: `unreadable` where no format fits, `corrupt` where decoding fails.
    """
    try:
        opened = Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise MediaError("unreadable", str(error)) from None
    with opened:
        try:
            picture = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        except Exception as error:  # noqa: BLE001 - Pillow's plugins raise many types; the bytes are at fault
            raise MediaError("corrupt", str(error)) from None
    return Frames(geometry(picture)[None], 0.0, 0.0)
