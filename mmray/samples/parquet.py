"""Parquet manifests → their rows; media inside become URIs of their cells, and stay where they are.

A medium inside is a column of bytes, or a struct {bytes, path} as Hugging Face's `datasets` write it (one of
the two may be null). Of such a column only the paths are read here, a row group's statistics saying whether
there are bytes; the bytes are fetched later, cell by cell (`Storage.media`). What `datasets` say about their
columns in the file's metadata is taken over: names of classes in place of their numbers, and which column is
the picture, the sound or the video.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.samples.footer import null_counts
from mmray.samples.raw import Reading
from mmray.storage.filesystem import Storage
from mmray.storage.uris import cell_uri

__all__ = ["parquet_rows"]

BATCH_ROWS = 1024
BUFFER = 2**20
"""Bytes of a column that are read at once."""
FEATURES = {"Audio": "audio", "Image": "image", "Video": "video"}
"""Kinds of column of Hugging Face's `datasets` → ours."""


class _Inside(NamedTuple):
    """A column with media inside, in one row group."""

    column: str
    has_paths: bool
    present: bool | None
    """Whether its rows have bytes: all, none, or (None) what reading them tells."""


def parquet_rows(storage: Storage, uri: str, reading: Reading) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(`row 3`, its columns, or what is wrong with it) of those `reading` asks for, streamed.

    Raises:
        StorageError: where it cannot be read.
    """
    filesystem, path = storage.filesystem(uri)
    row = 0
    with storage.faults(uri), filesystem.open(path, "rb") as opened:
        try:
            file = pq.ParquetFile(opened, buffer_size=BUFFER)
            names = file.schema_arrow.names
            reading.meet(names)
            wanted = [
                name for name in names if reading.wants(name) or name in reading.also or name == "file_name"
            ]
            if twice := [name for name, count in Counter(wanted).items() if count > 1]:
                yield "", f"two columns are called {twice[0]!r}: which one? Rename one of them"
                return
            read = _Reader(opened, file, uri, wanted, reading)  # pyright: ignore[reportArgumentType]
            for group in range(file.num_row_groups):
                for values in read.group(group, row):
                    row += 1
                    yield f"row {row}", read.named(values)
        except (pa.ArrowException, MemoryError, OverflowError, ValueError) as error:
            where = f"row {row + 1}" if row else ""
            yield where, f"no Parquet, or damaged ({' '.join(str(error).split())[:200]})"


class _Reader:
    """Rows of one file."""

    def __init__(
        self, opened: IO[bytes], file: pq.ParquetFile, uri: str, wanted: Sequence[str], reading: Reading
    ):
        self.file = file
        self.uri = uri
        self.stem = uri.rpartition("/")[2].rpartition(".")[0]
        self.reading = reading
        features = _features(file.schema_arrow.metadata)
        schema = file.schema_arrow
        self.classes = {name: classes for name in wanted if (classes := _classes(features.get(name)))}
        self.media = _media_columns(features, schema, reading)
        inside = {column for column in self.media if _is_inside(schema.field(column).type)}
        self.inside = sorted(inside)
        self.nulls = null_counts(opened) if inside else [{}] * file.num_row_groups
        self.plain = [name for name in wanted if name not in inside]
        ids = [*schema.names, *(f"{column}.path" for column in inside)]
        self.without_id = bool(inside) and reading.sample_id not in ids
        reading.meet(ids)
        if self.without_id:
            reading.meet([reading.sample_id])

    def group(self, number: int, first: int) -> Iterator[dict[str, Any]]:
        """The rows of a row group, of which the first is row `first` of the file."""
        rows_of_group = self.file.metadata.row_group(number).num_rows
        inside = [self._inside(column, self.nulls[number], rows_of_group) for column in self.inside]
        columns = list(self.plain)
        for column in inside:
            struct = pa.types.is_struct(self.file.schema_arrow.field(column.column).type)
            columns += [f"{column.column}.path"] if column.has_paths else []
            columns += (
                [f"{column.column}.bytes" if struct else column.column] if column.present is None else []
            )
        if not columns:
            rows: Iterator[dict[str, Any]] = ({} for _ in range(rows_of_group))
        else:
            unread = any(column.present is None for column in inside)
            batches = self.file.iter_batches(16 if unread else BATCH_ROWS, [number], columns)
            rows = (row for batch in batches for row in _rows(batch))
        for row, values in enumerate(rows, start=first):
            for column in inside:
                values = self._resolved(values, column, row)
            if self.without_id:
                sample_id = f"{self.stem}:{row}"
                self.reading.note(
                    f"rows without {self.reading.sample_id!r}: their place is their id", sample_id
                )
                values[self.reading.sample_id] = sample_id
            yield values

    def _inside(self, column: str, nulls: Mapping[str, int], rows: int) -> _Inside:
        kind = self.file.schema_arrow.field(column).type
        struct = pa.types.is_struct(kind)
        count = nulls.get(f"{column}.bytes" if struct else column)
        present = {0: True, rows: False}.get(count) if count is not None else None
        return _Inside(column, struct and kind.get_field_index("path") >= 0, present)

    def _resolved(self, values: dict[str, Any], column: _Inside, row: int) -> dict[str, Any]:
        """The values with the medium as a URI, or as the path that stands for it; None: neither."""
        cell = values.get(column.column)
        path = cell.get("path") if isinstance(cell, dict) else None
        there = column.present
        if there is None:
            there = (cell.get("bytes") if isinstance(cell, dict) else cell) is not None
        medium = self.media[column.column]
        theirs = self.reading.media[medium]
        found = cell_uri(self.uri, row, column.column) if there else path
        return {**values, theirs: found, f"{column.column}.path": path}

    def named(self, values: dict[str, Any]) -> dict[str, Any] | str:
        """The values with classes by their names; or what is wrong with them."""
        for column, classes in self.classes.items():
            value = values.get(column)
            try:
                values[column] = (
                    [_name(v, classes) for v in value] if isinstance(value, list) else _name(value, classes)
                )
            except LookupError:
                return f"{column}: {value!r:.80} is not the number of one of its {len(classes)} classes"
        return values


def _is_inside(kind: pa.DataType) -> bool:
    """Whether a column of this type holds media, not paths to them."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_bytes(kind.field(index).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _media_columns(features: Mapping[str, Any], schema: pa.Schema, reading: Reading) -> dict[str, str]:
    """{column: medium} of this file: those of our names, else the only one that `datasets` call so."""
    found = {}
    for medium, column in reading.media.items():
        if column in schema.names:
            found[column] = medium
            continue
        typed = [
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and FEATURES.get(str(feature.get("_type"))) == medium
            if name in schema.names and _is_inside(schema.field(name).type)
        ]
        if len(typed) == 1 and reading.wants(column) and column == medium:
            found[typed[0]] = medium
            reading.meet([column])
            reading.note(f"column taken as {medium!r}, as the file's metadata say", typed[0])
    return found


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What `datasets` say about the columns; nothing where they did not write the file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _classes(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _classes(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _classes(feature.get("feature"))
    names = feature.get("names")
    named = feature.get("_type") == "ClassLabel" and isinstance(names, list)
    return names if named and all(isinstance(name, str) for name in names) else None  # pyright: ignore[reportOptionalIterable]


def _name(value: Any, classes: Sequence[str]) -> Any:
    """The name of a class; -1 is the one of none."""
    if not isinstance(value, int) or value == -1:
        return None if value == -1 else value
    if value < 0:
        raise IndexError(value)
    return classes[value]


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch; a text that was written as bytes is a text."""
    for row in batch.to_pylist():
        for column, value in row.items():
            if isinstance(value, bytes):
                with contextlib.suppress(UnicodeDecodeError):
                    row[column] = value.decode()
            elif isinstance(value, Decimal):
                row[column] = int(value) if value == value.to_integral_value() else float(value)
        yield row
