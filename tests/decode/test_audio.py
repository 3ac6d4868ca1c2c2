"""The tone that was encoded comes back, whole or in part; a damaged file has the right reason."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmray.decode.audio import decode_audio
from mmray.errors import MediaError

SECONDS = 4.0
RATE_HZ = 16_000
PITCHES_HZ = (440.0, 1250.0)
"""Of the left and the right channel."""


def tones(rate_hz: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """[channels, N] of a sine each, amplitude 0.4."""
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([0.4 * np.sin(2 * np.pi * hz * times_s) for hz in PITCHES_HZ[:channels]])


def write_sound(path: Path, codec: str, *, rate_hz: int = 48_000, channels: int = 2) -> Path:
    layout = ("mono", "stereo")[channels - 1]
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=rate_hz, layout=layout)
        encoder = stream.codec_context
        sound = tones(rate_hz, channels).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        to_encoder = av.AudioResampler(
            format=encoder.format, layout=layout, rate=rate_hz, frame_size=encoder.frame_size or 1024
        )
        for part in [*to_encoder.resample(frame), *to_encoder.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    return path


def sound_of(path: Path, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    sound = decode_audio(str(path), sample_rate_hz=RATE_HZ, start_s=start_s, end_s=end_s)
    assert sound.samples.dtype == np.float32
    return sound.samples


def reason_of(path: Path) -> str | None:
    try:
        sound_of(path)
    except MediaError as error:
        return error.reason
    return None


# What a codec may change, as root mean square; one sample of shift would be 0.048.
FORMATS = [
    ("pcm_s16le", "wav", 1e-3),
    ("flac", "flac", 1e-3),
    ("libmp3lame", "mp3", 0.02),
    ("libopus", "ogg", 0.02),
    ("aac", "m4a", 0.04),
    ("aac", "mkv", 0.04),
]


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


@pytest.mark.parametrize(("rate_hz", "channels"), [(48_000, 2), (48_000, 1), (16_000, 1)])
@pytest.mark.parametrize(("codec", "container", "tolerance"), FORMATS[:5], ids=[f[1] for f in FORMATS[:5]])
def test_the_tone_is_the_one_that_was_encoded(tmp_path, codec, container, tolerance, rate_hz, channels):
    path = write_sound(tmp_path / f"tone.{container}", codec, rate_hz=rate_hz, channels=channels)
    expected = tones(RATE_HZ, channels, SECONDS + 1).mean(axis=0)
    whole = sound_of(path)
    assert len(whole) == pytest.approx(SECONDS * RATE_HZ, abs=0.13 * RATE_HZ)
    inner = slice(RATE_HZ // 4, round((SECONDS - 0.25) * RATE_HZ))
    assert rms(whole[inner] - expected[inner]) < tolerance
    for start_s, end_s in ((None, 1.0), (0.3, 1.25), (1.51, 2.76)):
        part = sound_of(path, start_s, end_s)
        first = round((start_s or 0) * RATE_HZ)
        assert len(part) == round((end_s - (start_s or 0)) * RATE_HZ)
        edge = 2000 if not start_s else 0  # a codec's first packets ramp up
        assert rms(part[edge:] - expected[first + edge : first + len(part)]) < tolerance


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "ogg", "mkv"])
def test_sound_that_was_cut_off_is_short(tmp_path, container):
    codec = next(codec for codec, kind, _ in FORMATS if kind == container)
    whole = write_sound(tmp_path / f"whole.{container}", codec).read_bytes()
    for share in (0.4, 0.9):
        cut = tmp_path / f"cut.{container}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        assert reason_of(cut) == "short_audio"


def test_a_part_of_a_real_recording_is_a_cut_of_the_whole(shared_data):
    """With 5.1 channels (bigbuckbunny) and with several sound tracks (nasa)."""
    clips = shared_data / "clips"
    grid = sorted((shared_data / "grid").glob("*.mpg"))[:2]
    for path in (clips / "bigbuckbunny.mp4", clips / "nasa_13013.mp4", clips / "jfk.flac", *grid):
        whole = sound_of(path)
        np.testing.assert_allclose(sound_of(path, 1.0, 2.0), whole[RATE_HZ : 2 * RATE_HZ], atol=1e-4)
