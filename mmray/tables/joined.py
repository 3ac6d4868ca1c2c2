"""Index and feature tables, joined by id within a partition: the rows as training and scoring read them.

Mostly the rows of a part file are those of the index, in the same order, and then nothing is looked up: the
footers say so.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from mmray.errors import TableError
from mmray.storage.filesystem import Storage
from mmray.tables.features import Data, FeatureTable, places_of
from mmray.tables.parts import in_parallel, read_with_notes
from mmray.tables.schemas import columns_of

__all__ = ["read_joined", "read_rows", "seen"]

PARTS_AT_ONCE = 4
"""Whole partitions read at a time."""


def read_joined(
    storage: Storage, data: Data, at: int, labels: Sequence[str], *, errors: bool = False
) -> pa.Table:
    """The `at`-th partition: these columns of the index, then each feature's.

    With `errors`, why it is null and which regions were followed, too.

    Raises:
        TableError: where a sample has no row in a feature's table.
        StorageError: where a part file is gone.
    """
    rows = data.index.read(storage, int(data.index.partitions[at]), labels)
    for name, table in data.tables.items():
        wanted = [*columns_of(name), *([f"{name}_boxes", "error"] if errors else [])]
        part = _aligned(storage, data, table, at, wanted, rows["sample_id"])
        for column in part.column_names:
            field = part.schema.field(column)
            rows = rows.append_column(field.with_name(f"{name}_error") if column == "error" else field,
                                      part[column])  # fmt: skip
    return rows


def read_rows(
    storage: Storage, data: Data, labels: Sequence[str], at_once: int = PARTS_AT_ONCE
) -> Iterator[pa.Table]:
    """All partitions in order, a few read ahead."""
    parts = range(len(data.index.partitions))
    return in_parallel(lambda at: read_joined(storage, data, at, labels), parts, at_once)


def seen(storage: Storage, data: Data) -> np.ndarray:
    """[N] bool: the samples that have any of the features; of the part files only lengths are read."""

    def of_part(at: int) -> np.ndarray:
        found = [
            _aligned(storage, data, table, at, [f"{name}_length"], None)[f"{name}_length"].to_numpy()
            for name, table in data.tables.items()
        ]
        return np.any(found, axis=0)

    return np.concatenate(list(in_parallel(of_part, range(len(data.index.partitions)))))


def _aligned(
    storage: Storage,
    data: Data,
    table: FeatureTable,
    at: int,
    columns: Sequence[str],
    ids: pa.ChunkedArray | None,
) -> pa.Table:
    """The rows of a part file that belong to the samples of a partition, in their order."""
    partition = int(data.index.partitions[at])
    part, notes = read_with_notes(storage, table.folder, partition, columns)
    if notes["media"] == data.index.media[table.source][at]:
        return part
    if ids is None:
        ids = data.index.read(storage, partition, ["sample_id"])["sample_id"]
    theirs = read_with_notes(storage, table.folder, partition, ["sample_id"])[0]
    places = places_of(ids, theirs["sample_id"])
    if (places < 0).any():
        raise TableError(
            f"{table.folder}: {(places < 0).sum()} samples of partition {partition} have no row of "
            f"{table.name}; run `mmray extract` again"
        )
    return part.take(pa.array(places))
