"""Whether a medium is still the one it was, seen without reading it whole.

    s3://…                    its ETag, as the listing of the folder has it; of a member or a cell that of
                              the archive
    a local file, a member    its size and some bytes from its beginning, middle and end
    a cell of a local table   the same of the table

A time is no version: a file that was copied, or touched, is the same. The media that a manifest names are
somebody else's and not listed; they are looked at where `samples.check_versions` asks for it.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mmray.samples.sources import Source
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, cell_of, scheme_of, span_of

__all__ = ["Versions"]

LOOKS_AT_ONCE = 16
LOOK_BYTES = 4096
"""From each of the three places of a file."""
TABLES_KEPT = 1024


class Versions:
    """The versions of the media of a source."""

    def __init__(self, storage: Storage, source: Source):
        self.storage, self.etags = storage, source.etags
        self.plain_files = bool(source.config.folder) or source.config.check_versions
        self.of_table = functools.lru_cache(TABLES_KEPT)(_look)

    def of(self, uris: Sequence[str | None]) -> list[str | None]:
        """The version of each; None where there is no medium, or nothing to be seen of it."""
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            return list(pool.map(self._of, uris))

    def _of(self, uri: str | None) -> str | None:
        if uri is None:
            return None
        cell, span = cell_of(uri), span_of(uri)
        file = cell.uri if cell else span.uri
        inside = cell is not None or span.size is not None
        if not inside and not self.plain_files:
            return None
        if scheme_of(file) == "s3":
            return self.etags.get(file) or (None if inside else self._etag(file))
        return self.of_table(file) if cell else _look(file, span.offset, span.size)

    def _etag(self, uri: str) -> str | None:
        infos = self.storage.infos(uri)
        return str(infos[uri].get("ETag")) if uri in infos else None


def _look(file: str, offset: int = 0, size: int | None = None) -> str | None:
    """By size and three looks; None where the file cannot be read, which its extraction will say."""
    try:
        with open(absolute(file), "rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size if size is None else size
            digest = hashlib.blake2b(str(size).encode(), digest_size=8)
            for start in sorted({0, max(0, (size - LOOK_BYTES) // 2), max(0, size - LOOK_BYTES)}):
                digest.update(os.pread(opened.fileno(), min(LOOK_BYTES, size - start), offset + start))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()
