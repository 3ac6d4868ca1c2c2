"""`samples` of a config (manifests, tar shards or a folder) → its files, their version, their rows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from braceexpand import braceexpand

from mmray.config import SamplesConfig
from mmray.errors import SamplesError
from mmray.samples.folder import folder_rows
from mmray.samples.manifest import manifest_rows
from mmray.samples.raw import RawRow
from mmray.samples.shards import shard_rows
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute

__all__ = ["Source", "find_source"]


@dataclass(frozen=True)
class Source:
    """Where the rows come from."""

    config: SamplesConfig
    files: list[str]
    """Manifests, shards, or all files of the folder, as absolute paths or URIs."""
    version: dict[str, Any]
    """{files, bytes, version}: changes when a file does, without reading any."""

    def rows(self, storage: Storage) -> Iterator[RawRow]:
        """The rows, streamed."""
        if self.config.shards:
            return shard_rows(storage, self.files)
        if self.config.folder:
            folder = absolute(self.config.folder)
            return folder_rows(storage, folder, self.files, self.config.label_from_folder)
        return manifest_rows(storage, self.files)


def find_source(config: SamplesConfig, storage: Storage) -> Source:
    """Look up the files a config names.

    Raises:
        SamplesError: where there are none.
        StorageError: where storage cannot be listed.

    """
    if config.folder:
        infos = storage.find(absolute(config.folder))
        if not infos:
            raise SamplesError(f"{config.folder}: no such folder, or no files in it (samples.folder)")
    else:
        key, given = ("shards", config.shards) if config.shards else ("manifest", config.manifest)
        infos = {}
        for pattern in [given] if isinstance(given, str) else given or []:
            infos |= _matching(pattern, storage, f"no such {key} (samples.{key})")
    digest = hashlib.sha256()
    for uri, info in infos.items():
        digest.update(f"{uri} {info['size']} {info.get('ETag') or info.get('mtime')}\n".encode())
    size = sum(info["size"] for info in infos.values())
    return Source(
        config, list(infos), {"files": len(infos), "bytes": size, "version": digest.hexdigest()[:16]}
    )


def _matching(pattern: str, storage: Storage, absence: str) -> dict[str, dict[str, Any]]:
    """{URI: info} of what a path means: itself, or, with {…}, * and ?, all files it fits, in order."""
    if infos := storage.infos(absolute(pattern)):
        return infos
    try:
        paths = list(braceexpand(pattern))
    except ValueError as error:
        raise SamplesError(f"{pattern}: {error}") from None
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        infos = storage.infos(absolute(path), pattern=True)
        if not infos:
            raise SamplesError(f"{path}: {absence}")
        found |= infos
    return found
