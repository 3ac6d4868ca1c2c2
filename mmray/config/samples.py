"""Where samples come from and how storage is reached."""

from typing import Self

from pydantic import model_validator

from mmray.config.base import Fraction, Positive, PositiveFloat, Section


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
    retry_wait_s: PositiveFloat = 1.0
    """Longest wait before the second try to fetch a file; doubled for each further one, up to 20 s."""
    read_timeout_s: PositiveFloat = 30.0
    """A server that sends nothing for so long counts as failed."""


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
