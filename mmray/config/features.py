"""What is taken from the media of a sample."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmray.config.base import Fraction, Positive, PositiveFloat, Section

MEDIA_SOURCES = ("video", "audio", "image", "text")


class FramesFeature(Section):
    """Frames of a video, or one image → vectors of a torchvision classifier without its head."""

    kind: Literal["frames"]
    source: Literal["video", "image"] = "video"
    frames: Positive = 8
    """How many, spread evenly over the sample (the middle of each of n equal spans)."""
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
    def _crop_has_an_area(self) -> Self:
        if self.crop and (self.crop[0] >= self.crop[2] or self.crop[1] >= self.crop[3]):
            raise ValueError("crop must be [left, top, right, bottom] with left < right, top < bottom")
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


class ImportedFeature(Section):
    """Vectors (or words) made elsewhere: `mmray import-features` takes them instead of `mmray extract`."""

    kind: Literal["imported"]
    source: Literal["features"] = "features"
    path: str | None = None
    """A .pkl, .npz, .h5, .csv, .jsonl or .parquet file, or the folder of a feature table, joined by
    `sample_id`; default: samples.manifest itself."""
    array: str | None = None
    """Its name there; default: the feature's own. A table may have it as numbered columns, text_0, text_1."""
    lengths: str | None = None
    """The array of how many steps of each row are real; default: `<array>_lengths`, where there is one."""
    trim_zeros: bool = True
    """Where there are no lengths: steps at the end that are all zero are padding."""
    context: str | None = None
    """A pattern of sample ids with two groups, recording and place: `(.+)_([0-9]+)`. A row then holds the
    vectors of all samples of its recording (and split) in their order, its own at time 0."""
    dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _context_is_a_pattern(self) -> Self:
        try:
            groups = re.compile(self.context or "()()").groups
        except re.error as error:
            raise ValueError(f"context is no regular expression: {error}") from None
        if groups != 2:
            raise ValueError(f"context must have two groups, recording and place, not {groups}")
        return self


Feature = Annotated[
    FramesFeature | MelFeature | TokensFeature | TextFeature | ImportedFeature, Field(discriminator="kind")
]
