"""`mel`, `spectrogram`, `mfcc`: a waveform → its short-time spectrum.

Windows, mel filters and norms are librosa's (Slaney), so that models trained on librosa's features fit. Of
all three, step t is centred at t · hop_ms; the signal is padded with zeros, alone, so that no other clip of
a batch touches it; the window is Hann's, in an FFT of the next power of two. Made by NumPy alone, so that
what decodes needs no torch.
"""

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from mmray.decode.wanted import Sound
from mmray.features.base import Kind, Step
from mmray.features.sound import SoundSettings, as_heard
from mmray.settings import Positive, PositiveFloat

__all__ = [
    "MEL",
    "MFCC",
    "SPECTROGRAM",
    "MelFeature",
    "MfccFeature",
    "SpectrogramFeature",
    "log_mel",
    "log_spectrogram",
    "mfcc",
]

CHUNK_STEPS = 2048
"""Transformed at a time: the spectrum of a long recording would be many times its samples."""
FLOOR = np.float32(1e-10)
"""Smallest power before the logarithm: silence is −23, not −∞."""


# ------------------------------------------------------------------------------------ the kinds


class SpectralSettings(SoundSettings):
    """A short-time Fourier transform of the sound."""

    sample_rate_hz: Positive = 16_000
    window_ms: PositiveFloat = 25.0
    hop_ms: PositiveFloat = 10.0


class MelFeature(SpectralSettings):
    """Sound → log-mel spectrogram, a vector of `n_mels` every `hop_ms`."""

    kind: Literal["mel"]
    n_mels: Positive = 64


class SpectrogramFeature(SpectralSettings):
    """Sound → log-power spectrogram, a vector of `n_fft / 2 + 1` every `hop_ms`."""

    kind: Literal["spectrogram"]


class MfccFeature(SpectralSettings):
    """Sound → mel-frequency cepstral coefficients, a vector of `n_mfcc` every `hop_ms`."""

    kind: Literal["mfcc"]
    n_mels: Positive = 64
    n_mfcc: Positive = 20

    @model_validator(mode="after")
    def _no_more_than_bands(self) -> Self:
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc {self.n_mfcc} is more than n_mels {self.n_mels}")
        return self


def _takes(feature: SpectralSettings) -> Sound:
    return Sound(feature.sample_rate_hz)


def _prepare(feature: SpectralSettings, samples: np.ndarray, sample_id: str) -> Step:
    stft: dict[str, Any] = {
        "sample_rate_hz": feature.sample_rate_hz,
        "window_ms": feature.window_ms,
        "hop_ms": feature.hop_ms,
    }
    samples = as_heard(feature, samples, sample_id)
    match feature:
        case MelFeature():
            spectrum = log_mel(samples, n_mels=feature.n_mels, **stft)
        case MfccFeature():
            spectrum = mfcc(samples, n_mels=feature.n_mels, n_mfcc=feature.n_mfcc, **stft)
        case _:
            spectrum = log_spectrogram(samples, **stft)
    return Step(spectrum, 0.0, _Stft.of(**stft).hop / feature.sample_rate_hz)


def _bins(feature: SpectrogramFeature) -> int:
    return _Stft.of(feature.sample_rate_hz, feature.window_ms, feature.hop_ms).fft // 2 + 1


MEL = Kind(MelFeature, _takes, _prepare, dim=lambda feature: feature.n_mels, libraries=("numpy",))
SPECTROGRAM = Kind(SpectrogramFeature, _takes, _prepare, dim=_bins, libraries=("numpy",))
MFCC = Kind(MfccFeature, _takes, _prepare, dim=lambda feature: feature.n_mfcc, libraries=("numpy",))


# ------------------------------------------------------------------------------------ the transforms


def log_spectrogram(
    samples: np.ndarray, *, sample_rate_hz: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_fft / 2 + 1]: natural log of power, T = 1 + N // hop."""
    return _logged(samples, _Stft.of(sample_rate_hz, window_ms, hop_ms))


def log_mel(
    samples: np.ndarray, *, sample_rate_hz: int, n_mels: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_mels]: natural log of mel power, T = 1 + N // hop.

    Equals `log(librosa.feature.melspectrogram(…))`. Source: Slaney, Auditory Toolbox (1998), as in librosa.
    """
    stft = _Stft.of(sample_rate_hz, window_ms, hop_ms)
    return _logged(samples, stft, _mel_filters(sample_rate_hz, stft.fft, n_mels))


def mfcc(
    samples: np.ndarray, *, sample_rate_hz: int, n_mels: int, n_mfcc: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_mfcc]: the orthonormal DCT-II of mel power in decibels.

    Equals `librosa.feature.mfcc` without its limit of 80 dB below the loudest step, which would let one
    step change another. Source: Davis and Mermelstein 1980, "Comparison of parametric representations for
    monosyllabic word recognition".
    """
    mel = log_mel(samples, sample_rate_hz=sample_rate_hz, n_mels=n_mels, window_ms=window_ms, hop_ms=hop_ms)
    return mel @ _decibel_cosines(n_mels, n_mfcc)


class _Stft(NamedTuple):
    """Sizes in samples."""

    window: int
    hop: int
    fft: int

    @classmethod
    def of(cls, sample_rate_hz: int, window_ms: float, hop_ms: float) -> Self:
        window, hop = (max(1, round(ms * sample_rate_hz / 1000)) for ms in (window_ms, hop_ms))
        return cls(window, hop, 1 << (window - 1).bit_length())


def _logged(samples: np.ndarray, stft: _Stft, filters_FM: np.ndarray | None = None) -> np.ndarray:
    """Log power of every step, [T, bins or filters], some thousands at a time."""
    steps, half = 1 + len(samples) // stft.hop, stft.fft // 2
    bins = half + 1 if filters_FM is None else filters_FM.shape[1]
    window = _padded_hann(stft.window, stft.fft)
    logged = np.empty((steps, bins), np.float32)
    for first in range(0, steps, CHUNK_STEPS):
        count = min(CHUNK_STEPS, steps - first)
        begin, end = first * stft.hop - half, (first + count - 1) * stft.hop + stft.fft - half
        part = np.pad(samples[max(begin, 0) : end], (max(-begin, 0), max(end - len(samples), 0)))
        frames_TN = np.lib.stride_tricks.sliding_window_view(part, stft.fft)[:: stft.hop]
        spectrum_TF = np.fft.rfft(frames_TN * window)
        power_TF = np.square(spectrum_TF.real) + np.square(spectrum_TF.imag)
        power = power_TF if filters_FM is None else power_TF @ filters_FM
        np.log(np.maximum(power, FLOOR), out=logged[first : first + count])
    return logged


@lru_cache(maxsize=8)
def _padded_hann(window: int, fft: int) -> np.ndarray:
    """The periodic Hann window in the middle of the transform, float32 [fft]."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    left = (fft - window) // 2
    return np.pad(hann, (left, fft - window - left)).astype(np.float32)


@lru_cache(maxsize=8)
def _mel_filters(sample_rate_hz: int, fft: int, n_mels: int) -> np.ndarray:
    """Triangles of equal area on Slaney's scale, float32 [fft / 2 + 1, n_mels].

    The scale is linear (3 mel in 200 Hz) up to 1 kHz, which is 15 mel, and logarithmic above: 27 mel for
    each factor of 6.4.
    """
    top = sample_rate_hz / 2
    top_mel = 3 * top / 200 if top < 1000 else 15 + 27 * math.log(top / 1000) / math.log(6.4)
    mel = np.linspace(0, top_mel, n_mels + 2)
    corners = np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    hz = np.linspace(0, top, fft // 2 + 1)[:, None]
    triangles = np.minimum((hz - left) / (centre - left), (right - hz) / (right - centre))
    return (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)


@lru_cache(maxsize=8)
def _decibel_cosines(n_mels: int, n_mfcc: int) -> np.ndarray:
    """[n_mels, n_mfcc]: natural logarithm → decibels → the first coefficients of the orthonormal DCT-II."""
    angles = np.pi / n_mels * (np.arange(n_mels)[:, None] + 0.5) * np.arange(n_mfcc)
    cosines = np.cos(angles) * math.sqrt(2 / n_mels)
    cosines[:, 0] /= math.sqrt(2)
    return (cosines * 10 / math.log(10)).astype(np.float32)
