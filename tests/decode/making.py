"""Pictures and sounds whose place in time can be read back from them, and files made of them by FFmpeg."""

import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmray.decode.audio import decode_audio
from mmray.decode.image import PictureGeometry
from mmray.decode.video import decode_frames

FPS, RATE_HZ, SIDE = 25, 16_000, 64
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-pix_fmt", "yuv420p")
RAW = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", FPS, "-i", "-")
SQUARE = PictureGeometry(crop=None, resize_px=SIDE, crop_px=SIDE)


def ffmpeg(*arguments: Any, data: bytes | None = None) -> bytes:
    """Run ffmpeg; skips the test where there is none, or where it lacks the encoder."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    quiet = ("ffmpeg", "-v", "error", "-y", *(() if data is not None else ("-nostdin",)))
    done = subprocess.run([*quiet, *map(str, arguments)], input=data, capture_output=True, check=False)
    if done.returncode and b"Unknown encoder" in done.stderr:
        pytest.skip(done.stderr.decode(errors="replace").strip())
    assert not done.returncode, done.stderr.decode(errors="replace")
    return done.stdout


# ------------------------------------------------------------------------------------ pictures


def numbered(number: int) -> np.ndarray:
    """A picture that shows `number` in binary, as eight white or black columns; 0 and 255 at its foot.

    The foot has its white at the left, so that turned and mirrored pictures differ.
    """
    columns = np.array([235 if number >> bit & 1 else 20 for bit in range(8)], np.uint8)
    picture = np.broadcast_to(columns.repeat(8)[None, :, None], (SIDE, SIDE, 3)).copy()
    picture[48:], picture[48:, :24] = 20, 235
    return picture


def raw(numbers: range | list[int]) -> bytes:
    return b"".join(numbered(number).tobytes() for number in numbers)


def numbers_in(pixels: np.ndarray) -> list[int]:
    """The numbers that uint8 pictures [T, H, W, 3] show."""
    return [
        sum(1 << bit for bit in range(8) if picture[8:40, 8 * bit + 2 : 8 * bit + 6].mean() > 128)
        for picture in pixels
    ]


def shown_numbers(
    path: Path, frames: int, start_s: float | None = None, end_s: float | None = None, decoder: str = "pyav"
) -> list[int]:
    """What mmray shows of a file."""
    found = decode_frames(
        str(path),
        sampling="uniform",
        frames=frames,
        fps=None,
        start_s=start_s,
        end_s=end_s,
        resize=SQUARE,
        decoder=decoder,
    )
    return numbers_in(found.pixels)


def evenly(numbers: list[int], frames: int) -> list[int]:
    """Those in the middle of each of `frames` equal spans: the closed form of `uniform`."""
    return [numbers[int((i + 0.5) * len(numbers) / frames)] for i in range(frames)]


def near(found: list[int], expected: list[int]) -> bool:
    """The same to one frame: rounding of stamps, and of where a recording begins."""
    return len(found) == len(expected) and all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True))


# ------------------------------------------------------------------------------------ sound


def melody(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """float32 [N]: two tones at a time, drawn anew every 0.1 s, so that a shift changes everything."""
    draw = np.random.default_rng(seed)
    time_s = np.arange(round(0.1 * rate_hz)) / rate_hz
    edge = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.005)
    slots = [
        sum(0.2 * edge * np.sin(2 * np.pi * hertz * time_s) for hertz in draw.uniform(200, 3000, 2))
        for _ in range(round(seconds * 10))
    ]
    return np.concatenate(slots).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def played(path: Path) -> np.ndarray:
    """What FFmpeg's command line plays from the recording's beginning, silence where stamps have gaps."""
    filters = f"aresample=async=1:first_pts=0,aresample={RATE_HZ}"
    return np.frombuffer(ffmpeg("-i", path, "-vn", "-af", filters, "-ac", 1, "-f", "f32le", "-"), np.float32)


def heard(path: Path, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """What mmray hears in a file."""
    return decode_audio(str(path), sample_rate_hz=RATE_HZ, start_s=start_s, end_s=end_s).samples


def difference(sound: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, as a share of the expected sound's; a shift by 1 ms is 1.4."""
    both = min(len(sound), len(expected))
    error = np.sqrt(np.mean((sound[:both] - expected[:both]) ** 2))
    return float(error / np.sqrt(np.mean(expected[:both] ** 2)))
