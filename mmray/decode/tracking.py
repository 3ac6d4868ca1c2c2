"""Pictures of a clip → the square around a face, or its mouth, in each: found, followed and smoothed.

A detector gives the faces of a picture; of several, the largest one is followed. Where it is not found for a
while its place lies between the two around; what it jitters within `SMOOTH_S` is smoothed, so that a mouth
that opens moves in the square, and not the square. A clip in which no picture has a face is `no_face`.

Detectors are a protocol and a name. `mtcnn` is the cascade of Zhang et al. 2016, "Joint Face Detection and
Alignment using Multitask Cascaded Convolutional Networks", as facenet-pytorch has it with its weights.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from mmray.decode.wanted import Track
from mmray.errors import MediaError

__all__ = ["DETECTORS", "Detector", "Face", "detector_of", "follow", "squares"]

SMOOTH_S = 0.1
"""Squares so near in time are smoothed: their median, then their mean."""
FACE_SIDE, MOUTH_SIDE = 2.6, 1.25
"""Side of the square, in distances from the eyes to the mouth: some 70 mm, whatever is said."""
CERTAIN = 0.9
"""Probability of a face that counts."""
LONG_SIDE_PX = 640
"""Larger pictures are searched at this size."""


class Face(NamedTuple):
    """Places in a picture, pixels from its upper left corner, (x, y)."""

    eyes: tuple[float, float]
    """The middle between them."""
    mouth: tuple[float, float]

    @property
    def height_px(self) -> float:
        """From the eyes to the mouth."""
        return float(np.hypot(self.mouth[0] - self.eyes[0], self.mouth[1] - self.eyes[1]))


class Detector(Protocol):
    """Finds faces in an upright picture, uint8 [H, W, 3] RGB."""

    def __call__(self, picture: np.ndarray) -> Sequence[Face]:
        """All that are certain, in any order."""
        ...


def follow(
    pictures: Iterable[np.ndarray], times_s: np.ndarray, track: Track, detector: Detector | None = None
) -> np.ndarray:
    """The squares of pictures shown at `times_s` [T]: float32 [T, 4], as left, top, right, bottom fractions.

    Raises:
        MediaError: `no_face`.

    """
    detector = detector or detector_of(track.detector)
    found, sizes = np.full((len(times_s), 3), np.nan), np.zeros((len(times_s), 2))
    last: Face | None = None
    for number, picture in enumerate(pictures):
        sizes[number] = picture.shape[1], picture.shape[0]
        if face := _followed(detector(picture), last):
            last = face
            found[number] = _centre_and_side(face, track.around)
    return squares(found, sizes, times_s)


def squares(found: np.ndarray, sizes: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Smoothed squares [T, 4], fractions inside the pictures.

    Args:
        found: [T, 3]: x and y of the centre, side, in pixels; NaN where nothing was found.
        sizes: [T, 2]: width and height of the pictures, pixels.
        times_s: [T].

    Raises:
        MediaError: `no_face` where there is nothing but NaN.

    """
    seen = np.isfinite(found[:, 0])
    if not seen.any():
        raise MediaError("no_face", f"no face is found in any of {len(found)} pictures")
    filled = np.stack([np.interp(times_s, times_s[seen], column[seen]) for column in found.T], axis=1)
    for middle in (np.median, np.mean):
        near = [np.abs(times_s - time_s) <= SMOOTH_S for time_s in times_s]
        filled = np.stack([middle(filled[at], axis=0) for at in near])
    sides = np.minimum(filled[:, 2:], sizes.min(axis=1, keepdims=True))
    corners = np.clip(filled[:, :2] - sides / 2, 0, sizes - sides)
    return (np.concatenate([corners, corners + sides], axis=1) / np.tile(sizes, 2)).astype(np.float32)


def _followed(faces: Sequence[Face], last: Face | None) -> Face | None:
    """The largest, or the one nearest to the last one."""
    if last is None:
        return max(faces, key=lambda face: face.height_px, default=None)
    eyes = last.eyes
    return min(faces, key=lambda f: np.hypot(f.eyes[0] - eyes[0], f.eyes[1] - eyes[1]), default=None)


def _centre_and_side(face: Face, around: str) -> tuple[float, float, float]:
    if around == "mouth":
        return (*face.mouth, MOUTH_SIDE * face.height_px)
    middle = [(a + b) / 2 for a, b in zip(face.eyes, face.mouth)]
    return middle[0], middle[1], FACE_SIDE * face.height_px


# ------------------------------------------------------------------------------------ detectors


@lru_cache(maxsize=1)
def detector_of(name: str) -> Detector:
    """A detector, loaded once a process."""
    return DETECTORS[name]()


def _mtcnn() -> Detector:
    from facenet_pytorch import MTCNN  # pyright: ignore[reportMissingImports]

    network: Any = MTCNN(keep_all=True, post_process=False)

    def detect(picture: np.ndarray) -> list[Face]:
        image = Image.fromarray(np.ascontiguousarray(picture))
        scale = max(1.0, max(image.size) / LONG_SIDE_PX)
        if scale > 1:
            image = image.resize((round(image.width / scale), round(image.height / scale)), reducing_gap=2)
        _, certain, points = network.detect(image, landmarks=True)
        faces = []
        for probability, (left, right, _, left_corner, right_corner) in zip(
            certain, [] if points is None else points
        ):
            if probability >= CERTAIN:
                eyes, mouth = (left + right) / 2 * scale, (left_corner + right_corner) / 2 * scale
                faces.append(Face((float(eyes[0]), float(eyes[1])), (float(mouth[0]), float(mouth[1]))))
        return faces

    return detect


DETECTORS: dict[str, Callable[[], Detector]] = {"mtcnn": _mtcnn}
