"""Manifest files (JSONL, CSV or Parquet) → their rows, streamed."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.errors import SamplesError
from mmray.samples.raw import RawRow
from mmray.storage.filesystem import Storage
from mmray.storage.uris import parent

__all__ = ["manifest_rows", "read_rows"]


def manifest_rows(storage: Storage, manifests: Sequence[str]) -> Iterator[RawRow]:
    """The rows of all files, in order; relative media paths start at their file's folder.

    Raises:
        SamplesError: where a file is none of these formats, or breaks off being one.
        StorageError: where it cannot be read.

    """
    for manifest in manifests:
        prefix = f"{manifest.rpartition('/')[2]} " if len(manifests) > 1 else ""
        folder = parent(manifest)
        for line, values in read_rows(storage, manifest):
            yield RawRow(f"{prefix}line {line}", values, folder)


def read_rows(storage: Storage, manifest: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number, {column: value}) of one file, streamed; raises as `manifest_rows`."""
    readers = {"jsonl": _jsonl, "ndjson": _jsonl, "csv": _csv, "parquet": _parquet, "pq": _parquet}
    extension = manifest.rpartition(".")[2].lower()
    if extension not in readers:
        raise SamplesError(f"{manifest}: a manifest is a .jsonl, .csv or .parquet file")
    filesystem, path = storage.filesystem(manifest)
    try:
        with storage.faults(manifest), filesystem.open(path, "rb") as opened:
            yield from readers[extension](opened)
    except (ValueError, pa.ArrowInvalid) as error:
        raise SamplesError(f"{manifest}: {error}") from None


def _jsonl(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(io.TextIOWrapper(opened, encoding="utf-8"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {line}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {line}: expected an object, got {type(row).__name__}")
        yield line, row


def _csv(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.TextIOWrapper(opened, encoding="utf-8-sig", newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num}: not {len(reader.fieldnames or [])} fields")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def _parquet(opened: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in pq.ParquetFile(opened).iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            number += 1
            yield number, row
