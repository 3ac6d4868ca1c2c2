import librosa
import numpy as np
import pytest

from mmray.features.spectral import CHUNK_STEPS, log_mel


@pytest.mark.parametrize(
    "samples", [1, 100, CHUNK_STEPS * 160 - 1, CHUNK_STEPS * 160, CHUNK_STEPS * 320 + 77]
)
def test_a_long_recording_is_one_spectrogram(samples):
    """Where the chunks meet, too: librosa takes it in one go."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    mine = log_mel(sound, sample_rate_hz=16_000, n_mels=40, window_ms=25.0, hop_ms=10.0)
    power = librosa.feature.melspectrogram(
        y=np.pad(sound, 256), sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, center=False
    )
    np.testing.assert_allclose(mine, np.log(np.maximum(power, 1e-10)).T, atol=1e-4)
