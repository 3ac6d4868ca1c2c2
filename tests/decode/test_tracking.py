"""A square follows a face: drawn ones, by a detector whose answers are known; real ones by MTCNN."""

import numpy as np
import pytest

from mmray.decode.image import PictureGeometry
from mmray.decode.tracking import FACE_SIDE, MOUTH_SIDE, Face, follow, squares
from mmray.decode.video import decode_frames
from mmray.decode.wanted import Track
from mmray.errors import ConfigError, MediaError
from mmray.features.frames import FramesFeature
from tests.decode.making import RAW, SIDE, ffmpeg, raw

HIGH, WIDE = 120, 200
TIMES_S: np.ndarray = np.arange(10) / 25


def picture() -> np.ndarray:
    return np.zeros((HIGH, WIDE, 3), np.uint8)


class Scripted:
    """A detector that says what it is told, a list of faces a picture."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def __call__(self, picture):
        return next(self.answers)


def face(x: float, y: float, high: float = 16.0) -> Face:
    """Its middle, and the distance from the eyes to the mouth."""
    return Face((x, y - high / 2), (x, y + high / 2))


def centres(boxes: np.ndarray) -> np.ndarray:
    """Pixels [T, 2]."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2 * (WIDE, HIGH)


def followed(answers, around="face", times_s: np.ndarray = TIMES_S) -> np.ndarray:
    pictures = [picture()] * len(times_s)
    return follow(pictures, times_s, Track(around, "mtcnn"), Scripted(answers))


@pytest.mark.parametrize(("around", "side", "below"), [("face", FACE_SIDE, 0), ("mouth", MOUTH_SIDE, 8)])
def test_a_still_face_is_in_the_middle_of_a_square_of_its_size(around, side, below):
    boxes = followed([[face(90, 60)]] * 10, around)
    np.testing.assert_allclose(centres(boxes), [[90, 60 + below]] * 10, atol=1e-3)
    np.testing.assert_allclose((boxes[:, 2:] - boxes[:, :2]) * (WIDE, HIGH), side * 16, rtol=1e-5)


def test_a_moving_face_is_followed_through_pictures_without_it():
    at = 60 + 4 * np.arange(10)
    answers = [[face(x, 60)] if number not in (3, 4, 5) else [] for number, x in enumerate(at.tolist())]
    boxes = followed(answers)
    np.testing.assert_allclose(centres(boxes)[5:, 0].mean() - centres(boxes)[:5, 0].mean(), 20, atol=6)
    np.testing.assert_allclose(centres(boxes)[4:6, 0], at[4:6], atol=2)


def test_a_detection_gone_astray_and_jitter_are_smoothed():
    jitter = np.random.default_rng(0).normal(0, 1.5, 10)
    answers = [[face(100 + shift, 60)] for shift in jitter]
    answers[4] = [face(20, 20, 9)]
    boxes = followed(answers)
    np.testing.assert_allclose(centres(boxes), [[100, 60]] * 10, atol=3)


def test_pictures_far_apart_in_time_are_not_smoothed():
    at = [40, 160, 40, 160]
    boxes = followed([[face(x, 60)] for x in at], times_s=np.arange(4) * 5.0)
    np.testing.assert_allclose(centres(boxes)[:, 0], at, atol=1e-3)


def test_of_several_faces_the_largest_is_followed():
    near, far = face(60, 60, 20), face(150, 60, 12)
    answers = [[far, near] if number % 2 else [near, far] for number in range(10)]
    answers[7] = [face(150, 60, 30), near]  # one comes closer meanwhile
    np.testing.assert_allclose(centres(followed(answers))[:, 0], 60, atol=1e-3)


def test_squares_stay_inside_the_picture():
    found = np.array([[5, 5, 40], [WIDE, HIGH, 40], [100, 60, 1000.0]])
    boxes = squares(found, np.array([[WIDE, HIGH]] * 3), np.arange(3) * 9.0)
    assert (boxes >= 0).all()
    assert (boxes <= 1 + 1e-6).all()
    pixels = (boxes[:, 2:] - boxes[:, :2]) * (WIDE, HIGH)
    np.testing.assert_allclose(pixels, [[40, 40], [40, 40], [HIGH, HIGH]], rtol=1e-5)


def test_a_clip_without_a_face_is_a_failure():
    with pytest.raises(MediaError, match="10 pictures") as told:
        followed([[]] * 10)
    assert told.value.reason == "no_face"


def test_a_detector_that_is_not_there_is_said_with_the_remedy(monkeypatch):
    feature = FramesFeature.model_validate({"kind": "frames", "crop": {"around": "mouth"}})
    assert FramesFeature(kind="frames", crop=(0.0, 0.0, 0.5, 0.5)).packages() == ()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps facenet-pytorch"):
        feature.packages()


def test_mtcnn_finds_no_face_in_numbers_and_the_talkers_in_a_recording(tmp_path, shared_data):
    """In GRID the mouth lies about the region that configs/grid.yaml gives by hand."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    grid = sorted((shared_data / "grid").glob("*.mpg"))
    mouth = {
        "sampling": "uniform",
        "frames": 6,
        "fps": None,
        "start_s": None,
        "end_s": None,
        "resize": PictureGeometry(crop=None, resize_px=SIDE, crop_px=SIDE),
        "decoder": "pyav",
        "track": Track("mouth", "mtcnn"),
    }
    frames = decode_frames(str(grid[0]), **mouth)
    assert frames.boxes is not None
    left, top, right, bottom = frames.boxes.T
    assert ((left > 0.2) & (right < 0.7) & (top > 0.5) & (bottom < 1.0)).all()
    assert frames.boxes.std(axis=0).max() < 0.02
    ffmpeg(*RAW, "-c:v", "libx264", tmp_path / "numbers.mp4", data=raw(range(12)))
    with pytest.raises(MediaError) as told:
        decode_frames(str(tmp_path / "numbers.mp4"), **mouth)
    assert told.value.reason == "no_face"
