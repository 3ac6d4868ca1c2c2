"""What is taken from the media of a sample."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmray.settings import FilePath, Fraction, PathOrName, Positive, PositiveFloat, Section

MEDIA_SOURCES = ("video", "audio", "image", "text")

Pooling = Literal["none", "mean", "max"]


class _Vectors(Section):
    """What all features that are vectors share."""

    pooling: Pooling = "none"
    """A vector a step (none), or one a sample: their mean, or the largest of each number."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored vectors."""


# ------------------------------------------------------------------------------------ pictures


class _Pictures(_Vectors):
    """Which pictures of a video (or which part of an image) a network sees."""

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


class FramesFeature(_Pictures):
    """Frames of a video, or one image → vectors of a torchvision classifier without its head."""

    kind: Literal["frames"]
    encoder: str = "resnet18"
    """Any torchvision classifier by name, or another package's: `package.module:function[:argument]`."""
    weights: PathOrName = "random"
    """`random` (from `seed`), `default` (torchvision's own, downloaded), or a state dict's path."""
    seed: int = 0
    size: Positive | None = None
    """Side of the square fed to the encoder, pixels; default: what its weights were trained with."""


class VisionFeature(_Pictures):
    """Frames of a video, or one image → vectors of a transformers vision model (ViT, DINOv2, CLIP …)."""

    kind: Literal["transformer_vision"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    vector: Literal["cls", "mean", "pooler"] = "cls"
    """Of a picture: its first token; the mean of all; or what the model's own pooler makes of them."""


# ------------------------------------------------------------------------------------ sound


class _Sound(_Vectors):
    """Which sound a feature is made from."""

    source: Literal["audio"] = "audio"
    """Where the sample has no `audio`, its video's own sound track."""
    snr_db: float | None = None
    """Adds white noise at this signal-to-noise ratio, seeded by the sample's id; default: none."""
    noise_seed: int = 0


class _Spectral(_Sound):
    """A short-time Fourier transform of the sound."""

    sample_rate_hz: Positive = 16_000
    window_ms: PositiveFloat = 25.0
    hop_ms: PositiveFloat = 10.0


class MelFeature(_Spectral):
    """Sound → log-mel spectrogram, a vector of `n_mels` every `hop_ms`."""

    kind: Literal["mel"]
    n_mels: Positive = 64


class SpectrogramFeature(_Spectral):
    """Sound → log-power spectrogram, a vector of `n_fft / 2 + 1` every `hop_ms`."""

    kind: Literal["spectrogram"]


class MfccFeature(_Spectral):
    """Sound → mel-frequency cepstral coefficients, a vector of `n_mfcc` every `hop_ms`."""

    kind: Literal["mfcc"]
    n_mels: Positive = 64
    n_mfcc: Positive = 20

    @model_validator(mode="after")
    def _no_more_than_bands(self) -> Self:
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc {self.n_mfcc} is more than n_mels {self.n_mels}")
        return self


class SpeechFeature(_Sound):
    """Sound → vectors of a transformers audio encoder (wav2vec2, HuBERT, WavLM, AST, Whisper …)."""

    kind: Literal["transformer_audio"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    chunk_s: PositiveFloat = 30.0
    """Longer sound goes through in pieces of this length, at most what the model can take."""


# ------------------------------------------------------------------------------------ text


class _Text(Section):
    """How a text is cleaned, in this order; letters of every script are left as they are."""

    source: Literal["text"] = "text"
    punctuation: bool = True
    """Whether punctuation and symbols are kept."""
    stop_words: Literal["english"] | list[str] | None = None
    """Words to leave out, in any case: a built-in list, or your own; default: none."""
    max_tokens: Positive = 256


class TokensFeature(_Text):
    """Text → words, for an embedding learned in training (the vocabulary is the train split's)."""

    kind: Literal["tokens"]
    lowercase: bool = True


class WordVectorsFeature(_Text, _Vectors):
    """Text → the vector of each word, from a GloVe or word2vec file; words it lacks are left out."""

    kind: Literal["word_vectors"]
    path: FilePath
    """GloVe's text format, or word2vec's text or binary one, local or s3://."""
    lowercase: bool = True


class TextFeature(_Text):
    """Text → a vector a token (or one a text) from a transformers model."""

    kind: Literal["transformer_text"]
    model: PathOrName
    """A folder in Hugging Face format, local or s3://, or a hub id."""
    lowercase: bool = False
    """The model's own tokenizer lowers what it must."""
    pooling: Literal["none", "mean", "max", "cls"] = "none"
    """A vector a token, or one a text: their mean, the largest of each number, or the first token's."""
    dtype: Literal["float32", "float16"] = "float32"


class ImportedFeature(Section):
    """Vectors (or words) made elsewhere: `mmray import-features` takes them instead of `mmray extract`."""

    kind: Literal["imported"]
    source: Literal["features"] = "features"
    path: FilePath | None = None
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


SpectralFeature = MelFeature | SpectrogramFeature | MfccFeature

Feature = Annotated[
    FramesFeature
    | VisionFeature
    | MelFeature
    | SpectrogramFeature
    | MfccFeature
    | SpeechFeature
    | TokensFeature
    | WordVectorsFeature
    | TextFeature
    | ImportedFeature,
    Field(discriminator="kind"),
]

WEIGHTS_FIELD = {
    "frames": "weights",
    "transformer_vision": "model",
    "transformer_audio": "model",
    "word_vectors": "path",
    "transformer_text": "model",
}
"""Kind → the field that names a file or folder of weights."""
