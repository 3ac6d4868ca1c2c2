"""A waveform → its log-mel spectrogram; and white noise at a given signal-to-noise ratio.

The mel filters and norms are librosa's (Slaney), so that models trained on librosa's features fit.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from torchaudio.transforms import MelSpectrogram

__all__ = ["add_white_noise", "log_mel"]

CHUNK_STEPS = 8192
"""Transformed at a time: the spectrum of a long recording would be many times its samples."""
FLOOR = 1e-10
"""Smallest power before the logarithm: silence is −23, not −∞."""


def log_mel(
    samples: np.ndarray, *, sample_rate_hz: int, n_mels: int, window_ms: float, hop_ms: float
) -> np.ndarray:
    """float32 [N] → float32 [T, n_mels]: natural log of mel power, T = 1 + N // hop.

    Step t is centred at t · hop_ms; the signal is padded with zeros, alone, so that no other clip of a
    batch touches it. Equals `log(librosa.feature.melspectrogram(…))` with a Hann window of `window_ms` in
    an FFT of the next power of two.

    Source: Slaney, Auditory Toolbox (1998), as in librosa.
    """
    transform = _mel_transform(sample_rate_hz, n_mels, window_ms, hop_ms)
    hop, half = transform.hop_length, transform.n_fft // 2
    mel_TM = np.empty((1 + len(samples) // hop, n_mels), np.float32)
    for first in range(0, len(mel_TM), CHUNK_STEPS):
        count = min(CHUNK_STEPS, len(mel_TM) - first)
        begin, end = first * hop - half, (first + count - 1) * hop + half
        heard = samples[max(begin, 0) : end]
        padded = np.pad(heard, (max(-begin, 0), max(end - len(samples), 0)))
        power_MT = transform(torch.from_numpy(padded))
        mel_TM[first : first + count] = power_MT.clamp_min(FLOOR).log().T.numpy()
    return mel_TM


@lru_cache(maxsize=8)
def _mel_transform(sample_rate_hz: int, n_mels: int, window_ms: float, hop_ms: float) -> MelSpectrogram:
    window = max(1, round(window_ms * sample_rate_hz / 1000))
    return MelSpectrogram(
        sample_rate=sample_rate_hz,
        n_fft=1 << (window - 1).bit_length(),
        win_length=window,
        hop_length=max(1, round(hop_ms * sample_rate_hz / 1000)),
        n_mels=n_mels,
        power=2.0,
        norm="slaney",
        mel_scale="slaney",
        center=False,
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
