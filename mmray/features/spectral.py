"""A waveform → its spectrogram, log-mel spectrogram or MFCCs; and white noise at a given SNR.

Windows, mel filters and norms are librosa's (Slaney), so that models trained on librosa's features fit. Of
all three, step t is centred at t · hop_ms; the signal is padded with zeros, alone, so that no other clip of
a batch touches it; the window is Hann's, in an FFT of the next power of two.
"""

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torchaudio.functional import create_dct
from torchaudio.transforms import MelSpectrogram, Spectrogram

__all__ = ["add_white_noise", "hop_samples", "log_mel", "log_spectrogram", "mfcc", "spectrogram_bins"]

CHUNK_STEPS = 8192
"""Transformed at a time: the spectrum of a long recording would be many times its samples."""
FLOOR = 1e-10
"""Smallest power before the logarithm: silence is −23, not −∞."""


def hop_samples(hop_ms: float, sample_rate_hz: int) -> int:
    """Whole samples from one step to the next."""
    return max(1, round(hop_ms * sample_rate_hz / 1000))


def spectrogram_bins(sample_rate_hz: int, window_ms: float) -> int:
    """Numbers of a step of `log_spectrogram`: n_fft / 2 + 1."""
    return _stft(sample_rate_hz, window_ms, 1.0)["n_fft"] // 2 + 1


def log_spectrogram(
    samples: np.ndarray, *, sample_rate_hz: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_fft / 2 + 1]: natural log of power, T = 1 + N // hop."""
    return _logged(_power_transform(sample_rate_hz, window_ms, hop_ms), samples)


def log_mel(
    samples: np.ndarray, *, sample_rate_hz: int, n_mels: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_mels]: natural log of mel power, T = 1 + N // hop.

    Equals `log(librosa.feature.melspectrogram(…))`. Source: Slaney, Auditory Toolbox (1998), as in librosa.
    """
    return _logged(_mel_transform(sample_rate_hz, n_mels, window_ms, hop_ms), samples)


def mfcc(
    samples: np.ndarray, *, sample_rate_hz: int, n_mels: int, n_mfcc: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_mfcc]: the orthonormal DCT-II of mel power in decibels.

    Equals `librosa.feature.mfcc` without its limit of 80 dB below the loudest step, which would let one
    step change another. Source: Davis and Mermelstein 1980, "Comparison of parametric representations for
    monosyllabic word recognition".
    """
    mel = log_mel(samples, sample_rate_hz=sample_rate_hz, n_mels=n_mels, window_ms=window_ms, hop_ms=hop_ms)
    decibels = torch.from_numpy(mel) * (10 / math.log(10))
    return (decibels @ create_dct(n_mfcc, n_mels, norm="ortho")).contiguous().numpy()


def _logged(transform: Spectrogram | MelSpectrogram, samples: np.ndarray) -> np.ndarray:
    """Log power of every step, [T, bins], some thousands at a time."""
    hop, half = transform.hop_length, transform.n_fft // 2
    steps = 1 + len(samples) // hop
    bins = transform.n_mels if isinstance(transform, MelSpectrogram) else transform.n_fft // 2 + 1
    logged = np.empty((steps, bins), np.float32)
    for first in range(0, steps, CHUNK_STEPS):
        count = min(CHUNK_STEPS, steps - first)
        begin, end = first * hop - half, (first + count - 1) * hop + half
        padded = np.pad(samples[max(begin, 0) : end], (max(-begin, 0), max(end - len(samples), 0)))
        logged[first : first + count] = transform(torch.from_numpy(padded)).clamp_min(FLOOR).log().T.numpy()
    return logged


def _stft(sample_rate_hz: int, window_ms: float, hop_ms: float) -> dict[str, Any]:
    window = max(1, round(window_ms * sample_rate_hz / 1000))
    return {
        "n_fft": 1 << (window - 1).bit_length(),
        "win_length": window,
        "hop_length": hop_samples(hop_ms, sample_rate_hz),
        "power": 2.0,
        "center": False,
    }


@lru_cache(maxsize=8)
def _power_transform(sample_rate_hz: int, window_ms: float, hop_ms: float) -> Spectrogram:
    return Spectrogram(**_stft(sample_rate_hz, window_ms, hop_ms))


@lru_cache(maxsize=8)
def _mel_transform(sample_rate_hz: int, n_mels: int, window_ms: float, hop_ms: float) -> MelSpectrogram:
    stft = _stft(sample_rate_hz, window_ms, hop_ms)
    return MelSpectrogram(
        sample_rate=sample_rate_hz, n_mels=n_mels, norm="slaney", mel_scale="slaney", **stft
    )


def add_white_noise(samples: np.ndarray, *, snr_db: float, seed_text: str, seed: int = 0) -> np.ndarray:
    """float32 [N] plus Gaussian noise whose power is exactly the signal's · 10^(−snr_db / 10).

    The noise depends on `seed` and `seed_text` (a sample's id) only, so that it is the same on every
    machine and in every run. Silence has no power and stays silence.
    """
    digest = hashlib.blake2b(f"{seed}:{seed_text}".encode(), digest_size=8).digest()
    noise = np.random.default_rng(int.from_bytes(digest)).standard_normal(len(samples))
    signal_power = np.mean(np.square(samples, dtype=np.float64))
    noise_power = np.mean(np.square(noise))
    gain = np.sqrt(signal_power * 10 ** (-snr_db / 10) / noise_power)
    return (samples + gain * noise).astype(np.float32)
