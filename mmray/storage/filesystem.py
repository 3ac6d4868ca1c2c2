"""A path, local or `s3://` → one filesystem interface; atomic writes; media as local files.

fsspec serves both kinds (s3fs underneath), so nothing above this module asks where a path is. Keys
never pass through here: s3fs takes them from the environment or the named profile. A write is whole or
absent: locally a rename, on S3 the put itself; files are therefore also markers of finished work.
"""

import contextlib
import errno
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmray.config import StorageConfig
from mmray.errors import MediaError, StorageError, UnreachableError
from mmray.storage import faults as s3
from mmray.storage.cells import read_cell
from mmray.storage.local import files_below
from mmray.storage.scratch import scratch
from mmray.storage.strict_json import dumps
from mmray.storage.uris import (
    SCHEMES,
    Cell,
    Span,
    absolute,
    cell_of,
    has_password,
    scheme_of,
    span_of,
    without_password,
)

if TYPE_CHECKING:
    import fsspec
    import pyarrow.fs

__all__ = ["Storage"]

# s3fs repeats whole calls, each of which botocore repeats already; only a body cut off needs it.
BODY_ATTEMPTS = 2
COPIED_BYTES = 2**20


def _copy_span(path: str, span: Span, file: IO[bytes]) -> None:
    """A member of a local archive into `file`, in pieces; less of it where the archive ends."""
    with open(path, "rb") as whole:
        whole.seek(span.offset)
        left = span.size or 0
        while data := whole.read(min(left, COPIED_BYTES)):
            file.write(data)
            left -= len(data)
    file.flush()


def _require_file(path: str) -> None:
    """Raise what opening raises, without waiting, and for what is no file: a pipe, a device, a folder."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
    finally:
        os.close(opened)


@dataclass(frozen=True)
class Storage:
    """Reads and writes by URI. Holds only the config, so it travels to workers as it is.

    Every method takes a URI: a path, `file://…` or `s3://bucket/key`.

    Raises:
        StorageError: where storage refuses, with the path and what to check.

    """

    config: StorageConfig = field(default_factory=StorageConfig)
    _read_from: set[str] = field(default_factory=set, init=False, compare=False, repr=False)
    """Buckets that gave an object."""

    @property
    def has_read(self) -> bool:
        """Whether some bucket gave this process an object, so that its keys are not all refused."""
        return bool(self._read_from)

    def filesystem(
        self, uri: str, max_attempts: int | None = None
    ) -> "tuple[fsspec.AbstractFileSystem, str]":
        """The fsspec filesystem of `uri` and the path inside it; tries as often as the config says."""
        import fsspec

        _require_possible(uri)
        if scheme_of(uri) != "s3":
            return fsspec.filesystem("file"), absolute(uri)
        endpoint = s3.endpoint_url(self.config)
        if endpoint and not endpoint.startswith(("http://", "https://")):
            setting = "storage.endpoint_url" if self.config.endpoint_url else "AWS_ENDPOINT_URL"
            raise StorageError(f"{uri}: {setting} is {endpoint!r}; it must start with http:// or https://")
        max_attempts = max_attempts or self.config.max_attempts
        filesystem = fsspec.filesystem("s3", **s3.options(self.config, max_attempts))
        filesystem.retries = min(BODY_ATTEMPTS, max_attempts)
        return filesystem, uri.removeprefix("s3://")

    def arrow(self, uri: str) -> "tuple[pyarrow.fs.FileSystem, str]":
        """The same as a pyarrow filesystem, as Ray Train and Ray Tune take it."""
        from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

        if scheme_of(uri) != "s3":
            return LocalFileSystem(), absolute(uri)
        filesystem, path = self.filesystem(uri)
        return PyFileSystem(FSSpecHandler(filesystem)), path

    def read(self, uri: str) -> bytes:
        """All bytes of a file."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            return bytes(filesystem.cat_file(path))  # pyright: ignore[reportArgumentType]

    def write(self, uri: str, data: bytes) -> None:
        """A file with these bytes, whole or not at all; replaces an older one."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            if scheme_of(uri) == "s3":
                filesystem.pipe_file(path, data)
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{uuid.uuid4().hex}.tmp"
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())  # a crashed machine must not keep the name and lose the bytes
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def read_json(self, uri: str) -> Any:
        """A JSON file's content, or None where there is no such file."""
        try:
            return json.loads(self.read(uri))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
        except ValueError as error:
            raise StorageError(f"{uri}: not valid JSON: {error}") from error

    def write_json(self, uri: str, value: Any) -> None:
        """`value` as a readable JSON file, whole or not at all."""
        self.write(uri, (dumps(value, indent=2) + "\n").encode())

    def remove(self, uri: str) -> None:
        """Remove a file; one that is not there is removed already."""
        with self.faults(uri), contextlib.suppress(FileNotFoundError):
            filesystem, path = self.filesystem(uri)
            filesystem.rm_file(path)

    def require_writable(self, folder: str) -> None:
        """Write an empty file below `folder` and remove it."""
        probe = f"{folder}/.mmray-write-check"
        self.write(probe, b"")
        with self.faults(probe):
            filesystem, path = self.filesystem(probe)
            filesystem.rm_file(path)

    def infos(self, uri: str, *, pattern: bool = False) -> dict[str, dict[str, Any]]:
        """{URI: {size, mtime or ETag, …}} of a file, or of the files a pattern with * and ? fits, sorted."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            if pattern:
                found: Any = filesystem.glob(path, detail=True)
            else:
                try:
                    found = {path: filesystem.info(path)}
                except FileNotFoundError:
                    found = {}
        return _files(uri, found)

    def find(self, folder: str) -> dict[str, dict[str, Any]]:
        """The same of all files below a folder, without hidden ones; empty where there is no such folder.

        Of a local folder also, with another `type` than `file`, what is below it and no file to be read
        (`files_below`).
        """
        with self.faults(folder):
            filesystem, path = self.filesystem(folder)
            if scheme_of(folder) != "s3":
                return files_below(path) if os.path.isdir(path) else {}
            found: Any = filesystem.find(path, detail=True)
        base = len(path.rstrip("/")) + 1
        shown = {file: info for file, info in found.items() if "/." not in f"/{file[base:]}"}
        return _files(folder, shown)

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            return filesystem.exists(path)

    def size(self, uri: str) -> int:
        """Bytes of a file."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            return int(filesystem.size(path) or 0)

    def names(self, folder: str) -> set[str]:
        """Names of the entries directly below `folder`; empty where there is no such folder."""
        with self.faults(folder):
            filesystem, path = self.filesystem(folder)
            try:
                entries = filesystem.ls(path, detail=False, refresh=True)
            except FileNotFoundError:
                return set()
            folder_itself = path.rstrip("/")  # listed where it is a file
            below = {entry.rstrip("/") for entry in entries} - {folder_itself}
            return {entry.rpartition("/")[2] for entry in below}

    def copy_down(self, uri: str, folder: str) -> str:
        """A folder of storage as a local folder: `uri` itself where it is local, else a copy."""
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            if scheme_of(uri) != "s3":
                os.scandir(path).close()  # raises where it is not a readable folder
                return path
            above = path.rstrip("/") + "/"
            files = [file for file in filesystem.find(path) if file.startswith(above)]
            if not files:
                raise FileNotFoundError(path)
            # Lists, because a single path would be expanded as a pattern.
            filesystem.get(files, [f"{folder.rstrip('/')}/{file.removeprefix(above)}" for file in files])
        return folder

    def copy_file(self, uri: str, path: str) -> None:
        """A file of storage to a local path, whose folder is made."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with self.faults(uri):
            filesystem, source = self.filesystem(uri)
            filesystem.get_file(source, path)

    @contextlib.contextmanager
    def media(self, uri: str) -> Iterator[str]:
        """The file as a local path, for decoders: itself where it is local, else a temporary copy.

        Raises:
            MediaError: `missing_file` or `fetch_failed`, with the number of attempts.
            StorageError: where no other file could be fetched either: the keys are refused.

        """
        with contextlib.ExitStack() as stack:
            span = span_of(uri)
            cell = cell_of(uri)
            if (cell or span.size is not None) and self._is_file(uri):
                span, cell = Span(uri, 0, None, os.path.splitext(uri)[1]), None
            if cell:
                yield stack.enter_context(self._cell(uri, cell))
                return
            on_s3 = scheme_of(span.uri) == "s3"
            try:
                _require_possible(span.uri)
                path = absolute(span.uri)
                if not on_s3:
                    with self.faults(uri):
                        _require_file(path)
            except StorageError as error:
                missing = isinstance(error.__cause__, FileNotFoundError)
                reason, detail = ("missing_file", uri) if missing else ("fetch_failed", str(error))
                raise MediaError(reason, detail) from error
            if on_s3 or span.size is not None:
                copy = stack.enter_context(tempfile.NamedTemporaryFile(dir=scratch(), suffix=span.suffix))
                if on_s3:
                    self._fetch(uri, span, copy)
                else:
                    self._cut(uri, path, span, copy)
                if span.size not in (None, copy.tell()):
                    raise MediaError(
                        "fetch_failed", f"{uri}: the archive ends after {copy.tell()} of its bytes"
                    )
                path = copy.name
            yield path

    def _cut(self, uri: str, path: str, span: Span, file: IO[bytes]) -> None:
        """A member of a local archive into `file`; raises as `media`."""
        try:
            with self.faults(uri):
                _copy_span(path, span, file)
        except StorageError as error:
            if s3.verdict(error.__cause__) == "stop":
                raise
            raise MediaError("fetch_failed", str(error)) from error

    @staticmethod
    def _is_file(uri: str) -> bool:
        """Whether a local file is called like a place in another."""
        return scheme_of(uri) != "s3" and "\0" not in uri and os.path.lexists(absolute(uri))

    @contextlib.contextmanager
    def _cell(self, uri: str, cell: Cell) -> Iterator[str]:
        """A medium inside a Parquet file as a temporary file; raises as `media`."""
        import pyarrow as pa

        try:
            with self.faults(uri):
                data, name = read_cell(self, cell)
        except StorageError as error:
            if s3.verdict(error.__cause__) == "stop":
                raise
            missing = isinstance(error.__cause__, FileNotFoundError)
            raise MediaError(*(("missing_file", uri) if missing else ("fetch_failed", str(error)))) from error
        except (LookupError, pa.ArrowException, MemoryError) as error:
            raise MediaError("fetch_failed", f"{uri}: {_one_line(error)}") from error
        if data is None:
            raise MediaError("missing_file", f"{uri}: the cell is empty")
        with tempfile.NamedTemporaryFile(dir=scratch(), suffix=os.path.splitext(name or "")[1][:16]) as copy:
            with self.faults(copy.name):
                copy.write(data)
                copy.flush()
            yield copy.name

    def _fetch(self, uri: str, span: Span, file: IO[bytes]) -> None:
        """An object's bytes, or a span of them, into `file`.

        Raises:
            MediaError: `missing_file` or `fetch_failed`, with the number of attempts.
            StorageError: where no object can be read.

        """
        with self.faults(uri):
            filesystem, path = self.filesystem(span.uri, max_attempts=1)
            download = s3.Download(filesystem, path, file, span.offset, span.size)
        for attempt in s3.attempts(self.config.max_attempts, self.config.retry_wait_s):
            try:
                with self.faults(uri):
                    download.go_on()
            except StorageError as error:
                verdict = s3.verdict(error.__cause__)
                if verdict == "missing":
                    raise MediaError("missing_file", uri, attempt) from error
                if verdict == "stop":
                    raise
                if verdict == "denied" and not self._may_read(download.bucket):
                    hint = "the bucket may not be listed either, and none of its objects was read before"
                    raise StorageError(f"{error}; {hint}") from error
                if verdict != "again" or attempt == self.config.max_attempts:
                    raise MediaError("fetch_failed", str(error), attempt) from error
            else:
                self._read_from.add(download.bucket)
                return

    def _may_read(self, bucket: str) -> bool:
        """Whether a refusal is the object's own: others were read, or the bucket can be listed.

        A missing object is refused, too, to keys that may not list.
        """
        if bucket in self._read_from:
            return True
        try:
            self.names(f"s3://{bucket}")
        except StorageError as error:
            return s3.verdict(error.__cause__) not in ("denied", "stop")
        return True

    @contextlib.contextmanager
    def faults(self, uri: str) -> Iterator[None]:
        """Storage's own errors as ours, with the path and what to check."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StorageError) or not _from_storage(error):
                raise
            explained = s3.explain(error, self.config) if scheme_of(uri) == "s3" else _explain_local(error)
            again = scheme_of(uri) == "s3" and s3.verdict(error) == "again"
            raise (UnreachableError if again else StorageError)(f"{uri}: {explained}") from error


def _require_possible(uri: str) -> None:
    if has_password(uri):
        shown = without_password(uri)
        raise StorageError(f"{shown}: keys do not belong in a URI; use the environment or storage.profile")
    if scheme_of(uri) not in SCHEMES:
        raise StorageError(
            f"{without_password(uri)}: unknown scheme {scheme_of(uri)!r}; use a local path or s3://"
        )
    if "\0" in uri:
        raise StorageError(f"{uri!r}: a path cannot hold a null character")


def _files(uri: str, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fsspec's entries that are files, by URI."""
    prefix = "s3://" if scheme_of(uri) == "s3" else ""
    return {f"{prefix}{path}": info for path, info in sorted(found.items()) if info["type"] == "file"}


def _explain_local(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return (getattr(error, "strerror", None) or _one_line(error)).lower()


def _from_storage(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
        "aiobotocore",
        "aiohttp",
        "botocore",
        "s3fs",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
