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

from mmray.config import Config, FramesFeature, ImportedFeature, StorageConfig, TextFeature, override
from mmray.errors import MediaError, StorageError

if TYPE_CHECKING:
    import fsspec
    import pyarrow.fs

__all__ = ["SCHEMES", "Storage", "absolute", "absolute_paths", "join", "parent", "scheme_of"]

SCHEMES = ("", "file", "s3")

# s3fs repeats whole calls, each of which botocore repeats already; only a body cut off needs it.
BODY_ATTEMPTS = 2


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


def absolute_paths(config: Config) -> Config:
    """Local paths of a config made absolute: a worker's working directory is another.

    Weights and models are paths where there is such a file or folder, else names.
    """
    paths = {"output": config.output, "samples.manifest": config.samples.manifest}
    for name, feature in config.features.items():
        if isinstance(feature, FramesFeature) and os.path.exists(os.path.expanduser(feature.weights)):
            paths[f"features.{name}.weights"] = feature.weights
        if isinstance(feature, TextFeature) and os.path.exists(os.path.expanduser(feature.model)):
            paths[f"features.{name}.model"] = feature.model
        if isinstance(feature, ImportedFeature) and feature.path:
            paths[f"features.{name}.path"] = feature.path
    return override(config, {dotted: absolute(path) for dotted, path in paths.items()})


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
        if "\0" in uri:
            raise StorageError(f"{uri!r}: a path cannot hold a null character")
        if scheme != "s3":
            return fsspec.filesystem("file"), absolute(uri)
        endpoint = self._endpoint_url()
        if endpoint and not endpoint.startswith(("http://", "https://")):
            setting = "storage.endpoint_url" if self.config.endpoint_url else "AWS_ENDPOINT_URL"
            raise StorageError(f"{uri}: {setting} is {endpoint!r}; it must start with http:// or https://")
        filesystem = fsspec.filesystem("s3", **self._s3_options())
        filesystem.retries = BODY_ATTEMPTS
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
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        except ValueError as error:
            raise StorageError(f"{uri}: not valid JSON: {error}") from error

    def write_json(self, uri: str, value: Any) -> None:
        """`value` as a readable JSON file, whole or not at all."""
        self.write(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def require_writable(self, folder: str) -> None:
        """Write an empty file below `folder` and remove it."""
        probe = f"{folder}/.mmray-write-check"
        self.write(probe, b"")
        with self.faults(probe):
            filesystem, path = self.filesystem(probe)
            filesystem.rm_file(path)

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

    @contextlib.contextmanager
    def media(self, uri: str) -> Iterator[str]:
        """The file as a local path, for decoders: itself where it is local, else a temporary copy.

        Raises:
            MediaError: `missing_file` or `fetch_failed`.

        """
        with contextlib.ExitStack() as stack:
            try:
                with self.faults(uri):
                    filesystem, path = self.filesystem(uri)
                    if scheme_of(uri) == "s3":
                        suffix = os.path.splitext(path)[1]
                        copy = stack.enter_context(
                            tempfile.NamedTemporaryFile(prefix="mmray-", suffix=suffix)
                        )
                        filesystem.get_file(path, copy.name)
                        path = copy.name
                    else:
                        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise MediaError("missing_file", uri) from error
                raise MediaError("fetch_failed", str(error)) from error
            yield path

    def _endpoint_url(self) -> str | None:
        environment = os.environ
        return (
            self.config.endpoint_url
            or environment.get("AWS_ENDPOINT_URL_S3")
            or environment.get("AWS_ENDPOINT_URL")
        )

    def _s3_options(self) -> dict[str, Any]:
        config = self.config
        return {
            "anon": config.anonymous,
            "profile": config.profile,
            "endpoint_url": self._endpoint_url(),
            "client_kwargs": {"region_name": config.region} if config.region else {},
            "config_kwargs": {
                "retries": {"total_max_attempts": config.max_attempts, "mode": "standard"},
                "connect_timeout": 5,
                "read_timeout": 30,
            },
            "use_listings_cache": False,
        }

    @contextlib.contextmanager
    def faults(self, uri: str) -> Iterator[None]:
        """Storage's own errors as ours, with the path and what to check."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StorageError) or not _from_storage(error):
                raise
            explained = self._explain_s3(error) if scheme_of(uri) == "s3" else _explain_local(error)
            raise StorageError(f"{uri}: {explained}") from error

    def _explain_s3(self, error: Exception) -> str:
        from botocore.exceptions import NoCredentialsError, ParamValidationError, ProfileNotFound

        fault = _one_line(error)
        if isinstance(error, FileNotFoundError):
            return "no such file or bucket"
        if isinstance(error, PermissionError):
            return f"access denied ({fault}); check the keys, storage.profile and the bucket's policy"
        if isinstance(error, NoCredentialsError):
            return "no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile"
        if isinstance(error, ProfileNotFound | ParamValidationError):
            return fault
        return f"{fault}; check storage.endpoint_url ({self._endpoint_url() or 'AWS'}) and the network"


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
