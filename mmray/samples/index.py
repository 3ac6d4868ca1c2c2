"""The samples of a source → the index: which samples there are, and the partition each belongs to.

    source ──CheckedRows──▶ rows ──by id──▶ partitions ──▶ samples-00000-<digest>.parquet
                                                           _partitions-<digest>.parquet
                                                           _ids-<digest>.parquet
                                                           _index.json    names the others; written last

It is made from the source at every run; a source whose files have not changed (sizes, times, ETags) is
recognised and not read. A partition belongs to its ids for ever: `_ids` keeps, for every id ever seen, the
hash of it and its partition. Known ids stay where they were and in their order, new ones get partitions at
the end, and what is removed from the source is no longer in the index, though its features stay.

Rows are a Parquet row group a partition, so that a worker reads its own and no more. A file is named by its
content: what has not changed is not written again, and a run that is killed leaves the old index whole.
Rows pass through as a stream; what stays in memory of each is some 40 bytes (`ledger`).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import hashlib
import io
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray.config import Config
from mmray.errors import SamplesError, TableError
from mmray.samples.checks import CheckedRows, plan_sources
from mmray.samples.ledger import BATCH_ROWS, Ledger, Spool, in_order
from mmray.samples.sources import Source, find_source
from mmray.samples.split import MEDIA, leaks, refuse_leaks
from mmray.samples.versions import Versions
from mmray.settings import deciding
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.tables.identity import hash_of, media_digest, media_keys
from mmray.tables.parts import in_parallel, open_parquet
from mmray.tables.schemas import SOURCES, sample_schema, version_of

__all__ = ["Index", "index_at", "known_index", "make_index"]

VERSION = 3
PARTITIONS_PER_FILE = 128
NOT_MEDIA = ("partition", "rows", "trained")
"""Columns of `_partitions`; the others are digests of media."""


@dataclass(frozen=True)
class Index:
    """The samples of a project, cut into partitions; its files lie in `folder`."""

    folder: str
    files: dict[int, str]
    """Number of a file (of its partitions / 128) → its name."""
    partitions: np.ndarray
    """Numbers of the partitions that have samples, ascending."""
    sizes: np.ndarray
    """Samples of each."""
    media: dict[str, np.ndarray]
    """Source (`video`, `audio`, `image`, `text`, `features`) → digest of each partition's media of it."""
    digest: str
    """Changes when any id, split, group or label, or the order of the samples, does."""
    trained: np.ndarray
    """[partitions] bool: which of them have a sample with a split and a label."""
    trained_digest: str
    """Changes when a sample that has a split and a label (and no other) comes, goes or changes."""
    split_digest: str
    """Changes when the split of a sample does; samples without one do not count."""
    splits: dict[str, int]
    """Rows a split; rows without one are under ''."""
    notes: list[str]
    """What is odd about the source, and what is wrong with shards where `samples.allow_damaged_shards` lets
    them pass."""
    leaks: list[str]
    """Groups and media that stand in several splits, with counts; a model is judged on what it has seen."""

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return int(self.sizes.sum())

    def media_digest(self, source: str) -> str:
        """Changes when any sample, or what its features of this source are made from, does."""
        return hash_of([self.partitions.tolist(), self.media[source].tolist()])

    def read(self, storage: Storage, partition: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The samples of one partition, in their order."""
        number = partition // PARTITIONS_PER_FILE
        first, at = np.searchsorted(self.partitions, [number * PARTITIONS_PER_FILE, partition])
        with open_parquet(storage, f"{self.folder}/{self.files[number]}") as file:
            return file.read_row_group(int(at - first), columns=list(columns) if columns else None)

    def small(self, storage: Storage, columns: Sequence[str]) -> pa.Table:
        """Some columns of all samples, in their order."""

        def read(name: str) -> pa.Table:
            with open_parquet(storage, f"{self.folder}/{name}") as file:
                return file.read(columns=list(columns))

        return pa.concat_tables(in_parallel(read, [self.files[number] for number in sorted(self.files)]))

    def columns(self, storage: Storage) -> list[str]:
        """Names of the columns."""
        with open_parquet(storage, f"{self.folder}/{self.files[min(self.files)]}") as file:
            return file.schema_arrow.names

    def at(self, storage: Storage, row: int) -> pa.Table:
        """The sample at this place."""
        ends = np.cumsum(self.sizes)
        part = int(np.searchsorted(ends, row, side="right"))
        start = int(ends[part] - self.sizes[part])
        return self.read(storage, int(self.partitions[part])).slice(row - start, 1)


def make_index(config: Config, storage: Storage, folder: str | None = None) -> Index:
    """Bring the index in `folder` (of the project, where none is given) up to date with the source.

    Raises:
        SamplesError: listing what is wrong with the source, or, with `samples.split.strict`, what stands in
            several splits.
    """
    folder = folder or config.path("samples")
    known = storage.read_json(f"{folder}/_index.json")
    found = find_source(config.samples, storage, config.output)
    source = {**found.version, "reading": _reading(config)}
    if known is None or known["source"] != source or config.samples.check_versions:
        known = _write(config, storage, folder, found, source, known)
    return _opened(storage, folder, known)


def known_index(config: Config, storage: Storage) -> Index:
    """The project's index as it was made last; the source is not looked at.

    Raises:
        TableError: where there is none.
    """
    return index_at(storage, config.path("samples"))


def index_at(storage: Storage, folder: str) -> Index:
    """The index in a folder as it was made last.

    Raises:
        TableError: where there is none.
    """
    known = storage.read_json(f"{folder}/_index.json")
    if known is None or not known["files"]:  # without files: samples were forgotten
        raise TableError(f"{folder}: there is no index of the samples here; run `mmray extract` first")
    if "trained_digest" not in known:
        raise TableError(f"{folder}: the index is of an earlier version of mmray; run `mmray extract` again")
    return _opened(storage, folder, known)


def _opened(storage: Storage, folder: str, known: dict[str, Any]) -> Index:
    with open_parquet(storage, f"{folder}/{known['partitions']}") as file:
        parts = file.read()
    media = {name: parts[name].to_numpy() for name in parts.column_names if name not in NOT_MEDIA}
    return Index(
        folder=folder,
        files={int(number): name for number, name in known["files"].items()},
        partitions=parts["partition"].to_numpy(),
        sizes=parts["rows"].to_numpy(),
        media=media,
        digest=known["digest"],
        trained=parts["trained"].to_numpy(),
        trained_digest=known["trained_digest"],
        split_digest=known["split_digest"],
        splits=known["splits"],
        notes=known["notes"],
        leaks=known["leaks"],
    )


def _reading(config: Config) -> str:
    """A hash of the way the source's rows are read."""
    samples = deciding(config.samples)
    for where in ("manifest", "shards", "folder"):  # what lies there has a version of its own
        del samples[where]
    targets = {name: target.model_dump(mode="json") for name, target in config.targets.items()}
    return hash_of([VERSION, samples, targets, config.source_columns()])


# ------------------------------------------------------------------------------------ making it


def _write(
    config: Config,
    storage: Storage,
    folder: str,
    found: Source,
    source: dict[str, Any],
    known: dict[str, Any] | None,
) -> dict[str, Any]:
    """Read the source and write the index of it; returns what `_index.json` says."""
    sources = plan_sources(config)
    schema = sample_schema(sources, config.targets, config.samples.keep)
    ledger = Ledger.read(storage, folder, known, config.extract.partition_samples)
    samples, versions = CheckedRows(config, storage, found), Versions(storage, found)
    with scratch_folder() as temporary, Spool(f"{temporary}/rows.arrow", schema) as spool:
        places = array("q")
        # A source with a fault raises after its last row: nothing was written of it.
        for rows in _batches(samples, BATCH_ROWS):
            table = _typed(rows, schema, sources, versions)
            places.frombytes(ledger.places(table["sample_id"]).tobytes())
            spool.add(table)
        if not places:
            why = "".join(f"\n  {note}" for note in samples.notes)
            raise SamplesError(f"{config.samples.named}: has no rows{why}")
        spool.end()
        found_leaks = leaks(spool.columns(["split", "group", *MEDIA])) if spool.may_leak() else []
        refuse_leaks(found_leaks, config.samples.split)
        tables = in_order(spool, np.frombuffer(places, np.int64), ledger, PARTITIONS_PER_FILE)
        index = _Files(storage, folder, config, schema, known).write(tables)
    ids = _put(storage, folder, "_ids", ledger.table())
    notes = {"notes": [*samples.damage, *samples.notes], "leaks": [str(leak) for leak in found_leaks]}
    index = {**index, "ids": ids, "source": source, **notes}
    storage.write_json(f"{folder}/_index.json", index)
    _sweep(storage, folder, index)
    return index


def _batches(rows: CheckedRows, size: int) -> Iterator[list[dict]]:
    batch: list[dict] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _typed(rows: list[dict], schema: pa.Schema, sources: Sequence[str], versions: Versions) -> pa.Table:
    for source in sources:
        if source != "text":
            for row, version in zip(rows, versions.of([row[source] for row in rows])):
                row[version_of(source)] = version
    table = pa.Table.from_pylist(rows, schema=pa.schema([f for f in schema if f.name != "media_key"]))
    keys = pa.array(media_keys(table, sources), pa.string())
    return table.append_column(schema.field("media_key"), keys)


class _Files:
    """Writes partitions as row groups of files, and says what is in them."""

    def __init__(
        self, storage: Storage, folder: str, config: Config, schema: pa.Schema, known: dict[str, Any] | None
    ):
        self.storage, self.folder, self.schema = storage, folder, schema
        self.there = set(known["files"].values()) if known else set()
        self.sources = [name for name in SOURCES if name in schema.names]
        self.targets = list(config.targets)

    def write(self, tables: Iterator[tuple[int, pa.Table]]) -> dict[str, Any]:
        """{files, partitions, rows, splits, digest, trained_digest, split_digest} of all of them."""
        files: dict[int, str] = {}
        groups: list[pa.Table] = []
        parts: dict[str, list] = {name: [] for name in (*NOT_MEDIA, *self.sources, "features")}
        splits: Counter[str] = Counter()
        labels = ["sample_id", "split", "group", *self.targets]
        digest, trained_digest, split_digest = (hashlib.sha256() for _ in range(3))
        number = 0
        for partition, table in tables:
            if groups and partition // PARTITIONS_PER_FILE != number:
                files[number] = self._put(number, groups)
                groups = []
            number = partition // PARTITIONS_PER_FILE
            groups.append(table)
            parts["partition"].append(partition)
            parts["rows"].append(table.num_rows)
            for source in (*self.sources, "features"):
                parts[source].append(media_digest(table["sample_id"], media_keys(table, [source])))
            trained = table.filter(_trained(table, self.targets))
            parts["trained"].append(trained.num_rows > 0)
            _update(digest, table, labels)
            if trained.num_rows:
                _update(trained_digest, trained, labels)
            if (with_split := table.filter(pc.is_valid(table["split"]))).num_rows:
                _update(split_digest, with_split, labels[:2])
            for count in pc.value_counts(table["split"].combine_chunks()).to_pylist():
                splits[count["values"] or ""] += count["counts"]
        files[number] = self._put(number, groups)
        types = {"partition": pa.int32(), "rows": pa.int32(), "trained": pa.bool_()}
        columns = {name: pa.array(values, types.get(name, pa.string())) for name, values in parts.items()}
        return {
            "rows": sum(parts["rows"]),
            "digest": digest.hexdigest()[:16],
            "trained_digest": trained_digest.hexdigest()[:16],
            "split_digest": split_digest.hexdigest()[:16],
            "splits": dict(splits),
            "files": {str(number): name for number, name in files.items()},
            "partitions": _put(self.storage, self.folder, "_partitions", pa.table(columns)),
        }

    def _put(self, number: int, groups: list[pa.Table]) -> str:
        return _put(self.storage, self.folder, f"samples-{number:05d}", *groups, there=self.there)


def _trained(samples: pa.Table, targets: Sequence[str]) -> pa.ChunkedArray:
    """[N] bool: which samples a training learns from or is judged by: they have a split, and a label."""
    labelled = pa.chunked_array([np.zeros(samples.num_rows, bool)])
    for name in targets:
        labelled = pc.or_(labelled, pc.is_valid(samples[name]))
    return pc.and_(labelled, pc.is_valid(samples["split"]))


def _update(digest: Any, samples: pa.Table, columns: Sequence[str]) -> None:
    digest.update(repr([samples[name].to_pylist() for name in columns]).encode())


def _put(storage: Storage, folder: str, name: str, *groups: pa.Table, there: set[str] | None = None) -> str:
    """Write a row group each of these tables to a file named by its content; returns that name."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, groups[0].schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    data = sink.getvalue()
    file = f"{name}-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
    if file not in (there or ()):
        storage.write(f"{folder}/{file}", data)
    return file


def _sweep(storage: Storage, folder: str, index: dict[str, Any]) -> None:
    """Remove the files of earlier indexes."""
    kept = {*index["files"].values(), index["partitions"], index["ids"], "_index.json"}
    for name in storage.names(folder) - kept:
        if name.endswith(".parquet"):
            storage.remove(f"{folder}/{name}")
