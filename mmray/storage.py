"""A path, local or `s3://` → one filesystem interface; atomic writes; media as local files.

fsspec serves both kinds (s3fs underneath), so nothing above this module asks where a path is. Keys
never pass through here: s3fs takes them from the environment or the named profile. A write is whole or
absent: locally a rename, on S3 the put itself; files are therefore also markers of finished work.
"""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmray.config import StorageConfig
from mmray.errors import MediaError, StorageError

if TYPE_CHECKING:
    import fsspec
    import pyarrow.fs

__all__ = ["SCHEMES", "Storage", "absolute", "join", "parent", "scheme_of"]

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


def absolute(uri: str) -> str:
    """A local path made absolute (workers have other working directories); s3:// as it is."""
    if scheme_of(uri) == "s3":
        return uri
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


@dataclass(frozen=True)
class Storage:
    """Reads and writes by URI. Holds only the config, so it travels to workers as it is.

    Every method takes a URI: a path, `file://…` or `s3://bucket/key`.

    Raises:
        StorageError: where storage refuses, with the path and what to check.

    """

    config: StorageConfig = field(default_factory=StorageConfig)

    def filesystem(self, uri: str) -> "tuple[fsspec.AbstractFileSystem, str]":
        """The fsspec filesystem of `uri` and the path inside it."""
        import fsspec

        scheme = scheme_of(uri)
        if scheme not in SCHEMES:
            raise StorageError(f"{uri}: unknown scheme {scheme!r}; use a local path or s3://")
        if scheme != "s3":
            return fsspec.filesystem("file"), absolute(uri)
        try:
            return fsspec.filesystem("s3", **self._s3_options()), uri.removeprefix("s3://")
        except Exception as error:
            raise StorageError(f"{uri}: cannot reach S3: {error}") from error

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
                Path(temporary).write_bytes(data)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def read_json(self, uri: str) -> Any:
        """A JSON file's content, or None where there is no such file."""
        try:
            return json.loads(self.read(uri))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def write_json(self, uri: str, value: Any) -> None:
        """`value` as a readable JSON file, whole or not at all."""
        self.write(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

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
        """Names of the entries directly below `folder`; empty where it does not exist."""
        with self.faults(folder):
            filesystem, path = self.filesystem(folder)
            try:
                entries = filesystem.ls(path, detail=False, refresh=True)
            except FileNotFoundError:
                return set()
            return {name for entry in entries if (name := entry.rstrip("/").rpartition("/")[2])}

    def copy_down(self, uri: str, folder: str) -> str:
        """A folder of storage as a local folder: `uri` itself where it is local, else a copy."""
        if scheme_of(uri) != "s3":
            return absolute(uri)
        with self.faults(uri):
            filesystem, path = self.filesystem(uri)
            filesystem.get(path.rstrip("/") + "/", folder.rstrip("/") + "/", recursive=True)
        return folder

    @contextlib.contextmanager
    def media(self, uri: str) -> Iterator[str]:
        """The file as a local path, for decoders: itself where it is local, else a temporary copy.

        Raises:
            MediaError: `missing_file` or `fetch_failed`.

        """
        try:
            filesystem, path = self.filesystem(uri)
        except StorageError as error:
            raise MediaError("fetch_failed", str(error)) from error
        if scheme_of(uri) != "s3":
            if not os.path.exists(path):
                raise MediaError("missing_file", uri)
            yield path
            return
        suffix = os.path.splitext(path)[1]
        with tempfile.NamedTemporaryFile(prefix="mmray-", suffix=suffix) as copy:
            try:
                filesystem.get_file(path, copy.name)
            except FileNotFoundError:
                raise MediaError("missing_file", uri) from None
            except Exception as error:
                raise MediaError("fetch_failed", f"{uri}: {_first_line(error)}") from error
            yield copy.name

    def _s3_options(self) -> dict[str, Any]:
        config = self.config
        client: dict[str, Any] = {"region_name": config.region} if config.region else {}
        endpoint = (
            config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        return {
            "anon": config.anonymous,
            "profile": config.profile,
            "endpoint_url": endpoint,
            "client_kwargs": client,
            "config_kwargs": {
                "retries": {"max_attempts": config.max_attempts, "mode": "standard"},
                "connect_timeout": 10,
                "read_timeout": 60,
            },
            "use_listings_cache": False,
        }

    @contextlib.contextmanager
    def faults(self, uri: str) -> Iterator[None]:
        """Storage's own errors as ours, with the path and what to check."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{uri}: no such file or bucket") from error
        except PermissionError as error:
            hint = (
                "; check the keys (AWS_ACCESS_KEY_ID, …), storage.profile and the bucket's policy"
                if scheme_of(uri) == "s3"
                else ""
            )
            raise StorageError(f"{uri}: access denied ({_first_line(error)}){hint}") from error
        except Exception as error:
            if not _from_storage(error):
                raise
            where = f" at {endpoint}" if (endpoint := self._s3_options()["endpoint_url"]) else ""
            hint = (
                f"; check the keys, storage.endpoint_url and the network{where}"
                if scheme_of(uri) == "s3"
                else ""
            )
            raise StorageError(f"{uri}: {_first_line(error)}{hint}") from error


def _from_storage(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
        "aiobotocore",
        "aiohttp",
        "botocore",
        "s3fs",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
