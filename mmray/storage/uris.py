"""What a URI says: a path, `file://…`, `s3://bucket/key`, or a member of an archive. Only text, no access."""

import os
import re
from typing import NamedTuple

__all__ = ["SCHEMES", "Span", "absolute", "join", "member_uri", "parent", "scheme_of", "span_of"]

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
    return f"{archive}#{offset}+{size}.{extension.rpartition('.')[2]}"


class Span(NamedTuple):
    """Bytes of a file: all of them where `size` is None."""

    uri: str
    offset: int
    size: int | None
    suffix: str


def span_of(uri: str) -> Span:
    """What a media URI means: a file, or a member of an archive."""
    if member := re.fullmatch(r"(.+)#(\d+)\+(\d+)(\.[a-z0-9]+)", uri):
        return Span(member[1], int(member[2]), int(member[3]), member[4])
    return Span(uri, 0, None, os.path.splitext(uri)[1])


def absolute(uri: str) -> str:
    """A local path made absolute (workers have other working directories); s3:// and the like as it is."""
    if scheme_of(uri) not in ("", "file"):
        return uri
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
