"""Manifest files (JSONL, CSV or Parquet) → their rows, streamed; a fault costs its line, not the rest.

Besides rows of our own columns they may have the conventions of Hugging Face's `datasets`: `file_name` (a
path, whose extension says which medium it is), and media as `{path: …}` or, in Parquet, as bytes.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from mmray.config import SamplesConfig
from mmray.errors import SamplesError
from mmray.samples.parquet import parquet_rows
from mmray.samples.raw import MAX_BYTES, RawRow, Reading, medium_of, parse_json
from mmray.storage.filesystem import Storage
from mmray.storage.uris import parent

__all__ = ["EXTENSIONS", "Entry", "manifest_rows", "read_rows"]

EXTENSIONS = ("jsonl", "ndjson", "csv", "tsv", "parquet", "pq")
FILE_NAME = "file_name"
csv.field_size_limit(
    MAX_BYTES
)  # of the whole process: 131,072 letters otherwise, which a transcript may have

Entry = tuple[str, dict[str, Any] | str]
"""(`line 3`, its columns, or what is wrong with it)."""


def manifest_rows(
    storage: Storage, manifests: Sequence[str], reading: Reading, config: SamplesConfig
) -> Iterator[RawRow]:
    """The rows of all files, in order; relative media paths start at their file's folder.

    Raises:
        StorageError: where one cannot be read.

    """
    for manifest in manifests:
        name = manifest.rpartition("/")[2]
        prefix = f"{name} " if len(manifests) > 1 else ""
        folder = parent(manifest)
        for where, found in _entries(storage, manifest, reading, config):
            if isinstance(found, str):
                yield RawRow(f"{prefix}{where}" if where else name, {}, fault=found)
            else:
                yield RawRow(f"{prefix}{where}", _with_media(found, reading), folder)


def read_rows(
    storage: Storage, manifest: str, config: SamplesConfig | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`line 3`, {column: value}) of one file, streamed.

    Raises:
        SamplesError: at the first line that is not what the file's name says.
        StorageError: where it cannot be read.

    """
    for where, found in _entries(storage, manifest, Reading(), config):
        if isinstance(found, str):
            raise SamplesError(f"{manifest}: {where}: {found}" if where else f"{manifest}: {found}")
        yield where, found


def _entries(
    storage: Storage, manifest: str, reading: Reading, config: SamplesConfig | None
) -> Iterator[Entry]:
    extension = manifest.rpartition(".")[2].lower()
    if extension not in EXTENSIONS:
        yield "", "a manifest is a .jsonl, .csv, .tsv or .parquet file"
        return
    if extension in ("parquet", "pq"):
        yield from parquet_rows(storage, manifest, reading)
        return
    filesystem, path = storage.filesystem(manifest)
    with storage.faults(manifest), filesystem.open(path, "rb") as opened:
        encoding = (config and config.encoding) or "utf-8"
        if fault := _strange_start(opened, encoding):  # pyright: ignore[reportArgumentType]
            yield "", fault
        elif extension in ("jsonl", "ndjson"):
            yield from _jsonl(opened, encoding, reading)  # pyright: ignore[reportArgumentType]
        else:
            delimiter = (config and config.delimiter) or ("\t" if extension == "tsv" else ",")
            yield from _csv(opened, encoding, delimiter, reading)  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------ lines of text


NO_TEXTS = {
    b"\x1f\x8b": "is compressed (gzip): unpack it",
    b"BZh": "is compressed (bzip2): unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd): unpack it",
    b"\xfd7zXZ": "is compressed (xz): unpack it",
    b"PK\x03\x04": "is a zip archive, or a spreadsheet: write its table as .csv",
    b"PAR1": "is Parquet: name it .parquet",
    b"ARROW1": "is Arrow IPC: write it as .parquet",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet: write its table as .csv",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: run `git lfs pull`",
}
"""How files begin that are no text with rows → what they are, and what to do."""


def _strange_start(opened: IO[bytes], encoding: str) -> str | None:
    """What is wrong with a text's first bytes, which are then read again."""
    start = opened.read(64)
    opened.seek(0)
    if told := next((why for magic, why in NO_TEXTS.items() if start.startswith(magic)), None):
        return told
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is HTML or XML, perhaps the page of an error: look into it"
    if encoding.startswith("utf-8") and (start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start[:4]):
        return "is UTF-16, not UTF-8: set samples.encoding: utf-16"
    if encoding == "utf-16" and start[:3] == b"\xef\xbb\xbf":
        return "is UTF-8: leave samples.encoding out"
    return None


class _Lines:
    """The lines of a text, each ended or cut after MAX_BYTES letters; what is no text is found, and told."""

    def __init__(self, opened: IO[bytes], encoding: str, newline: str):
        # A byte that is no UTF-8 becomes half a character, which no UTF-8 has: found line by line.
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        self.text = io.TextIOWrapper(
            opened, "utf-8-sig" if encoding == "utf-8" else encoding, errors, newline
        )
        self.number = 0
        """Of the line that was given last, from 1."""
        self.fault: str | None = None
        """What is wrong with it."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.fault = None
        self.number += 1
        line = self._read()
        if not line:
            raise StopIteration
        if len(line) > MAX_BYTES:
            self.fault = f"longer than {MAX_BYTES >> 20} MiB"
            while len(line) > MAX_BYTES:
                line = self._read()
            return "\n"
        if self.text.encoding == "utf-8-sig" and not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                self.fault = (
                    f"not UTF-8 (letter {error.start + 1}); is it Latin-1 (set samples.encoding: latin-1) or "
                    "Windows-1252 (cp1252)?"
                )
                return "\n"
        return line

    def _read(self) -> str:
        try:
            return self.text.readline(MAX_BYTES + 1)
        except UnicodeError as error:
            why = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
            raise _NoTextError(f"not {self.text.encoding} ({why})") from None


class _NoTextError(ValueError):
    """From here on a file is not in the encoding it is said to be in."""


def _jsonl(opened: IO[bytes], encoding: str, reading: Reading) -> Iterator[Entry]:
    lines = _Lines(opened, encoding, "\n")
    try:
        for line in lines:
            where = f"line {lines.number}"
            if lines.fault:
                yield where, lines.fault
            elif line.strip():
                try:
                    row = parse_json(line)
                except ValueError as error:
                    yield where, str(error)
                    continue
                if isinstance(row, dict):
                    reading.meet(row)
                    yield where, row
                else:
                    yield where, f"expected an object, got {type(row).__name__}"
    except _NoTextError as error:
        yield f"line {lines.number}", str(error)


def _csv(opened: IO[bytes], encoding: str, delimiter: str, reading: Reading) -> Iterator[Entry]:
    lines = _Lines(opened, encoding, "")
    bad: list[str] = []  # what is wrong with the lines of the row at hand

    def watched() -> Iterator[str]:
        for line in lines:
            bad.extend([lines.fault] if lines.fault else [])
            yield line

    table = csv.reader(watched(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        bad.clear()
        try:
            row = next(table, None)
        except _NoTextError as error:
            yield f"line {lines.number}", str(error)
            return
        except csv.Error as error:
            yield f"line {table.line_num}", f"no CSV ({error})"
            if "unexpected end" in str(error):
                return
            continue
        if row is None:
            return
        where = f"line {table.line_num}"
        if bad:
            yield where, bad[0]
            if header is None:
                return
        elif header is None and len(row) <= 2 and "".join(row).startswith("sep="):
            continue  # Excel's way of saying what parts the fields
        elif row and header is None:
            header = [name.strip() for name in row]
            reading.meet(header)
            if fault := _strange_header(header, delimiter, reading):
                yield where, fault
                return
        elif row and header is not None:
            if len(row) != len(header):
                yield where, f"{len(row)} fields, not {len(header)} as in the header"
            else:
                yield where, dict(zip(header, row))


def _strange_header(header: Sequence[str], delimiter: str, reading: Reading) -> str | None:
    """Why the rows below a header cannot be told apart by it."""
    if twice := _twice(header, reading):
        return twice
    if header[0].startswith(("{", "[")):
        return "is JSON: name it .jsonl (a row a line) or .json"
    for other, name in ((";", "semicolons (;)"), ("\t", "tabs"), ("|", "bars (|)"), (",", "commas")):
        if len(header) == 1 and other != delimiter and other in header[0]:
            setting = {"\t": r'"\t"'}.get(other, f'"{other}"')
            return f"the columns are parted by {name}: set samples.delimiter: {setting}"
    return None


def _twice(names: Iterable[str], reading: Reading) -> str | None:
    """Columns that are asked for and stand there more than once."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name and reading.wants(name)]
    return f"two columns are called {twice[0]!r}: which one? Rename one of them" if twice else None


# ------------------------------------------------------------------------------------ conventions


def _with_media(values: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """A row in which media are paths: {path: …} is one, and so is `file_name`, as its extension says."""
    for column in reading.media.values():
        value = values.get(column)
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            values = {**values, column: value["path"]}
    name = values.get(FILE_NAME)
    if not isinstance(name, str) or not (medium := medium_of(name.rpartition(".")[2])):
        return values
    defaults = {reading.media[medium]: name, reading.sample_id: name}
    new = {column: value for column, value in defaults.items() if column not in values}
    if reading.sample_id in new:
        reading.note(f"rows without {reading.sample_id!r}: {FILE_NAME} is their id", name)
    reading.meet(new)
    return {**values, **new}
