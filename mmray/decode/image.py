"""A picture → the square the encoder wants; the same geometry serves every frame of a video.

Crop, resize and centre crop follow torchvision's classification presets, on uint8, by Pillow (torchvision's
own resize differs from it by one level at most): a picture leaves this module at the encoder's input size, so
nothing later holds or moves full pictures.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmray.decode.container import faults, regular_file
from mmray.decode.tracking import follow
from mmray.decode.wanted import Track
from mmray.errors import MediaError

__all__ = ["Frames", "PictureGeometry", "decode_image", "fit"]

FORMATS = (
    *(
        "AVIF",
        "BMP",
        "DDS",
        "DIB",
        "GIF",
        "HEIF",
        "ICO",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "QOI",
    ),
    *("SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM"),
)
"""What Pillow may open: pictures that are data. Left out are those that are programs or may start some
(EPS through Ghostscript, WMF, PDF), and containers of other files."""
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
"""Tags; source: TIFF 6.0, sections 4, 8 and 19."""


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
    boxes: np.ndarray | None = None
    """float32 [T, 4]: left, top, right, bottom of what was followed, fractions of the picture."""


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
    height, width = picture.shape[:2]
    side, crop = geometry.resize_px, geometry.crop_px
    wide, high = side, side
    if not geometry.squash:
        wide, high = (side, side * height // width) if width <= height else (side * width // height, side)
    left, top = round((wide - crop) / 2), round((high - crop) / 2)
    image = Image.fromarray(np.ascontiguousarray(picture))
    resample = Image.Resampling.BICUBIC if geometry.bicubic else Image.Resampling.BILINEAR
    if left < 0 or top < 0:  # black all round
        return np.array(image.resize((wide, high), resample).crop((left, top, left + crop, top + crop)))
    # Only what is kept is computed.
    edges = (left * width / wide, top * height / high)
    box = (*edges, min(edges[0] + crop * width / wide, width), min(edges[1] + crop * height / high, height))
    return np.array(image.resize((crop, crop), resample, box))


def decode_image(path: str, geometry: PictureGeometry, track: Track | None = None) -> Frames:
    """An image file → one frame [1, crop_px, crop_px, 3], upright (EXIF), in RGB.

    Raises:
        MediaError: `missing_file`, `unreadable`, `corrupt` or `no_face`.

    """
    regular_file(path)
    with faults("unreadable"):
        try:
            image = Image.open(path, formats=_formats())
        except UnidentifiedImageError as error:
            raise MediaError("unreadable", _unidentified(path)) from error
    with image, faults("corrupt"):
        image.load()
        tags = dict(getattr(image, "tag_v2", {})) if image.format == "TIFF" else {}
        picture = np.array(_rgb(ImageOps.exif_transpose(image), tags))
        time_s, boxes = np.zeros(1, np.float32), None
        if track:
            boxes = follow([picture], time_s, track)
            geometry = replace(geometry, crop=tuple(boxes[0]))
        return Frames(fit(picture, geometry)[None], 0.0, 0.0, time_s, boxes)


@lru_cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that can be read here."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unidentified(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS:
        return "a HEIC picture: install mmray[heic] to read it, or convert it to JPEG"
    return "no format of pictures that is read here" if head else "the file is empty"


def _rgb(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """In 8-bit RGB, without transparency (on black) and without a palette; `tags` are a TIFF's."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(np.asarray(image), tags)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def _grey(values: np.ndarray, tags: Mapping[int, Any]) -> np.ndarray:
    """Grey of more than 8 bits → uint8 [H, W]: the range of its numbers on 0 … 255.

    Raises:
        MediaError: `unreadable` where the range is not known; `corrupt` where there are no numbers.

    """
    bits = max(tags.get(TIFF_BITS, (16,)))
    low, high = (-32768, 32767) if 2 in tags.get(TIFF_SAMPLE_FORMAT, (1,)) else (0, 65535)
    kind = f"{bits}-bit"
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MediaError("corrupt", "the picture has values that are no numbers")
        low, high, bits, kind = 0, 1, 16, "floating-point"
    if bits > 16 or values.min() < low or values.max() > high:
        span = f"{kind} grey from {values.min():g} to {values.max():g}"
        raise MediaError("unreadable", f"{span}: what is black and white is not known; convert it to 16 bits")
    scaled = (values.astype(np.float64) - low) / (high - low)
    if tags.get(TIFF_PHOTOMETRIC) == 0:  # white is zero
        scaled = 1 - scaled
    return np.round(255 * scaled).astype(np.uint8)


def _region(picture: np.ndarray, crop: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a picture [H, W, 3] inside `crop`, to the nearest pixel, at least one."""
    height, width = picture.shape[:2]
    left, right = _span(crop[0], crop[2], width)
    top, bottom = _span(crop[1], crop[3], height)
    return picture[top:bottom, left:right]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, max(round(high * size), first + 1)
