"""Rows of any number, put in the order of their partitions: the rows on disk, of each some bytes in memory.

Ledger     every id ever seen, as a hash, and its partition: 12 bytes an id, and 4 to look it up by
Spool      the rows as they came from the source, in batches on disk
in_order   the spool's rows, partition by partition: 16 bytes a row
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmray.samples.split import MEDIA, SPLITS
from mmray.storage.filesystem import Storage
from mmray.tables.parts import open_parquet

__all__ = ["BATCH_ROWS", "Ledger", "Spool", "in_order"]

BATCH_ROWS = 8192
BATCHES_HELD = 4


class Ledger:
    """Every id ever seen, as a hash, and its partition; the order of the ids is the order of the index."""

    def __init__(self, keys: np.ndarray, partitions: np.ndarray, size: int):
        self.keys, self.partitions, self.size = keys, partitions, size
        self.order = np.argsort(keys).astype(np.int32 if len(keys) < 2**31 else np.int64)
        self.first_new = int(partitions[-1]) + 1 if len(partitions) else 0
        self.new: list[np.ndarray] = []
        self.new_count = 0

    @classmethod
    def read(cls, storage: Storage, folder: str, known: dict[str, Any] | None, size: int) -> "Ledger":
        """The ledger of the index before; an empty one where there is none."""
        if known is None:
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.int32), size)
        with open_parquet(storage, f"{folder}/{known['ids']}") as file:
            table = file.read()
        return cls(table["key"].to_numpy(), table["partition"].to_numpy(), size)

    def places(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The place of each id in the order of the index; new ids come after all that are known."""
        hashes = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids.to_pylist()]
        keys = np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.uint64)
        found = np.searchsorted(self.keys, keys, sorter=self.order)
        found[found == len(self.keys)] = 0
        places = self.order[found].astype(np.int64) if len(self.keys) else found.astype(np.int64)
        is_new = self.keys[places] != keys if len(self.keys) else np.ones(len(keys), bool)
        places[is_new] = len(self.keys) + self.new_count + np.arange(is_new.sum())
        self.new.append(keys[is_new])
        self.new_count += int(is_new.sum())
        return places

    def partition_of(self, places: np.ndarray) -> np.ndarray:
        """The partition of each place."""
        new = self.first_new + (places - len(self.keys)) // self.size
        if not len(self.keys):
            return new
        return np.where(places < len(self.keys), self.partitions[np.minimum(places, len(self.keys) - 1)], new)

    def table(self) -> pa.Table:
        """With the new ids, to be read again."""
        keys = np.concatenate([self.keys, *self.new])
        new = self.first_new + np.arange(self.new_count) // self.size
        partitions = np.concatenate([self.partitions, new.astype(np.int32)]).astype(np.int32)
        return pa.table({"key": keys, "partition": partitions})


class Spool:
    """Rows on disk, of which few are in memory at a time; first all are added, then they are read."""

    def __init__(self, path: str, schema: pa.Schema):
        self.path, self.schema, self.rows = path, schema, 0
        self._sink = pa.OSFile(path, "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._batch = functools.lru_cache(BATCHES_HELD)(self._read)

    def add(self, rows: pa.Table) -> None:
        """A batch; all but the last have `BATCH_ROWS` rows."""
        self._writer.write_table(rows.combine_chunks())
        self.rows += rows.num_rows

    def end(self) -> None:
        """No more rows come."""
        self._writer.close()
        self._sink.close()
        self._file = pa.OSFile(self.path, "rb")
        self._reader = pa.ipc.open_file(self._file)

    def take(self, places: np.ndarray) -> pa.Table:
        """The rows at these places, in this order; batch by batch."""
        batch = places // BATCH_ROWS
        by_batch = np.argsort(batch, kind="stable")
        sorted_batch = batch[by_batch]
        parts = []
        for number in np.unique(sorted_batch):
            first, last = np.searchsorted(sorted_batch, [number, number + 1])
            within = places[by_batch[first:last]] - number * BATCH_ROWS
            parts.append(self._batch(int(number)).take(pa.array(within)))
        rows = pa.concat_tables(parts)
        if (np.diff(by_batch) == 1).all():
            return rows
        back = np.empty(len(places), np.int64)
        back[by_batch] = np.arange(len(places))
        return rows.take(pa.array(back))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Those columns of all rows that there are."""
        there = [name for name in names if name in self.schema.names]
        return pa.concat_tables(self._read(number).select(there) for number in range(self._batches()))

    def may_leak(self) -> bool:
        """Whether a group or medium may stand in two splits: by 62 bits of a hash, 8 bytes a row."""
        return any(self._may_leak(kind) for kind in ("group", *MEDIA) if kind in self.schema.names)

    def _may_leak(self, kind: str) -> bool:
        keys, count = np.empty(self.rows, np.uint64), 0
        for number in range(self._batches()):
            batch = self._read(number).select(["split", kind]).drop_null()
            splits = pd.Categorical(batch["split"].to_pylist(), categories=list(SPLITS)).codes
            values = np.array(batch[kind].to_pylist(), dtype=object)
            hashes = pd.util.hash_array(values, categorize=False) if len(values) else np.zeros(0, np.uint64)  # pyright: ignore[reportAttributeAccessIssue]
            keys[count : count + len(values)] = (hashes & ~np.uint64(3)) | splits.astype(np.uint64)
            count += len(values)
        keys = keys[:count]
        keys.sort()
        steps = keys[1:] ^ keys[:-1]
        return bool(((steps != 0) & (steps < 4)).any())

    def _batches(self) -> int:
        return -(-self.rows // BATCH_ROWS)

    def _read(self, number: int) -> pa.Table:
        return pa.Table.from_batches([self._reader.get_batch(number)])

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._sink.close()


def in_order(
    spool: Spool, places: np.ndarray, ledger: Ledger, partitions_at_once: int
) -> Iterator[tuple[int, pa.Table]]:
    """(partition, its rows), in the order of the index; `places` are those of the spool's rows."""
    order = np.argsort(places, kind="stable")
    partitions = ledger.partition_of(places[order])
    starts = np.flatnonzero(np.diff(partitions, prepend=-1))
    ends = np.append(starts[1:], len(order))
    numbers = partitions[starts]
    del partitions
    for first in range(0, len(starts), partitions_at_once):
        chosen = slice(first, first + partitions_at_once)
        begin, end = int(starts[chosen][0]), int(ends[chosen][-1])
        taken = spool.take(order[begin:end])
        for number, start, stop in zip(numbers[chosen], starts[chosen], ends[chosen]):
            yield int(number), taken.slice(int(start) - begin, int(stop - start))
