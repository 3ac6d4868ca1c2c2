"""Where samples come from and how storage is reached."""

import codecs
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmray.settings import FilePath, Fraction, Positive, PositiveFloat, Section

MEDIA_SOURCES = ("video", "audio", "image", "text")
"""Columns a feature can be made from."""


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


class IdPattern(Section):
    """A part of the id."""

    regex: str
    """What it finds first in the id; of a pattern with a (group) the first group."""

    @model_validator(mode="after")
    def _is_a_pattern(self) -> Self:
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"regex {self.regex!r}: {error}") from None
        return self


class SplitConfig(Section):
    """Shares of groups for validation and test, where the manifest has no `split` column."""

    val: Fraction = 0.1
    test: Fraction = 0.1
    """Share of the test split; without a meaning where there are `folds`."""
    seed: int = 0
    group: str | IdPattern | None = None
    """What samples must share not to be separated: a column of the source (a speaker, a recording), or
    {regex: …} of the id; default: the video, else audio, else image a sample is from."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Draw so many folds of the groups, also where the source has a split of its own: the test split is fold
    `fold`, and `val` a share of the others."""
    fold: Annotated[int, Field(ge=0)] = 0
    strict: bool = False
    """Refuse a group, or a medium, that stands in two splits; default: a warning with counts."""

    @model_validator(mode="after")
    def _some_are_left_to_train(self) -> Self:
        if self.folds is None and self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        if self.folds is not None and self.val >= 1:
            raise ValueError(f"val = {self.val:g} leaves nothing to train on")
        if self.fold >= (self.folds or 1):
            raise ValueError(
                f"fold {self.fold} is none of " + (f"0 … {self.folds - 1}" if self.folds else "folds")
            )
        if self.folds is not None and "test" in self.model_fields_set and self.test != 0.1:
            raise ValueError("test is one of the folds: leave its share out")
        return self


class SamplesConfig(Section):
    """Which samples: exactly one of `manifest`, `shards` and `folder`, local or s3://."""

    manifest: FilePath | list[FilePath] | None = None
    """.jsonl, .csv, .tsv or .parquet files, a row a sample; media paths start at their file's folder.
    Parquet may have the media inside, as bytes or as Hugging Face's `datasets` keep them. A path, or several;
    `*`, `?` and `{00..09}` are filled in."""
    shards: FilePath | list[FilePath] | None = None
    """WebDataset tar shards: members of one name (up to the first dot) are one sample; likewise."""
    folder: FilePath | None = None
    """A folder of media: files of one name (up to the last dot) are one sample."""
    label_from_folder: str | None = None
    """Column to fill with the name of the folder a sample of `folder` lies in."""
    allow_damaged_shards: bool = False
    """Take the samples of a shard up to where it is damaged; default: refuse, naming all such shards."""
    columns: dict[str, str] = {}
    """Our column → the source's, where they differ: {sample_id: clip, video: path}."""
    optional: list[Literal["video", "audio", "image", "text"]] = []
    """Modalities that the source may lack: absent in all samples then, which is noted. In `score` of
    other samples all are. Default: a modality without a column is refused, it may be called otherwise."""
    check_versions: bool = False
    """Look at every medium of a manifest in every run, for whether it is still the same: a request each on
    S3. Those of shards and folders, and of tables with media inside, are known from their listing anyway."""
    keep: list[str] = []
    """Further columns of the source to keep beside the samples, as text: for metrics of subgroups."""
    delimiter: str | None = None
    """What parts the fields of a CSV manifest; default: a comma, and a tab in .tsv."""
    encoding: str = "utf-8"
    """Of a CSV or JSONL manifest, as Python calls it: utf-8, utf-16, latin-1, cp1252 …"""
    split: SplitConfig = SplitConfig()

    @property
    def named(self) -> str:
        """The source, as it is named in messages."""
        given = self.manifest or self.shards or self.folder or ""
        return given if isinstance(given, str) else f"{given[0]} …" if len(given) > 1 else given[0]

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, encoding: str) -> str:
        try:
            found = codecs.lookup(encoding)
            "".encode(encoding)
        except (LookupError, ValueError):
            raise ValueError(f"{encoding!r} is no encoding that Python knows") from None
        return {"utf-8-sig": "utf-8"}.get(found.name, found.name)

    @field_validator("delimiter")
    @classmethod
    def _is_a_letter(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(f"{delimiter!r} is not one letter")
        return delimiter

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
        for setting in ("delimiter", "check_versions"):
            if getattr(self, setting) and not self.manifest:
                raise ValueError(f"{setting} needs manifest")
        return self
