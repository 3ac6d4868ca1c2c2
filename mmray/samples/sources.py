"""`samples` of a config (manifests, tar shards or a folder) → its files, their version, their rows."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from braceexpand import braceexpand

from mmray.config import SamplesConfig
from mmray.errors import SamplesError
from mmray.samples.folder import folder_rows
from mmray.samples.manifest import manifest_rows
from mmray.samples.raw import RawRow, Reading, shown_name
from mmray.samples.shards import shard_rows
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, parent

__all__ = ["Source", "find_source"]

MAX_FILES = 1_000_000
LISTED_TOGETHER = 8
"""From so many names in one folder on, the folder is listed once instead of asking for each."""


@dataclass(frozen=True)
class Source:
    """Where the rows come from."""

    config: SamplesConfig
    files: dict[str, int]
    """{path or URI: bytes} of manifests, shards, or all files of the folder."""
    version: dict[str, Any]
    """{files, bytes, version}: changes when a file does, without reading any."""
    etags: dict[str, str] = field(default_factory=dict)
    """{URI: ETag} of the files on S3."""
    left: dict[str, str] = field(default_factory=dict)
    """{path: why it is not read} of what lies in the folder beside its files."""

    def rows(self, storage: Storage, reading: Reading | None = None) -> Iterator[RawRow]:
        """The rows, streamed; `reading` says which columns are wanted, and gathers what is left out."""
        reading = reading or Reading()
        files = list(self.files)
        if self.config.shards:
            return shard_rows(storage, files, reading)
        if not self.config.folder:
            return manifest_rows(storage, files, reading, self.config)
        for path, why in self.left.items():
            reading.note(f"{why}, left out", shown_name(path))
        folder = absolute(self.config.folder)
        return folder_rows(storage, folder, self.files, self.config.label_from_folder, reading)


def find_source(config: SamplesConfig, storage: Storage, output: str = "") -> Source:
    """Look up the files a config names; those below `output` are the project's own, and no samples.

    Raises:
        SamplesError: where there are none.
        StorageError: where storage cannot be listed.

    """
    left: dict[str, str] = {}
    if config.folder:
        folder = absolute(config.folder)
        own = f"{absolute(output).rstrip('/')}/" if output else "\0"
        infos = {uri: info for uri, info in storage.find(folder).items() if not uri.startswith(own)}
        left, infos = _readable(folder, infos)
        if not infos:
            raise SamplesError(f"{config.folder}: no such folder, or no files in it (samples.folder)")
    else:
        key, given = ("shards", config.shards) if config.shards else ("manifest", config.manifest)
        infos = {}
        for pattern in [given] if isinstance(given, str) else given or []:
            infos |= _matching(pattern, storage, f"no such {key} (samples.{key})")
        if config.shards and (other := [uri for uri in infos if not uri.lower().endswith(".tar")]):
            raise SamplesError(f"{other[0]}: a shard is an uncompressed .tar file (samples.shards)")
    digest = hashlib.sha256()
    for uri, info in infos.items():
        stamp = f"{uri} {info['size']} {info.get('ETag') or info.get('mtime')}\n"
        digest.update(stamp.encode("utf-8", "surrogateescape"))
    sizes = {uri: int(info["size"]) for uri, info in infos.items()}
    version = {"files": len(infos), "bytes": sum(sizes.values()), "version": digest.hexdigest()[:16]}
    etags = {uri: str(info["ETag"]) for uri, info in infos.items() if info.get("ETag")}
    return Source(config, sizes, version, etags, left)


def _readable(
    folder: str, infos: dict[str, dict[str, Any]]
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """What is in a folder beside files ({path below it: why it is left}), and its files."""
    base = folder.rstrip("/") + "/"
    why = {
        "link": "links that lead nowhere, or to a folder that is read already",
        "other": "pipes, devices and sockets",
    }
    left = {uri.removeprefix(base): why[info["type"]] for uri, info in infos.items() if info["type"] in why}
    return left, {uri: info for uri, info in infos.items() if info["type"] not in why}


def _matching(pattern: str, storage: Storage, absence: str) -> dict[str, dict[str, Any]]:
    """{URI: info} of what a path means: itself, or, with {…}, * and ?, all files it fits, in order."""
    if infos := storage.infos(absolute(pattern)):
        return infos
    names: dict[str, list[str]] = {}
    for path in _expanded(pattern):
        names.setdefault(parent(absolute(path)), []).append(absolute(path))
    found: dict[str, dict[str, Any]] = {}
    for folder, paths in names.items():
        plain = len(paths) >= LISTED_TOGETHER and not re.search(r"[*?\[]", "".join(paths))
        listed = storage.infos(f"{folder}/*", pattern=True) if plain else {}
        for path in paths:
            infos = {path: listed[path]} if path in listed else storage.infos(path, pattern=True)
            if not infos:
                raise SamplesError(f"{path}: {absence}")
            found |= infos
    return found


def _expanded(pattern: str) -> list[str]:
    """A pattern with its {…} filled in."""
    for first, last in re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern):
        if len(first + last) > 30 or abs(int(last) - int(first)) >= MAX_FILES:
            raise SamplesError(f"{pattern}: means more than {MAX_FILES} files")
    try:
        paths = list(islice(braceexpand(pattern), MAX_FILES + 1))
    except (ValueError, RecursionError) as error:
        raise SamplesError(f"{pattern}: {error}") from None
    if len(paths) > MAX_FILES:
        raise SamplesError(f"{pattern}: means more than {MAX_FILES} files")
    return paths
