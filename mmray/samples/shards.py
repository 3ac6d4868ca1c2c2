"""WebDataset tar shards → rows; a member's URI says where in the shard its bytes are.

Only the headers and the small members (text, labels, JSON) are read, so that every fault is known before
work starts; media are fetched later by their range, each like a file of its own (`Storage.media`).

A tar that was cut off is no error to `tarfile`: it takes a cut between members, or inside a header, for the
end. So the mark that a whole archive ends with (two blocks of zeros, POSIX.1-1988 ustar) is looked for.
"""

import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

from mmray.samples.raw import File, RawRow, row_of_files, split_name
from mmray.storage.filesystem import Storage
from mmray.storage.uris import member_uri, scheme_of

__all__ = ["shard_rows"]

BLOCK = 512
SHARDS_AT_ONCE = 16
READ_AHEAD = 64 * 1024
"""Bytes a look at a header fetches from S3: the small members beside it come along."""


def shard_rows(storage: Storage, shards: Sequence[str]) -> Iterator[RawRow]:
    """A row a sample, in the order of shards and members; a damaged shard ends with a fault that says how.

    Raises:
        StorageError: where a shard cannot be read.

    """
    with ThreadPoolExecutor(min(SHARDS_AT_ONCE, len(shards))) as pool:
        for rows in pool.map(partial(_rows, storage), shards):
            yield from rows


def _rows(storage: Storage, shard: str) -> list[RawRow]:
    """The samples of one shard, and after them its damage if it has any."""
    name = shard.rpartition("/")[2]
    filesystem, path = storage.filesystem(shard)
    options = {"block_size": READ_AHEAD, "cache_type": "readahead"} if scheme_of(shard) == "s3" else {}
    with storage.faults(shard), filesystem.open(path, "rb", **options) as opened:
        size = int(filesystem.size(path) or 0)
        members, damage = _members(opened, size)
        rows = []
        for key, group in groupby(members, key=lambda member: split_name(member.name)[0]):
            files = [_file(opened, shard, member) for member in group]
            rows.append(row_of_files(f"{name}: {key}", key, files))
    return [*rows, RawRow(name, {}, fault=damage)] if damage else rows


def _members(opened: Any, size: int) -> tuple[list[tarfile.TarInfo], str | None]:
    """The regular files of an archive of `size` bytes, and how it is damaged, if it is."""
    members: list[tarfile.TarInfo] = []
    last = "its beginning"
    try:
        with tarfile.open(fileobj=opened, mode="r:") as archive:
            while (member := archive.next()) is not None:
                last = member.name
                if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                    members.append(member)
                if member.offset_data + member.size > size:
                    return members[:-1], f"the shard is cut inside {member.name}, at byte {size}"
            end = archive.offset
    except tarfile.TarError as error:
        if not members:
            return [], f"not an uncompressed tar archive ({error})"
        return members, f"damaged after {last}: {error}"
    opened.seek(end)
    mark = opened.read(BLOCK)
    if not mark:
        return members, f"the shard is cut after {last}, at byte {size}: its end mark is missing"
    if len(mark) < BLOCK or any(mark):
        return members, f"the shard is damaged after {last}, at byte {end}: what follows is no tar header"
    return members, None


def _file(opened: Any, shard: str, member: tarfile.TarInfo) -> File:
    def read() -> bytes:
        opened.seek(member.offset_data)
        return opened.read(member.size)

    extension = split_name(member.name)[1]
    return File(extension, member_uri(shard, member.offset_data, member.size, extension), read)
