"""Every decoder gives the frames whose numbers a closed form says, read back from the pictures themselves."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmray.decode.image import Frames, PictureGeometry
from mmray.decode.index import index_video
from mmray.decode.packets import read_recording
from mmray.decode.readers import read_pictures
from mmray.decode.video import decode_frames
from mmray.errors import MediaError
from tests.decode.making import RAW, ffmpeg, raw

FPS = 25
FRAMES = 60
SQUARE = PictureGeometry(crop=None, resize_px=64, crop_px=64)

X264 = {"preset": "veryfast", "x264-params": "keyint=12:scenecut=0"}
X264_OPEN = {"x264-params": "keyint=12:open-gop=1:bframes=3:b-adapt=0"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"}  # open groups by default
VP9 = {"g": "12", "cpu-used": "8", "deadline": "realtime"}
CODECS = [
    ("libx264", X264, "mp4"),
    ("libx264", X264, "mkv"),
    ("libx264", X264, "avi"),
    ("libx264", X264, "ts"),
    ("libx264", X264_OPEN, "mp4"),
    ("libx265", X265, "mp4"),
    ("libx265", X265, "mkv"),
    ("libvpx-vp9", VP9, "webm"),
    ("mpeg4", {"g": "12", "bf": "2"}, "mp4"),
    ("mpeg4", {"g": "12"}, "avi"),
    ("mpeg2video", {"g": "12", "bf": "2"}, "mpg"),
]


def numbered(number: int) -> np.ndarray:
    """A picture [64, 64, 3] that shows `number` in binary, as eight white or black columns."""
    columns = np.array([235 if number >> bit & 1 else 20 for bit in range(8)], np.uint8)
    return np.broadcast_to(columns.repeat(8)[None, :, None], (64, 64, 3)).copy()


def number_in(picture: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if picture[16:48, 8 * bit + 2 : 8 * bit + 6].mean() > 128)


def numbers_in(frames: Frames) -> list[int]:
    return [number_in(picture) for picture in frames.pixels]


def write_video(
    path: Path,
    pictures: list[np.ndarray],
    *,
    codec: str = "libx264",
    options: dict[str, str] = X264,
    pixels: str = "yuv420p",
    times_ms: list[int] | None = None,
    rotation: int = 0,
) -> Path:
    """Pictures one after another, at FPS or at the times given."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if times_ms is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def frames_of(path: Path, decoder: str, **how) -> Frames:
    settings = {"sampling": "uniform", "frames": 8, "fps": None, "start_s": None, "end_s": None, **how}
    return decode_frames(str(path), resize=settings.pop("resize", SQUARE), decoder=decoder, **settings)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A clip of numbered frames in each codec and container."""
    folder = tmp_path_factory.mktemp("clips")
    pictures = [numbered(number) for number in range(FRAMES)]
    for place, (codec, options, container) in enumerate(CODECS):
        write_video(folder / f"{place}.{container}", pictures, codec=codec, options=options)
    return folder


@pytest.mark.parametrize("place", range(len(CODECS)), ids=["-".join([c, e]) for c, _, e in CODECS])
def test_frames_are_those_of_the_closed_forms(clips, place, decoder):
    path = clips / f"{place}.{CODECS[place][2]}"
    for count in (1, 7, FRAMES, 100):
        expected = sorted({int((i + 0.5) * FRAMES / count) for i in range(count)})
        assert numbers_in(frames_of(path, decoder, frames=count)) == expected
    # Segments jump about in a file that may still be open; the last frames have their own ways to go wrong.
    for first in (50, 11, 37, 56, 12, 35):
        segment = frames_of(path, decoder, frames=2, start_s=first / FPS, end_s=(first + 4) / FPS)
        assert numbers_in(segment) == [first + 1, first + 3]
    five_hertz = frames_of(path, decoder, sampling="fps", fps=5.0, frames=100)
    assert numbers_in(five_hertz) == list(range(0, FRAMES, FPS // 5))
    np.testing.assert_allclose(five_hertz.times_s, np.arange(12) / 5, atol=2e-3)


def test_key_frames_are_those_the_encoder_was_told_to_make(clips, decoder):
    for path in (clips / "0.mp4", clips / "1.mkv", clips / "7.webm"):
        keys = frames_of(path, decoder, sampling="keyframes", frames=99)
        assert numbers_in(keys) == [0, 12, 24, 36, 48]
        np.testing.assert_allclose(keys.times_s, np.array(numbers_in(keys)) / FPS, atol=1e-3)
        assert numbers_in(frames_of(path, decoder, sampling="keyframes", frames=2)) == [12, 36]
        part = frames_of(path, decoder, sampling="keyframes", start_s=0.9, end_s=1.5)
        assert numbers_in(part) == [24, 36]
        np.testing.assert_allclose(part.times_s, [0.06, 0.54], atol=1e-3)
        with pytest.raises(MediaError, match="no key frame") as caught:
            frames_of(path, decoder, sampling="keyframes", start_s=0.1, end_s=0.4)
        assert caught.value.reason == "no_frames"


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_frames_of_irregular_times_are_those_on_screen(tmp_path, decoder, container):
    gaps_ms = np.random.default_rng(0).choice([10, 40, 300], 40)
    times_ms = [0, *np.cumsum(gaps_ms).tolist()]
    path = write_video(
        tmp_path / f"clip.{container}", [numbered(n) for n in range(len(times_ms))], times_ms=times_ms
    )
    fps = frames_of(path, decoder, sampling="fps", fps=4.0, frames=1000)
    asked_ms = range(0, times_ms[-1] + 1, 250)
    shown = sorted({max(n for n, at in enumerate(times_ms) if at <= asked) for asked in asked_ms})
    assert [n for n in numbers_in(fps) if n < len(times_ms) - 1] == [
        n for n in shown if n < len(times_ms) - 1
    ]
    np.testing.assert_allclose(fps.times_s, [times_ms[n] / 1000 for n in numbers_in(fps)], atol=1e-3)
    assert fps.start_s == pytest.approx(fps.times_s[0], abs=1e-6)
    assert fps.step_s == pytest.approx(np.diff(fps.times_s).mean(), abs=1e-5)


def coloured() -> np.ndarray:
    """Four quarters of known colours, [64, 64, 3]."""
    picture = np.empty((64, 64, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:] = (200, 40, 60), (30, 180, 70)
    picture[32:, :32], picture[32:, 32:] = (50, 60, 210), (230, 230, 230)
    return picture


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_turned_once_and_keep_their_colours(tmp_path, decoder, rotation):
    """A display matrix turns counter-clockwise, as numpy's rot90 does."""
    path = write_video(tmp_path / "clip.mp4", [coloured()] * 12, rotation=rotation)
    expected = np.rot90(coloured(), rotation // 90).astype(int)
    for picture in frames_of(path, decoder, frames=2).pixels.astype(int):
        for rows in (slice(4, 28), slice(36, 60)):
            for columns in (slice(4, 28), slice(36, 60)):
                difference = picture[rows, columns] - expected[rows, columns]
                assert abs(difference.mean(axis=(0, 1))).max() < 4


@pytest.mark.parametrize(("width", "height"), [(65, 49), (17, 131), (64, 64)])
def test_pixels_agree_between_decoders(tmp_path, decoder, width, height):
    """Odd sizes too."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pictures = list(blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width])
    path = write_video(tmp_path / "clip.mp4", pictures, codec="libvpx-vp9", options=VP9)
    geometry = PictureGeometry(crop=None, resize_px=min(width, height), crop_px=min(width, height))
    mine = frames_of(path, decoder, frames=3, resize=geometry).pixels.astype(int)
    pyav = frames_of(path, "pyav", frames=3, resize=geometry).pixels.astype(int)
    assert np.abs(mine - pyav).mean() < 0.1


def test_a_single_frame_is_a_video(tmp_path, decoder):
    path = write_video(tmp_path / "clip.mp4", [numbered(77)])
    for how in ({}, {"sampling": "fps", "fps": 30.0}, {"sampling": "keyframes"}):
        frames = frames_of(path, decoder, **how)
        assert numbers_in(frames) == [77]
        assert frames.times_s.tolist() == [0.0]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_video_that_was_cut_off_is_short(clips, tmp_path, decoder, share):
    for place, container in ((1, "mkv"), (7, "webm")):
        whole = (clips / f"{place}.{container}").read_bytes()
        cut = tmp_path / f"cut.{container}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError) as caught:
            frames_of(cut, decoder)
        assert caught.value.reason == "short_video"


def test_a_path_that_holds_another_file_now_is_read_afresh(tmp_path, decoder):
    path = tmp_path / "clip.mp4"
    for first in (0, 100):
        path.unlink(missing_ok=True)
        write_video(path, [numbered(first + number) for number in range(20)])
        assert numbers_in(frames_of(path, decoder, frames=2)) == [first + 5, first + 15]


def test_real_clips_look_the_same_to_all(shared_data, decoder):
    """With several video streams (nasa), 720p, and MPEG-1 in a program stream (GRID)."""
    grid = sorted((shared_data / "grid").glob("*.mpg"))[:2]
    for path in (shared_data / "clips/bigbuckbunny.mp4", shared_data / "clips/nasa_13013.mp4", *grid):
        for segment in ({}, {"start_s": 1.0, "end_s": 2.0}):
            mine = frames_of(path, decoder, frames=5, **segment)
            pyav = frames_of(path, "pyav", frames=5, **segment)
            np.testing.assert_array_equal(mine.times_s, pyav.times_s)
            assert np.abs(mine.pixels.astype(int) - pyav.pixels).mean() < 1


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.mp4", ("-c:v", "libx264", "-preset", "fast", "-bf", 3, "-pix_fmt", "yuv420p")),
        ("pyramid.mkv", ("-c:v", "libx264", "-bf", 5, "-x264-params", "b-pyramid=normal:open-gop=1")),
        ("fields.ts", ("-c:v", "libx264", "-bf", 3, "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p")),
        ("v.mov", ("-c:v", "libx265", "-bf", 4, "-x265-params", "log-level=error", "-pix_fmt", "yuv420p")),
        ("v.mpg", ("-c:v", "mpeg2video", "-bf", 2, "-q:v", 3)),
        ("m.mp4", ("-c:v", "mpeg4", "-bf", 2, "-q:v", 3)),
    ],
)
def test_frames_left_out_change_nothing_in_those_taken(tmp_path, name, codec):
    """To the bit what PyAV gives when it decodes every frame."""
    ffmpeg(*RAW, "-g", 24, *codec, tmp_path / name, data=raw(range(100)))
    with av.open(str(tmp_path / name)) as container:
        whole = [
            frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)
        ]
    recording = read_recording(str(tmp_path / name))
    index = index_video(recording)
    assert len(whole) == len(index.numbers) == 100
    for chosen in ([3, 4, 20, 21, 22, 57, 99], list(range(1, 100, 13)), [98]):
        pictures = read_pictures(str(tmp_path / name), recording.format, index, np.array(chosen), "pyav")
        for number, picture in zip(chosen, pictures, strict=True):
            np.testing.assert_array_equal(picture, whole[number])
