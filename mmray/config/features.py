"""What is taken from the media of a sample."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmray.config.base import Fraction, Positive, PositiveFloat, Section

MEDIA_SOURCES = ("video", "audio", "image", "text")


class FramesFeature(Section):
    """Frames of a video, or one image → vectors of a torchvision classifier without its head."""

    kind: Literal["frames"]
    source: Literal["video", "image"] = "video"
    sampling: Literal["uniform", "fps", "keyframes"] = "uniform"
    """uniform: so many spread evenly over the sample (the middle of each of n equal spans); fps: one every
    1 / `fps` seconds; keyframes: the pictures the codec stores whole."""
    frames: Positive = 8
    """How many; for fps and keyframes the most, of which more are thinned evenly."""
    fps: PositiveFloat | None = None
    """Frames a second, where sampling is fps."""
    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """Left, top, right, bottom of the region to keep, as fractions of the picture; default: all."""
    encoder: str = "resnet18"
    """Any torchvision classifier by name."""
    weights: str = "random"
    """`random` (from `seed`), `default` (torchvision's own, downloaded), or a state dict's path."""
    seed: int = 0
    size: Positive | None = None
    """Side of the square fed to the encoder, pixels; default: what its weights were trained with."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored vectors."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        faults = []
        if (self.fps is None) == (self.sampling == "fps"):
            faults.append("fps is given where sampling is fps, and only there")
        if self.source == "image" and self.sampling != "uniform":
            faults.append(f"sampling {self.sampling} is for videos; an image is one picture")
        if self.crop and (self.crop[0] >= self.crop[2] or self.crop[1] >= self.crop[3]):
            faults.append("crop must be [left, top, right, bottom] with left < right, top < bottom")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class MelFeature(Section):
    """Sound → log-mel spectrogram, a vector of `n_mels` every `hop_ms`."""

    kind: Literal["mel"]
    source: Literal["audio"] = "audio"
    """Where the sample has no `audio`, its video's own sound track."""
    sample_rate_hz: Positive = 16_000
    n_mels: Positive = 64
    window_ms: PositiveFloat = 25.0
    hop_ms: PositiveFloat = 10.0
    snr_db: float | None = None
    """Adds white noise at this signal-to-noise ratio, seeded by the sample's id; default: none."""
    noise_seed: int = 0
    dtype: Literal["float32", "float16"] = "float32"


class TokensFeature(Section):
    """Text → words, for an embedding learned in training (the vocabulary is the train split's)."""

    kind: Literal["tokens"]
    source: Literal["text"] = "text"
    lowercase: bool = True
    max_tokens: Positive = 256


class TextFeature(Section):
    """Text → a vector a token (or one a text) from a transformers model."""

    kind: Literal["transformer_text"]
    source: Literal["text"] = "text"
    model: str
    """A folder in Hugging Face format, or a hub id."""
    max_tokens: Positive = 256
    pooling: Literal["none", "mean"] = "none"
    dtype: Literal["float32", "float16"] = "float32"


Feature = Annotated[FramesFeature | MelFeature | TokensFeature | TextFeature, Field(discriminator="kind")]
