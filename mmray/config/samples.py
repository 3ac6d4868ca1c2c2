"""Where samples come from and how storage is reached."""

from typing import Self

from pydantic import model_validator

from mmray.settings import FilePath, Fraction, Positive, PositiveFloat, Section


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
    """Which samples: exactly one of `manifest`, `shards` and `folder`, local or s3://."""

    manifest: FilePath | list[FilePath] | None = None
    """.jsonl, .csv or .parquet files, a row a sample; relative media paths start at their file's folder.
    A path, or several; `*`, `?` and `{00..09}` are filled in."""
    shards: FilePath | list[FilePath] | None = None
    """WebDataset tar shards: members of one name (up to the first dot) are one sample; likewise."""
    folder: FilePath | None = None
    """A folder of media: files of one name (up to the first dot) are one sample."""
    label_from_folder: str | None = None
    """Column to fill with the name of the folder a sample of `folder` lies in."""
    allow_damaged_shards: bool = False
    """Take the samples of a shard up to where it is damaged; default: refuse, naming all such shards."""
    columns: dict[str, str] = {}
    """Our column → the source's, where they differ: {sample_id: clip, video: path}."""
    split: SplitConfig = SplitConfig()

    @property
    def named(self) -> str:
        """The source, as it is named in messages."""
        given = self.manifest or self.shards or self.folder or ""
        return given if isinstance(given, str) else f"{given[0]} …" if len(given) > 1 else given[0]

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        given = [key for key in ("manifest", "shards", "folder") if getattr(self, key)]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of manifest, shards and folder, got {got}")
        if self.label_from_folder and not self.folder:
            raise ValueError("label_from_folder needs folder")
        if self.allow_damaged_shards and not self.shards:
            raise ValueError("allow_damaged_shards needs shards")
        return self
