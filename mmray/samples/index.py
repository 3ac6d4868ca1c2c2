"""The samples of a source → partitions that depend only on the source.

The source is read once, as a stream, and checked whole before any other work. The samples are written as
Parquet below the feature table, one row group a partition: a worker then reads its own row group and
nothing else, and no process ever holds more than one partition, however many rows there are.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.config import Config
from mmray.errors import SamplesError, TableError
from mmray.samples.checks import CheckedRows, plan_sources
from mmray.samples.sources import Source, find_source
from mmray.storage.filesystem import Storage
from mmray.storage.uris import parent
from mmray.tables.schemas import sample_schema

__all__ = ["SamplePlan", "plan_samples"]

PARTITIONS_PER_FILE = 128


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a project, cut into partitions; its files lie in `folder`."""

    folder: str
    rows: int
    partitions: int
    partition_samples: int
    digest: str
    """Changes when any sample, or the way they are cut, changes."""
    splits: dict[str, int]
    """Rows a split; rows without one are under ''."""
    source: dict[str, Any]
    """The source's size and version when it was read, and how it was read."""
    damage: list[str]
    """What is wrong with the shards, where `samples.allow_damaged_shards` lets them pass."""

    def read(self, storage: Storage, partition: int) -> pa.Table:
        """The samples of one partition, in the source's order."""
        file, group = divmod(partition, PARTITIONS_PER_FILE)
        filesystem, path = storage.filesystem(f"{self.folder}/samples-{file:05d}.parquet")
        with filesystem.open(path, "rb") as opened:
            return pq.ParquetFile(opened).read_row_group(group)


def plan_samples(config: Config, storage: Storage, folder: str) -> SamplePlan:
    """Check the source and cut it into partitions, or take the cut that `folder` already holds.

    Raises:
        SamplesError: listing what is wrong with the source.
        TableError: if the samples are not those `folder` was made from.
    """
    known = storage.read_json(f"{folder}/_index.json")
    found = find_source(config.samples, storage, config.output)
    source = {**found.version, "reading": _reading(config)}
    if known and known["source"] == source:
        return SamplePlan(folder=folder, **known)
    # A finished plan is never touched: where the file is newer but says the same, the old cut stands.
    plan = _write_plan(config, storage, folder, found, source, write=known is None)
    if known and known["digest"] != plan.digest:
        raise TableError(
            f"{config.samples.named}: the samples (or `samples`, `targets`, `extract.partition_samples`) "
            f"changed since {parent(folder)} was begun: {known['rows']} rows then, {plan.rows} now; "
            "give another `output`, or delete that folder to start over"
        )
    index = {key: value for key, value in asdict(plan).items() if key != "folder"}
    storage.write_json(f"{folder}/_index.json", index)
    return plan


def _reading(config: Config) -> str:
    """A hash of the way the source's rows are read and cut."""
    reading = {
        "samples": config.samples.model_dump(mode="json", exclude={"manifest", "shards", "folder"}),
        "targets": {name: target.model_dump(mode="json") for name, target in config.targets.items()},
        "sources": config.source_columns(),
        "partition_samples": config.extract.partition_samples,
    }
    return hashlib.sha256(json.dumps(reading, sort_keys=True).encode()).hexdigest()[:16]


def _write_plan(
    config: Config, storage: Storage, folder: str, found: Source, source: dict[str, Any], *, write: bool
) -> SamplePlan:
    schema = sample_schema(plan_sources(config), config.targets)
    size = config.extract.partition_samples
    digest = hashlib.sha256(f"{size}".encode())
    splits: Counter[str] = Counter()
    rows = partitions = files = 0
    groups: list[pa.Table] = []

    def flush() -> None:
        nonlocal files, groups
        if groups and write:
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, schema) as writer:
                for group in groups:
                    writer.write_table(group)
            storage.write(f"{folder}/samples-{files:05d}.parquet", sink.getvalue())
        files, groups = files + 1, []

    samples = CheckedRows(config, storage, found)
    # A source with a fault raises after its last row: what was written lacks its index, so is no plan.
    for chunk in _chunks(samples, size):
        table = pa.Table.from_pylist(chunk, schema=schema)
        digest.update(json.dumps(chunk, sort_keys=True, ensure_ascii=False).encode())
        splits.update(row["split"] or "" for row in chunk)
        rows, partitions = rows + len(chunk), partitions + 1
        groups.append(table)
        if len(groups) == PARTITIONS_PER_FILE:
            flush()
    if groups:
        flush()
    if not rows:
        raise SamplesError(f"{config.samples.named}: has no rows")
    return SamplePlan(
        folder=folder,
        rows=rows,
        partitions=partitions,
        partition_samples=size,
        digest=digest.hexdigest()[:16],
        splits=dict(splits),
        source=source,
        damage=[*samples.damage, *samples.notes],
    )


def _chunks(rows: Iterable[dict], size: int) -> Iterator[list[dict]]:
    chunk: list[dict] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
