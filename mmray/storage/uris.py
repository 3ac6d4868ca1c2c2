"""What a URI says: a path, `file://…`, `s3://bucket/key`, a member of an archive, a cell of a table.

Only text, no access.
"""

import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = [
    "SCHEMES",
    "Cell",
    "Span",
    "absolute",
    "cell_of",
    "cell_uri",
    "has_password",
    "join",
    "member_uri",
    "parent",
    "scheme_of",
    "span_of",
    "without_password",
    "without_passwords",
]

SCHEMES = ("", "file", "s3")


def scheme_of(uri: str) -> str:
    """`s3://bucket/key` → `s3`; a plain path → ``."""
    head, separator, _ = uri.partition("://")
    return head if separator else ""


def parent(uri: str) -> str:
    """The folder that holds `uri`."""
    return uri.rstrip("/").rpartition("/")[0] or ("/" if uri.startswith("/") else ".")


def join(folder: str, uri: str) -> str:
    """`uri` itself where it is absolute or has a scheme, else `uri` below `folder`."""
    if scheme_of(uri) or uri.startswith("/"):
        return uri
    return f"{folder.rstrip('/')}/{uri}" if folder not in ("", ".") else uri


def member_uri(archive: str, offset: int, size: int, extension: str) -> str:
    """`size` bytes of an uncompressed archive, from `offset`, as a URI: `shard.tar#offset+size.mp4`."""
    suffix = re.sub(r"[^a-z0-9]", "", extension.rpartition(".")[2].lower())
    return f"{archive}#{offset}+{size}" + (f".{suffix}" if suffix else "")


class Span(NamedTuple):
    """Bytes of a file: all of them where `size` is None."""

    uri: str
    offset: int
    size: int | None
    suffix: str


def span_of(uri: str) -> Span:
    """What a media URI means: a file, or a member of an archive."""
    if member := re.fullmatch(r"(.+\.tar)#([0-9]{1,18})\+([0-9]{1,18})(\.[a-z0-9]+|)", uri, re.IGNORECASE):
        return Span(member[1], int(member[2]), int(member[3]), member[4])
    return Span(uri, 0, None, os.path.splitext(uri)[1])


def absolute(uri: str) -> str:
    """A local path made absolute (workers have other working directories); s3:// and the like as it is."""
    if scheme_of(uri) not in ("", "file"):
        return uri
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


class Cell(NamedTuple):
    """A medium inside a Parquet file."""

    uri: str
    row: int
    """From 0, over all row groups."""
    column: str


def cell_uri(uri: str, row: int, column: str) -> str:
    """A cell of a Parquet file as a URI: `clips.parquet#row=3&column=audio`."""
    return f"{uri}#row={row}&column={quote(column, safe='')}"


def cell_of(uri: str) -> Cell | None:
    """The cell that a URI means, if it means one."""
    if found := re.fullmatch(r"(.+\.(?:parquet|pq))#row=(\d{1,18})&column=([^&#]+)", uri, re.IGNORECASE):
        return Cell(found[1], int(found[2]), unquote(found[3]))
    return None


def without_password(uri: str) -> str:
    """The URI as it may be printed: no user, no password, and no query, which may be a signature."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    place, slash, path = rest.partition("/")
    path = path.partition("?")[0] + "?…" if "?" in path and scheme not in SCHEMES else path
    return f"{scheme}://{'…@' if '@' in place else ''}{place.rpartition('@')[2]}{slash}{path}"


def without_passwords(text: str) -> str:
    """A text as it may be printed: URIs in it say nothing of who asks."""
    return re.sub(r"://[^/\s@'\"]*@", "://…@", text)


def has_password(uri: str) -> bool:
    """Whether a URI names who asks: `s3://key:secret@bucket/…`."""
    return "@" in uri.partition("://")[2].partition("/")[0]
