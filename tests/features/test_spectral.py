"""Spectra against librosa, which computes them with scipy."""

import librosa
import numpy as np
import pytest

from mmray.features.spectral import log_mel, log_spectrogram, mfcc

RATE_HZ = 16_000
STFT = {"sample_rate_hz": RATE_HZ, "window_ms": 25.0, "hop_ms": 10.0}
LIBROSA = {"n_fft": 512, "win_length": 400, "hop_length": 160, "pad_mode": "constant"}


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """A rising tone in noise, float32 [N]."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * (200 + 2000 * time_s) * time_s)
    return (0.3 * tone + 0.05 * np.random.default_rng(0).standard_normal(RATE_HZ)).astype(np.float32)


def test_log_spectrogram(sound):
    power = np.abs(librosa.stft(sound, **LIBROSA)) ** 2
    ours = log_spectrogram(sound, **STFT)
    assert ours.shape == (101, 257)
    # As power: the logarithm of next to nothing has no precision to compare.
    np.testing.assert_allclose(np.exp(ours), power.T, rtol=1e-4, atol=1e-5)


def test_log_mel(sound):
    mel = librosa.feature.melspectrogram(y=sound, sr=RATE_HZ, n_mels=40, **LIBROSA)
    np.testing.assert_allclose(log_mel(sound, n_mels=40, **STFT), np.log(mel.T), atol=1e-4)


def test_mfcc(sound):
    mel = librosa.feature.melspectrogram(y=sound, sr=RATE_HZ, n_mels=40, **LIBROSA)
    decibels = librosa.power_to_db(mel, top_db=None)
    expected = librosa.feature.mfcc(S=decibels, n_mfcc=13).T
    np.testing.assert_allclose(mfcc(sound, n_mels=40, n_mfcc=13, **STFT), expected, atol=2e-3)


def test_silence_is_the_floor():
    silence = np.zeros(1600, np.float32)
    np.testing.assert_allclose(log_mel(silence, n_mels=8, **STFT), np.log(1e-10), rtol=1e-6)
