"""What kinds made from sound share: their settings, and noise at a given level."""

import hashlib
from typing import Literal

import numpy as np

from mmray.features.base import Dtype, FeatureSettings, Pooling

__all__ = ["SoundSettings", "add_white_noise", "as_heard"]


class SoundSettings(FeatureSettings):
    """Which sound a feature is made from."""

    source: Literal["audio"] = "audio"
    """Where the sample has no `audio`, its video's own sound track."""
    snr_db: float | None = None
    """Adds white noise at this signal-to-noise ratio, seeded by the sample's id; default: none."""
    noise_seed: int = 0
    pooling: Pooling = "none"
    """A vector a step (none), or one a sample: their mean, or the largest of each number."""
    dtype: Dtype = "float32"
    """Of the stored vectors."""


def as_heard(feature: SoundSettings, samples: np.ndarray, sample_id: str) -> np.ndarray:
    """The waveform, with noise where the settings ask for it."""
    if feature.snr_db is None:
        return samples
    return add_white_noise(samples, snr_db=feature.snr_db, seed_text=sample_id, seed=feature.noise_seed)


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
