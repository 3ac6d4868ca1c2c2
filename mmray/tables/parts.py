"""A table as one Parquet file a partition, each written whole; what is there is done.

The state of a long job is its output folder and nothing else: a partition's name follows from its number,
its file appears in one step, and a second attempt writes the same file again. To resume is to list a
folder. This holds on S3 as well, needs no database, and never loads an id.

What later runs want to know of a partition without reading it stands in its footer, as *notes*: `rows`, a
`digest` of its rows, and what its writer adds.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.storage.filesystem import Storage

__all__ = [
    "done_partitions",
    "file_name",
    "read_notes",
    "read_partition",
    "read_schema",
    "read_table",
    "write_partition",
]

NOTES = b"mmray"
FOOTER_BYTES = 2**16  # holds a footer nearly always; a longer one costs a second read
READERS = 32  # footers read at a time: on S3 each is a request or two, all of them waiting


def file_name(partition: int) -> str:
    """The name of a partition's file."""
    return f"part-{partition:06d}.parquet"


def done_partitions(storage: Storage, folder: str) -> list[int]:
    """Numbers of the partitions whose file is in `folder`, in order."""
    names = (re.fullmatch(r"part-(\d{6,})\.parquet", name) for name in storage.names(folder))
    return sorted(int(name[1]) for name in names if name)


def write_partition(
    storage: Storage, folder: str, partition: int, table: pa.Table, notes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a partition's rows, whole or not at all; returns the notes in its footer."""
    notes = {"rows": table.num_rows, "digest": _digest(table), **(notes or {})}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(_with_notes(table, notes)), sink, compression="zstd")
    storage.write(f"{folder}/{file_name(partition)}", sink.getvalue())
    return notes


def read_partition(
    storage: Storage, folder: str, partition: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """A partition's rows; of the file, only the named columns are read."""
    uri = f"{folder}/{file_name(partition)}"
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri), filesystem.open(path, "rb") as opened:
        table = pq.ParquetFile(opened).read(columns=list(columns) if columns is not None else None)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != NOTES}
    return table.replace_schema_metadata(metadata or None)


def read_notes(storage: Storage, folder: str, partitions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Notes of these partitions, in their order; of each file only the footer is read."""
    with ThreadPoolExecutor(READERS) as pool:
        for at in range(0, len(partitions), 64 * READERS):  # a bounded number waits to be taken
            group = partitions[at : at + 64 * READERS]
            yield from pool.map(lambda partition: _notes(storage, f"{folder}/{file_name(partition)}"), group)


def read_schema(storage: Storage, folder: str) -> pa.Schema:
    """The schema that all partitions share; only the end of the first one's file is read."""
    uri = f"{folder}/{file_name(done_partitions(storage, folder)[0])}"
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri), filesystem.open(path, "rb") as opened:
        return pq.ParquetFile(opened).schema_arrow


def read_table(storage: Storage, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All partitions in order, one at a time."""
    for partition in done_partitions(storage, folder):
        yield read_partition(storage, folder, partition, columns)


def _notes(storage: Storage, uri: str) -> dict[str, Any]:
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri), filesystem.open(path, "rb", block_size=FOOTER_BYTES) as opened:
        return json.loads((pq.read_metadata(opened).metadata or {})[NOTES])


def _with_notes(table: pa.Table, notes: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {**(table.schema.metadata or {}), NOTES: json.dumps(notes, sort_keys=True).encode()}


def _digest(table: pa.Table) -> str:
    """64 bits that change when any value of the table does."""
    digest = hashlib.blake2b(digest_size=8)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()
