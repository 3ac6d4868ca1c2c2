"""What every source of samples gives: a row as it was found, and where.

Folders and tar shards hold files, not rows: files whose names agree up to the first dot are one sample, as
in WebDataset (`clip7.mp4`, `clip7.txt`, `clip7.json`). Media become URIs under `video`, `audio` or `image`
and under their extension; a text is read; the keys of a JSON object become columns of the row.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

__all__ = ["KINDS", "File", "RawRow", "row_of_files", "split_name"]

KINDS = {
    "video": ("mp4", "m4v", "mkv", "webm", "mov", "avi", "mpg", "mpeg", "ts"),
    "audio": ("wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac"),
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
}
"""Column → extensions of its files."""
_COLUMN = {extension: column for column, extensions in KINDS.items() for extension in extensions}
TEXT, LABEL, FIELDS = "txt", "cls", "json"


class RawRow(NamedTuple):
    """A row of a source, unchecked."""

    where: str
    """As a person finds it again: `line 3`, `shard-0001.tar: clip7`."""
    values: dict[str, Any]
    folder: str = ""
    """Where relative media paths start."""
    fault: str | None = None
    """What is wrong with the source at this place; then there are no values."""


class File(NamedTuple):
    """One file of a sample."""

    extension: str
    """All after the first dot, in lower case: `mp4`, `left.jpg`."""
    uri: str
    read: Callable[[], bytes]


def split_name(path: str) -> tuple[str, str]:
    """`a/clip7.left.jpg` → (`a/clip7`, `left.jpg`)."""
    folder, slash, name = path.rpartition("/")
    stem, _, extension = name.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def row_of_files(where: str, key: str, files: Iterable[File]) -> RawRow:
    """The files of one sample as a row; `sample_id` is the key, unless a JSON file says otherwise."""
    values: dict[str, Any] = {"sample_id": key}
    for extension, uri, read in files:
        last = extension.rpartition(".")[2]
        column = {TEXT: "text", LABEL: LABEL}.get(extension, _COLUMN.get(extension, extension))
        if extension in values or (column != extension and column in values):
            return RawRow(where, {}, fault=f"has two files for {column!r}")
        if last not in (TEXT, LABEL, FIELDS):
            values |= {column: uri, extension: uri}
            continue
        try:
            content = read().decode("utf-8-sig").strip()
            if last != FIELDS:
                values[column] = content
            elif isinstance(fields := json.loads(content), dict):
                values |= fields
            else:
                return RawRow(where, {}, fault=f".{extension}: expected an object")
        except ValueError as error:
            return RawRow(where, {}, fault=f".{extension}: {error}")
    return RawRow(where, values)
