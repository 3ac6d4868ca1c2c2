"""A table as one Parquet file a partition, each written whole; what is there is done.

The state of a long job is its output folder and nothing else: a partition's name follows from its number,
its file appears in one step, and a second attempt writes the same file again. To resume is to list a
folder. This holds on S3 as well, needs no database, and never loads an id.
"""

import io
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.storage import Storage

__all__ = ["done_partitions", "file_name", "read_partition", "read_schema", "read_table", "write_partition"]


def file_name(partition: int) -> str:
    """The name of a partition's file."""
    return f"part-{partition:06d}.parquet"


def done_partitions(storage: Storage, folder: str) -> list[int]:
    """Numbers of the partitions whose file is in `folder`, in order."""
    names = (re.fullmatch(r"part-(\d{6,})\.parquet", name) for name in storage.names(folder))
    return sorted(int(name[1]) for name in names if name)


def write_partition(storage: Storage, folder: str, partition: int, table: pa.Table) -> int:
    """Write a partition's rows, whole or not at all; returns the file's bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.write(f"{folder}/{file_name(partition)}", sink.getvalue())
    return sink.tell()


def read_partition(
    storage: Storage, folder: str, partition: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """A partition's rows; of the file, only the named columns are read."""
    uri = f"{folder}/{file_name(partition)}"
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri), filesystem.open(path, "rb") as opened:
        return pq.ParquetFile(opened).read(columns=list(columns) if columns is not None else None)


def read_schema(storage: Storage, folder: str, partition: int) -> pa.Schema:
    """A partition's schema; only the end of its file is read."""
    uri = f"{folder}/{file_name(partition)}"
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri), filesystem.open(path, "rb") as opened:
        return pq.ParquetFile(opened).schema_arrow


def read_table(storage: Storage, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All partitions in order, one at a time."""
    for partition in done_partitions(storage, folder):
        yield read_partition(storage, folder, partition, columns)
