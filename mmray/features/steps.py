"""One feature of one sample: a local file or a text → what its encoder takes, or what is stored.

Pure functions of their arguments, importable without a network: any process may compute them.
"""

from typing import Any, NamedTuple

import numpy as np

from mmray.config import (
    FramesFeature,
    MelFeature,
    MfccFeature,
    SpeechFeature,
    TextFeature,
    TokensFeature,
    VisionFeature,
    WordVectorsFeature,
)
from mmray.config.features import SpectralFeature
from mmray.decode.audio import decode_audio
from mmray.decode.choice import Decoders
from mmray.decode.image import PictureGeometry, decode_image
from mmray.decode.video import decode_frames
from mmray.errors import MediaError
from mmray.features.spectral import add_white_noise, hop_samples, log_mel, log_spectrogram, mfcc
from mmray.features.text import ENGLISH_STOP_WORDS, clean, tokenize

__all__ = ["Step", "TextualFeature", "media_step", "text_step"]

PictureFeature = FramesFeature | VisionFeature
TextualFeature = TokensFeature | WordVectorsFeature | TextFeature


class Step(NamedTuple):
    """Of one modality: uint8 pictures [T, H, W, 3], a waveform [N], vectors [T, D], words or a text."""

    value: np.ndarray | list[str] | str
    start_s: float | None = None
    step_s: float | None = None
    times_s: np.ndarray | None = None
    """Of pictures: float32 [T]."""


def media_step(
    feature: PictureFeature | SpectralFeature | SpeechFeature,
    shape: PictureGeometry | int,
    path: str,
    segment: dict[str, float | None],
    sample_id: str,
    decoders: Decoders,
) -> Step:
    """What a feature takes from a local file.

    `shape` is the geometry of its pictures, or the rate of its sound in Hz.

    Raises:
        MediaError: as the decoders do; `corrupt` where a sound holds no numbers.

    """
    if isinstance(feature, PictureFeature):
        assert isinstance(shape, PictureGeometry)
        return _pictures(feature, shape, path, segment, decoders.frames)
    assert isinstance(shape, int)
    samples = decode_audio(path, sample_rate_hz=shape, decoder=decoders.sound, **segment).samples
    if not np.isfinite(samples).all():  # floating-point formats can hold anything
        raise MediaError("corrupt", "the sound has samples that are no numbers")
    if feature.snr_db is not None:
        samples = add_white_noise(
            samples, snr_db=feature.snr_db, seed_text=sample_id, seed=feature.noise_seed
        )
    if isinstance(feature, SpeechFeature):
        return Step(samples)  # its steps are the network's
    return Step(_spectrum(feature, samples), 0.0, hop_samples(feature.hop_ms, shape) / shape)


def _pictures(
    feature: PictureFeature,
    geometry: PictureGeometry,
    path: str,
    segment: dict[str, float | None],
    decoder: str,
) -> Step:
    if feature.source == "image":
        return Step(*decode_image(path, geometry))
    frames = decode_frames(
        path,
        sampling=feature.sampling,
        frames=feature.frames,
        fps=feature.fps,
        resize=geometry,
        decoder=decoder,
        **segment,
    )
    return Step(*frames)


def _spectrum(feature: SpectralFeature, samples: np.ndarray) -> np.ndarray:
    stft: dict[str, Any] = {
        "sample_rate_hz": feature.sample_rate_hz,
        "window_ms": feature.window_ms,
        "hop_ms": feature.hop_ms,
    }
    if isinstance(feature, MelFeature):
        return log_mel(samples, n_mels=feature.n_mels, **stft)
    if isinstance(feature, MfccFeature):
        return mfcc(samples, n_mels=feature.n_mels, n_mfcc=feature.n_mfcc, **stft)
    return log_spectrogram(samples, **stft)


def text_step(feature: TextualFeature, text: str) -> Step:
    """Words, or for a transformers model the text itself, cleaned.

    Raises:
        MediaError: `empty` where no word is left.

    """
    stop_words = ENGLISH_STOP_WORDS if feature.stop_words == "english" else feature.stop_words or ()
    cleaned = clean(
        text,
        lowercase=feature.lowercase,
        punctuation=feature.punctuation,
        stop_words=frozenset(word.lower() for word in stop_words),
    )
    words = tokenize(cleaned, max_tokens=feature.max_tokens)
    if not words:
        raise MediaError("empty", "the text has no words")
    return Step(cleaned if isinstance(feature, TextFeature) else words)
