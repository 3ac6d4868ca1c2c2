"""WebDataset tar shards → rows; a member's URI says where in the shard its bytes are.

Only the headers and the small members (text, labels, JSON) are read, so that every fault is known before
work starts; media are fetched later by their range, each like a file of its own (`Storage.media`).

A tar that was cut off is no error to `tarfile`: it takes a cut between members, or inside a header, for the
end. So the mark that a whole archive ends with (two blocks of zeros, POSIX.1-1988 ustar) is looked for. Nor
does it doubt what a header says of sizes, so every read of it is bounded and every step has to go forwards.
"""

import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, Any, NamedTuple

from mmray.samples.raw import File, RawRow, Reading, medium_of, row_of_files, shown_name
from mmray.storage.filesystem import Storage
from mmray.storage.uris import member_uri, parent, scheme_of

__all__ = ["shard_rows"]

BLOCK = 512
SHARDS_AT_ONCE = 16
READ_AHEAD = 64 * 1024
"""Bytes a look at a header fetches from S3: the small members beside it come along."""
MAX_HEADER = 64 * 1024
"""Bytes of an extended header: names and attributes, no more."""
MAX_LINKS = 16
"""Links that lead to links."""
KINDS = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    b"M": "the rest of a file that begins in another volume",
}


def shard_rows(storage: Storage, shards: Sequence[str], reading: Reading) -> Iterator[RawRow]:
    """A row a sample, in the order of shards and members; a damaged shard ends with a fault that says how.

    Raises:
        StorageError: where a shard cannot be read.

    """
    with ThreadPoolExecutor(min(SHARDS_AT_ONCE, len(shards))) as pool:
        for first in range(0, len(shards), SHARDS_AT_ONCE * 4):  # no more are held than are soon asked for
            some = shards[first : first + SHARDS_AT_ONCE * 4]
            for rows in pool.map(partial(_rows, storage, reading), some):
                yield from rows


def _rows(storage: Storage, reading: Reading, shard: str) -> list[RawRow]:
    """The samples of one shard, and after them its damage if it has any."""
    name, folder = shard.rpartition("/")[2], parent(shard)
    filesystem, path = storage.filesystem(shard)
    options = {"block_size": READ_AHEAD, "cache_type": "readahead"} if scheme_of(shard) == "s3" else {}
    with storage.faults(shard), filesystem.open(path, "rb", **options) as opened:
        size = int(filesystem.size(path) or 0)
        members, damage = _members(opened, size)
        samples: dict[str, list[File]] = {}
        for member in members:
            key, extension = _split_name(member.name)
            samples.setdefault(key, []).append(_file(opened, shard, extension, member))  # pyright: ignore[reportArgumentType]
        rows = []
        for key, files in samples.items():
            row = row_of_files(shown_name(f"{name}: {key}"), key, files, reading, folder)
            fault = row.fault or _misnamed(files, row.values, reading)
            rows.append(row._replace(values={}, fault=fault) if fault else row)
    return [*rows, RawRow(name, {}, fault=damage, damaged=True)] if damage else rows


def _split_name(path: str) -> tuple[str, str]:
    """`./a/clip7.left.jpg` → (`a/clip7`, `left.jpg`), as WebDataset does it."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    stem, _, extension = name.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _misnamed(files: Sequence[File], values: Mapping[str, Any], reading: Reading) -> str | None:
    """Why a sample lacks a medium though it seems to have one: another dot in the name of its file."""
    for file in files:
        medium = medium_of(file.extension.rpartition(".")[2])
        column = reading.media.get(medium) if medium and "." in file.extension else None
        if column and reading.wants(column) and column not in values and not reading.wants(file.extension):
            return (
                f"has no {column}, but {shown_name(file.name)}: in a shard the name of a sample ends at its "
                f"first dot, so that this is a column of its own, {file.extension!a}; rename the members, or "
                f"set samples.columns: {{{medium}: {ascii(file.extension)[1:-1]}}}"
            )
    return None


# ------------------------------------------------------------------------------------ members


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int
    size: int
    fault: str | None = None


class _Headers:
    """An archive of which only headers are read, each no longer than a header is."""

    def __init__(self, opened: IO[bytes]):
        self.opened = opened
        self.tell, self.seek = opened.tell, opened.seek

    def read(self, size: int = -1) -> bytes:
        """Some bytes."""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self.opened.read(size)


def _members(opened: Any, size: int) -> tuple[list[_Member], str | None]:
    """The files of an archive of `size` bytes, and how it is damaged, if it is."""
    members: list[_Member] = []
    links: dict[int, str] = {}
    damage = _scan(opened, size, members, links)
    return _resolved(members, links), damage


def _scan(opened: Any, size: int, members: list[_Member], links: dict[int, str]) -> str | None:
    """Fill in the members, and {the place of a link: what it leads to}; the damage, if there is any."""
    last, end = "its beginning", 0
    try:
        with tarfile.open(fileobj=_Headers(opened), mode="r:") as archive:  # pyright: ignore
            while (member := archive.next()) is not None:
                archive.members.clear()  # tarfile's own memory of them
                last = member.name
                if member.size < 0 or archive.offset <= end:
                    return f"damaged: {shown_name(last)} has an impossible size ({member.size} bytes)"
                end = archive.offset
                is_link = member.islnk() or member.issym()
                stored = 0 if is_link or member.issparse() else member.size
                if member.offset_data + stored > size:
                    cut = _split_name(last)[0]  # a part of a sample is none
                    members[:] = [member for member in members if _split_name(member.name)[0] != cut]
                    return f"the shard is cut inside {shown_name(last)}, at byte {size}"
                if member.isdir() or _is_junk(last):
                    continue
                if is_link:
                    links[len(members)] = _target(member)
                members.append(_Member(last, member.offset_data, member.size, _fault(member)))
    except tarfile.TarError as error:
        told = shown_name(" ".join(str(error).split()))
        if members:
            return f"damaged after {shown_name(last)}: {told}"
        return f"not an uncompressed tar archive ({told})"
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # What tarfile lets through of headers that make no sense: a chain of them, odd numbers.
        return f"damaged after {shown_name(last)}: {type(error).__name__}"
    return _damage_at(opened, end, size, last)


def _damage_at(opened: IO[bytes], end: int, size: int, last: str) -> str | None:
    """What is wrong where an archive ends."""
    opened.seek(end)
    mark = opened.read(2 * BLOCK)
    if not mark[:BLOCK]:
        return f"the shard is cut after {shown_name(last)}, at byte {size}: its end mark is missing"
    if len(mark) < BLOCK or any(mark[:BLOCK]):
        return f"the shard is damaged after {shown_name(last)}, at byte {end}: what follows is no tar header"
    if any(mark[BLOCK:]) or any(opened.read(READ_AHEAD)):
        return (
            f"after its end mark at byte {end} more follows, which tar does not read: were archives joined "
            "with cat? Give them as shards of their own"
        )
    return None


def _is_junk(name: str) -> bool:
    """Whether a member is a hidden file, or what macOS puts beside files."""
    return name.rpartition("/")[2].startswith(".") or "__MACOSX/" in name


def _fault(member: tarfile.TarInfo) -> str | None:
    """Why a member is no file whose bytes lie in the archive as they are."""
    try:
        member.name.encode()
    except UnicodeEncodeError:
        return f"its name ({shown_name(member.name)}) is not UTF-8; pack the shard with names in UTF-8"
    if member.issparse():
        return "is stored without its holes (tar --sparse); pack it without"
    if member.isreg() or member.islnk() or member.issym():
        return None
    return f"is {KINDS.get(member.type, f'a member of type {member.type!a}')}, no file"


def _target(member: tarfile.TarInfo) -> str:
    """The name that a link leads to."""
    folder = posixpath.dirname(member.name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(folder, member.linkname))


def _resolved(members: list[_Member], links: Mapping[int, str]) -> list[_Member]:
    """The members, links being what they lead to; one that leads nowhere has a fault that says so."""
    if not links:
        return members
    places = {posixpath.normpath(member.name): place for place, member in enumerate(members)}
    found = list(members)
    for place, name in links.items():
        at: int | None = place
        for _ in range(MAX_LINKS):
            at = places.get(links[at]) if at in links else at  # pyright: ignore[reportArgumentType]
        if found[place].fault:
            continue
        if at is None or at in links:
            fault = f"is a link to {shown_name(name)}, " + (
                "a link" if at in links else "which is no file of this shard"
            )
            found[place] = found[place]._replace(fault=fault)
        else:
            target = members[at]
            found[place] = target._replace(name=members[place].name)
    return found


def _file(opened: IO[bytes], shard: str, extension: str, member: _Member) -> File:
    def read() -> bytes:
        opened.seek(member.offset)
        return opened.read(member.size)

    uri = member_uri(shard, member.offset, member.size, extension)
    return File(member.name, extension, uri, member.size, read, member.fault)
