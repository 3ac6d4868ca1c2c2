"""Every section of the config as a pydantic model beside its defaults, which live here and nowhere else."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
# A name becomes a Parquet column, a module name and part of file names.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

MEDIA_SOURCES = ("video", "audio", "image", "text")


class Section(BaseModel):
    """A part of the config: strict types, finite numbers, no unknown keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# ------------------------------------------------------------------------------------ where


class StorageConfig(Section):
    """How `s3://` paths are reached. Keys come from the environment or a profile, never from here."""

    endpoint_url: str | None = None
    """Server of an S3-compatible store; default: the environment's AWS_ENDPOINT_URL, else AWS."""
    profile: str | None = None
    """Profile of ~/.aws/credentials; default: the environment's credentials."""
    anonymous: bool = False
    region: str | None = None
    max_attempts: Positive = 5
    """Tries of one request before it counts as failed, with growing waits between them."""


class SplitConfig(Section):
    """Shares of samples for validation and test, where the manifest has no `split` column."""

    val: Fraction = 0.1
    test: Fraction = 0.1
    seed: int = 0

    @model_validator(mode="after")
    def _some_are_left_to_train(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class SamplesConfig(Section):
    """Which samples: a manifest with one row a sample."""

    manifest: str
    """A .jsonl, .csv or .parquet file, local or s3://; relative media paths start at its folder."""
    columns: dict[str, str] = {}
    """Our column → the manifest's, where they differ: {sample_id: clip, video: path}."""
    split: SplitConfig = SplitConfig()


# ------------------------------------------------------------------------------------ targets


class ClassificationTarget(Section):
    """One of several classes."""

    kind: Literal["classification"]
    classes: list[str] | None = None
    """Names in the order of the outputs; default: the sorted labels of the train split."""


class RegressionTarget(Section):
    """A number."""

    kind: Literal["regression"]


Target = Annotated[ClassificationTarget | RegressionTarget, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------ features


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


Feature = Annotated[FramesFeature | MelFeature | TokensFeature | TextFeature, Field(discriminator="kind")]


class ExtractConfig(Section):
    """How samples become features."""

    partition_samples: Positive = 64
    """Samples in one output file: the unit of work, of retry and of resume."""
    placement: Literal["auto", "fused", "split"] = "auto"
    """Decode and encode in one actor (fused), or a CPU pool feeding an encoder pool (split)."""
    actors: Positive | Auto = "auto"
    """Actors that decode (and, when fused, encode)."""
    cpus_per_actor: PositiveFloat = 1.0
    encoders: Positive | Auto = "auto"
    """Actors that encode, when split."""
    gpus_per_encoder: Annotated[float, Field(ge=0)] | Auto = "auto"
    encode_batch: Positive = 64
    """Pictures or texts that go through an encoder at once, across samples."""
    max_failed_fraction: Fraction = 0.5
    """Stop when more than this share of samples has a failed modality."""


# ------------------------------------------------------------------------------------ model


class MlpEncoder(Section):
    """Mean over time, then layers."""

    kind: Literal["mlp"]
    hidden: Positive = 64
    layers: Positive = 1
    dropout: Fraction = 0.1


class RecurrentEncoder(Section):
    """GRU or LSTM over time; its last state."""

    kind: Literal["gru", "lstm"]
    hidden: Positive = 64
    layers: Positive = 1
    bidirectional: bool = False
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""


class TransformerEncoder(Section):
    """Self-attention over time; mean of the outputs."""

    kind: Literal["transformer"]
    hidden: Positive = 64
    layers: Positive = 1
    heads: Positive = 4
    dropout: Fraction = 0.1
    center: bool = False
    """Subtract each sample's mean over time first: what changes, not how it looks."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        return self


Encoder = Annotated[MlpEncoder | RecurrentEncoder | TransformerEncoder, Field(discriminator="kind")]


class ConcatFusion(Section):
    """Feature-level: the modalities' vectors side by side, then a layer."""

    kind: Literal["concat"]
    hidden: Positive = 64
    dropout: Fraction = 0.1


class LateFusion(Section):
    """Decision-level: each modality predicts; the mean over the modalities present."""

    kind: Literal["late"]


Fusion = Annotated[ConcatFusion | LateFusion, Field(discriminator="kind")]


class ModelConfig(Section):
    """{modality: encoder} + fusion; the heads follow from `targets`."""

    encoders: dict[Name, Encoder] = {}
    """One a feature; default: `mlp` for each."""
    fusion: Fusion = ConcatFusion(kind="concat")
    embedding: Positive = 64
    """Width of the embedding learned for token features."""
    modality_dropout: Fraction = 0.0
    """Chance to hide a present modality from the model during training (never all of them)."""


# ------------------------------------------------------------------------------------ training


class TrainConfig(Section):
    """How the fusion model learns."""

    workers: Positive | Auto = "auto"
    """DDP workers; auto: one a GPU, else 2 (or 1 on a single CPU)."""
    cpus_per_worker: PositiveFloat | Auto = "auto"
    epochs: Positive = 30
    batch_size: Positive = 32
    """Of all workers together: the result does not depend on how many there are."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null: no clipping."""
    patience: Positive = 5
    """Epochs without a better `monitor` before training stops."""
    monitor: str = "loss"
    """What chooses the best epoch, on the validation split: `loss` or `<target>/<metric>`."""
    seed: int = 0
    baselines: bool = True
    """Also train a model on each modality alone, for the rows the fused model must beat."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """Times the run may go on from its last checkpoint after a worker died."""


class Space(Section):
    """The values to search for one setting: exactly one of these."""

    grid: list[Any] | None = None
    """Every value in turn."""
    choice: list[Any] | None = None
    """One of the values, at random."""
    uniform: tuple[float, float] | None = None
    """A number between two, at random."""
    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """A number between two, at random on a log scale."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of " + ", ".join(type(self).model_fields))
        bounds = self.uniform or self.log_uniform
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] is empty")
        if self.grid == [] or self.choice == []:
            raise ValueError("the list is empty")
        return self


class TuneConfig(Section):
    """Which settings to search, and how hard."""

    space: dict[str, Space] = {}
    """Dotted path of a setting of `model` or `train` → {grid|choice|uniform|log_uniform: …}."""
    trials: Positive = 16
    """Draws from the space; every combination of the grids counts as one draw of the rest."""
    concurrent: Positive | Auto = "auto"
    cpus_per_trial: PositiveFloat = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    grace_epochs: Positive = 3
    """ASHA stops no trial before this many epochs."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in this many trials at each rung."""
    seed: int = 0


class ScoreConfig(Section):
    """How the trained model is applied to a feature table."""

    actors: Positive | Auto = "auto"
    cpus_per_actor: PositiveFloat = 1.0
    gpus_per_actor: Annotated[float, Field(ge=0)] | Auto = "auto"
    batch_size: Positive = 256


class Config(Section):
    """The whole project. Everything mmray writes goes below `output`."""

    name: Name = "project"
    output: str
    storage: StorageConfig = StorageConfig()
    samples: SamplesConfig
    targets: dict[Name, Target] = Field(min_length=1)
    features: dict[Name, Feature] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    score: ScoreConfig = ScoreConfig()

    def path(self, *parts: str) -> str:
        """Where something below `output` is: `features` → `runs/demo/features`."""
        return "/".join([self.output.rstrip("/"), *parts])

    def source_columns(self) -> list[str]:
        """Media columns the features read, in a fixed order; `audio` may also come from `video`."""
        used = {feature.source for feature in self.features.values()}
        return [source for source in MEDIA_SOURCES if source in used]
