"""How samples become features and features predictions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmray.settings import FREE, Auto, FilePath, Fraction, Positive, PositiveFloat, Section


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
    """Pictures that go through an encoder at once, across samples, or seconds of sound, or texts of 64
    tokens. Where a GPU's memory does not suffice, a batch is halved."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of what encoders compute: bfloat16 is faster on GPUs, and gives slightly other vectors."""
    decoder: Literal["auto", "torchcodec", "decord", "pyav"] = "auto"
    """Who reads video and sound. auto: torchcodec where it works (it needs a system FFmpeg), else decord for
    frames and PyAV for sound, else PyAV. decord never reads sound: PyAV does."""
    sandbox: bool = True
    """Decode in a child process of each actor, so that a file which crashes, hangs or eats memory costs its
    own sample only."""
    decode_timeout_s: PositiveFloat | None = 300.0
    """Longest time that decoding one feature of one sample may take; null: without limit."""
    decode_memory_mb: Positive | None = 4096
    """Most memory that it may take, MiB, beside what an idle decoder has; null: without limit."""
    stall_timeout_s: PositiveFloat = 3600.0
    """No partition done for so long, while actors work: the run ends with exit code 75 and says what they do.
    Waiting for room on the cluster does not count. Longer than any partition takes."""
    max_failed_fraction: Fraction = 0.5
    """Stop when more than this share of samples has a failed modality."""
    price_per_cpu_hour: PositiveFloat | None = None
    """Of one CPU that an actor holds, in any currency; given, the summary says what 1,000 samples cost."""
    price_per_gpu_hour: PositiveFloat | None = None


class ScoreConfig(Section):
    """How the trained model is applied to a feature table, and what its predictions say."""

    actors: Annotated[Positive | Auto, FREE] = "auto"
    cpus_per_actor: Annotated[PositiveFloat, FREE] = 1.0
    gpus_per_actor: Annotated[Annotated[float, Field(ge=0)] | Auto, FREE] = "auto"
    batch_size: Annotated[Positive, FREE] = 256
    stall_timeout_s: Annotated[PositiveFloat, FREE] = 3600.0
    """As `extract.stall_timeout_s`."""
    models: Annotated[list[FilePath], FREE] = []
    """Folders of trained models to score by, in place of the one this config trains. Features are made once;
    several models are scored side by side, and together as an ensemble."""
    calibrated: bool = True
    """Probabilities at the temperature fitted on validation; false: as the model gives them."""
    top_k: Positive | None = None
    """Also the so many likeliest classes with their probabilities, `TARGET_top`."""
    embeddings: bool = False
    """Also the fused vector that the heads see, `embedding`."""
    abstain_below: Fraction | dict[str, Fraction] = 0.0
    """A prediction less probable than this is null, its probabilities stay; for all targets or by target."""
    thresholds: dict[str, dict[str, Fraction]] = {}
    """{target: {class: probability}} a class must reach to be predicted: of one class the likeliest that does
    (none: null), of a set all that do."""
    precision: dict[str, Fraction] = {}
    """{target: share}: thresholds chosen on validation so that of what is predicted so much is right."""

    def least(self, target: str) -> float:
        """`abstain_below` of a target."""
        least = self.abstain_below
        return least.get(target, 0.0) if isinstance(least, dict) else least

    @property
    def targets_named(self) -> dict[str, str]:
        """{target named in an option: that option}."""
        least = self.abstain_below if isinstance(self.abstain_below, dict) else {}
        named = {"abstain_below": least, "thresholds": self.thresholds, "precision": self.precision}
        return {target: option for option, values in named.items() for target in values}

    @model_validator(mode="after")
    def _each_model_once(self) -> Self:
        if len({*self.models}) < len(self.models):
            raise ValueError("models names one twice")
        return self


class ReportConfig(Section):
    """What a report shows of samples: both off, it shows no face and no raw text."""

    thumbnails: Annotated[int, Field(ge=0)] = 8
    """Of so many of the most wrong samples a frame of the video, or the image; 0: none."""
    texts: bool = True
    """The beginning of their texts."""
