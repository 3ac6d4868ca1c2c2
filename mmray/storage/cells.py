"""Media inside Parquet files → their bytes, cell by cell.

A page of Parquet holds many cells, and none can be read without those before it. Samples come in the order of
their rows, so the last reader of each file goes on where it stopped: each page is read once, and no more than
a few cells are in memory.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from mmray.storage.uris import Cell, scheme_of

if TYPE_CHECKING:
    from mmray.storage.filesystem import Storage

__all__ = ["read_cell"]

READERS = 4
"""Columns that are held open, the one not used for longest being closed."""
KEPT_BYTES = 64 * 2**20
MOST_ROWS = 32
BUFFER = 2**20

_open: "OrderedDict[tuple[Any, ...], _Reader]" = OrderedDict()
_lock = threading.Lock()


def read_cell(storage: "Storage", cell: Cell) -> tuple[bytes | None, str | None]:
    """The bytes of a cell, None where it has none, and the name they had as a file, where that is told.

    Raises:
        LookupError: where there is no such row or column.
        OSError, ValueError (pyarrow's ArrowInvalid is one), and what else storage raises.
    """
    filesystem, path = storage.filesystem(cell.uri)
    on_s3 = scheme_of(cell.uri) == "s3"
    version = None
    if not on_s3:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path}: no file")
        version = (about.st_mtime_ns, about.st_size)
    key = (storage.config.endpoint_url, cell.uri, cell.column, version)
    with _lock:
        reader = _open.pop(key, None)
        if reader is None:
            options = {"block_size": BUFFER, "cache_type": "readahead"} if on_s3 else {}
            reader = _Reader(filesystem.open(path, "rb", **options), cell.column)  # pyright: ignore[reportArgumentType]
        value = reader.read(cell.row)  # a reader that failed is not kept
        _open[key] = reader
        while len(_open) > READERS:
            _open.popitem(last=False)[1].close()
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return value, None


class _Reader:
    """The cells of one column, forwards; the last few can be read again."""

    def __init__(self, opened: IO[bytes], column: str):
        import pyarrow.parquet as pq

        self.opened = opened
        self.column = column
        self.file: pq.ParquetFile = pq.ParquetFile(opened, buffer_size=BUFFER)
        if column not in self.file.schema_arrow.names:
            raise LookupError(f"no column {column!r}")
        self.kept: dict[int, Any] = {}
        self.group, self.next_row = -1, 0
        self.cells: Iterator[tuple[int, Any]] = iter(())

    def read(self, row: int) -> Any:
        """The cell of a row."""
        if row in self.kept:
            return self.kept[row]
        group, first, rows = self._group_of(row)
        if group != self.group or self.next_row > row:
            self.group, self.next_row = group, first
            self.cells = self._from(group, first, rows)
        for at, value in self.cells:
            self.kept[at] = value
            self.next_row = at + 1
            while len(self.kept) > 1 and (len(self.kept) > MOST_ROWS or self._kept_bytes() > KEPT_BYTES):
                del self.kept[next(iter(self.kept))]
            if at == row:
                return value
        raise LookupError(f"row {row} cannot be read")

    def close(self) -> None:
        """Let go of the file."""
        self.opened.close()

    def _kept_bytes(self) -> int:
        return sum(len((v.get("bytes") if isinstance(v, dict) else v) or b"") for v in self.kept.values())

    def _group_of(self, row: int) -> tuple[int, int, int]:
        """The row group that holds a row, its first row and how many it has."""
        metadata, first = self.file.metadata, 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first <= row < first + rows:
                return group, first, rows
            first += rows
        raise LookupError(f"no row {row}: there are {first}")

    def _from(self, group: int, first: int, rows: int) -> Iterator[tuple[int, Any]]:
        """The cells of a row group, from its first."""
        metadata = self.file.metadata.row_group(group)
        chunks = [metadata.column(i) for i in range(metadata.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == self.column)
        batch_rows = max(1, min(MOST_ROWS, KEPT_BYTES * rows // max(size, 1) // 2))
        row = first
        for batch in self.file.iter_batches(batch_rows, [group], [self.column]):
            for value in batch.column(0):
                yield row, value.as_py()
                row += 1
