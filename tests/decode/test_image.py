"""Pictures of every kind come upright, opaque and in eight bits."""

import numpy as np
import pytest
from PIL import Image

from mmray.decode.image import PictureGeometry, decode_image

SIDE = 64
SQUARE = PictureGeometry(crop=None, resize_px=SIDE, crop_px=SIDE)


def quarters() -> np.ndarray:
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:] = (200, 40, 60), (30, 180, 70)
    picture[32:, :32], picture[32:, 32:] = (50, 60, 210), (230, 230, 230)
    return picture


def assert_same_quarters(path, expected: np.ndarray, tolerance: float) -> None:
    frames = decode_image(str(path), SQUARE)
    assert (frames.start_s, frames.step_s, frames.times_s.tolist()) == (0.0, 0.0, [0.0])
    difference = frames.pixels[0].astype(int) - expected
    for rows in (slice(4, 28), slice(36, 60)):
        for columns in (slice(4, 28), slice(36, 60)):
            assert np.abs(difference[rows, columns].mean(axis=(0, 1))).max() <= tolerance


# EXIF 2.3, tag 0x0112: how the stored picture lies → what sets it upright.
UPRIGHT = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"), [("jpg", {"quality": 95}), ("png", {}), ("webp", {"quality": 95})]
)
def test_pictures_are_set_upright(tmp_path, kind, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(tmp_path / f"picture.{kind}", exif=exif, **options)
    assert_same_quarters(tmp_path / f"picture.{kind}", UPRIGHT[orientation](quarters()), 4)


def test_what_shines_through_is_black(tmp_path):
    """Half opaque is half as bright; also where a palette holds the transparency."""
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[:32, :32], alpha[32:, 32:] = 0, 128
    expected = quarters() * (alpha / 255)
    for kind in ("png", "webp"):
        path = tmp_path / f"picture.{kind}"
        Image.fromarray(np.concatenate([quarters(), alpha], axis=2)).save(path, lossless=True)
        assert_same_quarters(path, expected, 1)
    palette = Image.fromarray(quarters()).quantize(4)
    hidden = palette.getpixel((0, 0))
    palette.save(tmp_path / "palette.png", transparency=hidden)
    expected = quarters().astype(int)
    expected[:32, :32] = 0
    assert_same_quarters(tmp_path / "palette.png", expected, 1)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.linspace(0, 65_535, SIDE).astype(np.uint16)[None].repeat(SIDE, 0)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    pixels = decode_image(str(tmp_path / "grey.png"), SQUARE).pixels[0]
    np.testing.assert_allclose(pixels, (grey / 257)[..., None].repeat(3, 2), atol=1)
