"""A table as one Parquet file a partition, each written whole; what is there is done.

The state of a long job is its output folder and nothing else: a partition's name follows from its number,
its file appears in one step, and a second attempt writes the same file again. To resume is to list a
folder. This holds on S3 as well, needs no database, and never loads an id.

What later runs want to know of a partition without reading it stands in its footer, as *notes*: `rows`, a
`digest` of its rows, and what its writer adds. Of a file only the byte ranges of the columns asked for are
read, and of many files several at a time.
"""

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.storage.filesystem import Storage
from mmray.storage.uris import scheme_of

__all__ = [
    "digest_of",
    "digest_of_partitions",
    "done_partitions",
    "file_name",
    "in_parallel",
    "open_parquet",
    "partition_of",
    "read_notes",
    "read_partition",
    "read_schema",
    "read_table",
    "read_with_notes",
    "write_digests",
    "write_partition",
]

NOTES = b"mmray"
DIGESTS = "_digests.arrow"
READERS = 32  # files read at a time: on S3 each is a request or two, all of them waiting

Item = TypeVar("Item")
Result = TypeVar("Result")


def file_name(partition: int) -> str:
    """The name of a partition's file."""
    return f"part-{partition:06d}.parquet"


def partition_of(name: str) -> int | None:
    """The partition whose file has this name; None: it is no part file."""
    found = re.fullmatch(r"part-(\d{6,})\.parquet", name)
    return int(found[1]) if found else None


def done_partitions(storage: Storage, folder: str) -> list[int]:
    """Numbers of the partitions whose file is in `folder`, in order."""
    numbers = (partition_of(name) for name in storage.names(folder))
    return sorted(number for number in numbers if number is not None)


def write_partition(
    storage: Storage, folder: str, partition: int, table: pa.Table, notes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a partition's rows, whole or not at all; returns the notes in its footer."""
    notes = {"rows": table.num_rows, "digest": digest_of(table), **(notes or {})}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(_with_notes(table, notes)), sink, compression="zstd")
    storage.write(f"{folder}/{file_name(partition)}", sink.getvalue())
    return notes


def read_partition(
    storage: Storage, folder: str, partition: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """A partition's rows; of the file, only the named columns are read (those of them that it has)."""
    return read_with_notes(storage, folder, partition, columns)[0]


def read_with_notes(
    storage: Storage, folder: str, partition: int, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """The same, and the notes in its footer."""
    with open_parquet(storage, f"{folder}/{file_name(partition)}") as file:
        table = file.read(columns=list(columns) if columns is not None else None)
        notes = _notes_in(file)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != NOTES}
    return table.replace_schema_metadata(metadata or None), notes


def read_notes(storage: Storage, folder: str, partitions: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Notes of these partitions, in their order; of each file only the footer is read."""

    def notes(partition: int) -> dict[str, Any]:
        with open_parquet(storage, f"{folder}/{file_name(partition)}") as file:
            return _notes_in(file)

    return in_parallel(notes, partitions)


def read_schema(storage: Storage, folder: str) -> pa.Schema:
    """The schema that all partitions share; only the end of the first one's file is read."""
    with open_parquet(storage, f"{folder}/{file_name(done_partitions(storage, folder)[0])}") as file:
        return file.schema_arrow


def read_table(storage: Storage, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All partitions in order, one at a time."""
    for partition in done_partitions(storage, folder):
        yield read_partition(storage, folder, partition, columns)


def write_digests(storage: Storage, folder: str, digests: Mapping[int, int]) -> None:
    """Keep the digests of a finished table's partitions in one file, so that no footer is read for them.

    It is no .parquet file: `folder/*.parquet` are the rows, for any tool.
    """
    numbers = sorted(digests)
    made = {"partition": numbers, "digest": [digests[number] for number in numbers]}
    table = pa.table(made, schema=pa.schema([("partition", pa.int32()), ("digest", pa.uint64())]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.write(f"{folder}/{DIGESTS}", sink.getvalue().to_pybytes())


def digest_of_partitions(storage: Storage, folder: str, partitions: np.ndarray) -> str:
    """64 bits that change when a row of these partitions does, in a finished table."""
    if storage.exists(f"{folder}/{DIGESTS}"):
        there = pa.ipc.open_file(storage.read(f"{folder}/{DIGESTS}")).read_all()
        digests = there["digest"].to_numpy()[np.isin(there["partition"].to_numpy(), partitions)]
    else:  # a table of an earlier mmray
        notes = read_notes(storage, folder, partitions.tolist())
        digests = np.array([int(of_one["digest"], 16) for of_one in notes], np.uint64)
    return f"{np.bitwise_xor.reduce(digests):016x}"


@contextlib.contextmanager
def open_parquet(storage: Storage, uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of which each read fetches the bytes it needs, and no more."""
    filesystem, path = storage.filesystem(uri)
    # s3fs would read ahead 50 MB; pre_buffer joins the ranges of the columns asked for into a few reads.
    options = {"cache_type": "none"} if scheme_of(uri) == "s3" else {}
    with storage.faults(uri), filesystem.open(path, "rb", **options) as opened:
        yield pq.ParquetFile(opened, pre_buffer=True)


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], readers: int = READERS
) -> Iterator[Result]:
    """`function` of each item, in order, several at a time; a bounded number waits to be taken."""
    with ThreadPoolExecutor(readers) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(function, item) for item in itertools.islice(rest, 2 * readers))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
            yield done


def _notes_in(file: pq.ParquetFile) -> dict[str, Any]:
    return json.loads((file.metadata.metadata or {}).get(NOTES, b"{}"))


def _with_notes(table: pa.Table, notes: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {**(table.schema.metadata or {}), NOTES: json.dumps(notes, sort_keys=True).encode()}


def digest_of(table: pa.Table) -> str:
    """64 bits that change when any value of the table does."""
    digest = hashlib.blake2b(digest_size=8)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()
