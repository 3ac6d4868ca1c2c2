"""What every source of samples gives: a row as it was found, and where.

Folders and tar shards hold files, not rows: files of one name are one sample (`clip7.mp4`, `clip7.txt`,
`clip7.json`). Media become URIs under `video`, `audio` or `image` and under their extension; a text is read;
the keys of a JSON object become columns of the row, except those for which the sample has a file.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "FIELDS",
    "LABEL",
    "MAX_BYTES",
    "TEXT",
    "File",
    "RawRow",
    "Reading",
    "medium_of",
    "parse_json",
    "row_of_files",
    "shown_name",
]

KINDS = {
    "video": "mp4 m4v mkv webm mov qt avi mpg mpeg mpe m1v m2v ts mts m2ts m2t vob wmv asf flv f4v 3gp "
    "3g2 ogv ogm mxf rm rmvb dv divx y4m nut ivf",
    "audio": "wav wave flac mp3 mp2 ogg oga opus spx m4a m4b aac aif aiff aifc wma mka weba amr ac3 eac3 dts "
    "ape wv tta caf au snd w64 gsm",
    "image": "jpg jpeg jpe jfif png apng webp bmp dib gif tif tiff avif heic heif ppm pgm pbm pnm jp2 "
    "j2k tga ico",
}
"""Column → extensions of its files."""
_COLUMN = {extension: column for column, extensions in KINDS.items() for extension in extensions.split()}
TEXT, LABEL, FIELDS = "txt", "cls", "json"
MAX_BYTES = 16 * 2**20
"""Most bytes of a text, a JSON object or a line: what is longer is no transcript but another file."""
MAX_DIGITS = 300
MAX_COLUMNS = 10_000
MAX_NOTES = 20
EXAMPLES = 3


class RawRow(NamedTuple):
    """A row of a source, unchecked."""

    where: str
    """As a person finds it again: `line 3`, `shard-0001.tar: clip7`."""
    values: dict[str, Any]
    folder: str = ""
    """Where relative media paths start."""
    fault: str | None = None
    """What is wrong with the source at this place; then there are no values."""
    damaged: bool = False
    """The fault is that the source is cut or broken here: what came before it is whole."""


@dataclass
class Reading:
    """What a reader is asked for, and what it meets beside the rows."""

    columns: frozenset[str] | None = None
    """Columns asked for, by the source's names; None: all."""
    media: Mapping[str, str] = field(default_factory=lambda: {kind: kind for kind in KINDS})
    """{`video`, `audio`, `image`: the source's name for it}."""
    sample_id: str = "sample_id"
    """The source's name for it."""
    met: dict[str, None] = field(default_factory=dict)
    """Columns there are."""
    also: frozenset[str] = frozenset()
    """Columns that are read where they are there, and nobody misses."""
    _notes: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wants(self, column: str) -> bool:
        """Whether a column is asked for."""
        return self.columns is None or column in self.columns

    def meet(self, columns: Iterable[str]) -> None:
        """There are such columns."""
        if len(self.met) < MAX_COLUMNS:
            self.met.update(dict.fromkeys(columns))

    def note(self, what: str, example: str) -> None:
        """Something was left out, or decided, which the user may want to know: counted, with examples."""
        with self._lock:
            if what not in self._notes and len(self._notes) == MAX_NOTES:
                what = "more of other kinds"
            count, examples = self._notes.get(what, (0, []))
            self._notes[what] = (count + 1, examples if len(examples) == EXAMPLES else [*examples, example])

    @property
    def notes(self) -> list[str]:
        """What `note` was told, one line each."""
        return [
            f"{what}: {count} ({', '.join(examples)}{', …' if count > len(examples) else ''})"
            for what, (count, examples) in self._notes.items()
        ]


class File(NamedTuple):
    """One file of a sample."""

    name: str
    """As its source has it, for messages."""
    extension: str
    """All after the name of the sample, in lower case: `mp4`, `left.jpg`."""
    uri: str
    size: int
    read: Callable[[], bytes]
    fault: str | None = None
    """Why it cannot be read."""


def medium_of(extension: str) -> str | None:
    """`mp4` → `video`; None: no medium."""
    return _COLUMN.get(extension.lower())


def row_of_files(where: str, key: str, files: Iterable[File], reading: Reading, folder: str = "") -> RawRow:
    """The files of one sample as a row; `sample_id` is the key, unless a JSON file says otherwise.

    A file always wins over a key of a JSON file, in whatever order they come.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for file in files:
        last = file.extension.rpartition(".")[2]
        name = shown_name(file.name.rpartition("/")[2])
        column = {TEXT: "text", LABEL: LABEL}.get(file.extension, _COLUMN.get(file.extension, file.extension))
        other = names.get(column) or names.get(file.extension)
        if other and (reading.wants(column) or column == FIELDS):
            return RawRow(where, {}, fault=f"has two files for {column!r}: {other} and {name}")
        names |= {column: name, file.extension: name}
        reading.meet([column, file.extension] if last != FIELDS else [])
        try:
            if file.fault:
                raise ValueError(file.fault)
            if last == FIELDS:
                fields |= _object(_text(file))
            elif last in (TEXT, LABEL):
                values[column] = _text(file).strip()
            else:
                values |= {column: file.uri, file.extension: file.uri}
        except ValueError as error:
            return RawRow(where, {}, fault=f"{name}: {error}")
    reading.meet(["sample_id", *fields])
    for column in values.keys() & fields.keys():
        if reading.wants(column):
            reading.note(
                f"samples with a key {column!r} in their JSON and a file for it: the file is taken", where
            )
    return RawRow(where, {"sample_id": key, **fields, **values}, folder)


def shown_name(name: str) -> str:
    """A file's name as it can be printed, whatever bytes it is made of."""
    name = name if len(name) <= 200 else f"{name[:100]}…{name[-80:]}"
    return name if name.isprintable() else ascii(name)[1:-1]


def _text(file: File) -> str:
    """The text of a small file; ValueError where it is none."""
    if file.size > MAX_BYTES:
        raise ValueError(f"{file.size} bytes are too long for a text (at most {MAX_BYTES >> 20} MiB)")
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: where it is none, or says one thing twice, or is nested or has numbers beyond reason.
    """
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        twice[:] = (
            ()
            if len(found) == len(items)
            else [key for key, n in Counter(k for k, _ in items).items() if n > 1]
        )
        return found

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    if twice and isinstance(value, dict):  # the outermost object is the last to be made
        raise ValueError(f"two values for the key {twice[0]!a}")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
