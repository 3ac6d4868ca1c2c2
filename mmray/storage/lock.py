"""One driver at a time on an output: the second is refused, and told who the first is.

    local    an flock(2) on `OUTPUT/.lock`, which the kernel gives back when its process ends, however it ends
    s3://    an object `OUTPUT/.lock`, put on condition that there is none, and put again every 20 s; one that
             has not been for 90 s, or whose process on this machine is gone, is taken over

A store that knows no conditional puts cannot refuse, and there the lock is advice.
"""

import contextlib
import fcntl
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, Any, TypeVar, cast

import psutil

from mmray.config import as_config
from mmray.errors import LockedError
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, scheme_of

__all__ = ["holder_of", "locked", "one_driver"]

BEAT_S = 20.0
LEASE_S = 90.0
HELD = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
Stage = TypeVar("Stage", bound=Callable[..., Any])


def one_driver(stage: Stage) -> Stage:
    """A stage (config, …) that holds its output's lock while it runs."""

    @functools.wraps(stage)
    def alone(config: Any, *args: Any, **kwargs: Any) -> Any:
        config = as_config(config)
        with locked(Storage(config.storage), config.output, _command(stage)):
            return stage(config, *args, **kwargs)

    return cast(Stage, alone)


def _command(stage: Callable[..., Any]) -> str:
    """As it is typed: the name of the stage's module."""
    return stage.__module__.rpartition(".")[2].replace("_", "-")


@contextlib.contextmanager
def locked(storage: Storage, output: str, stage: str) -> Iterator[None]:
    """Hold the lock of an output.

    Raises:
        LockedError: where another process holds it, with its stage, host, process and since when.
    """
    uri = f"{output.rstrip('/')}/.lock"
    holder = _Holder.of_here(stage)
    with _lease(storage, uri, holder) if scheme_of(uri) == "s3" else _flock(storage, uri, holder):
        yield


def holder_of(storage: Storage, output: str) -> dict[str, Any] | None:
    """Who holds an output's lock: {stage, host, pid, started, job, since}; None: nobody that is alive.

    Of a holder on another machine whose lock is a local file, it cannot be told whether it is alive.
    """
    uri = f"{output.rstrip('/')}/.lock"
    found = storage.infos(uri)
    if not found:
        return None
    (info,) = found.values()
    holder = _Holder.read(storage.read(uri))
    silent = "LastModified" in info and time.time() - info["LastModified"].timestamp() > LEASE_S
    return None if not holder or holder.is_gone() or silent else dict(holder)


class _Holder(dict[str, Any]):
    """Who holds a lock: {stage, host, pid, started, job, since}."""

    @classmethod
    def of_here(cls, stage: str) -> "_Holder":
        """This process."""
        return cls(
            stage=stage,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            job=os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_JOB_ID"),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    @classmethod
    def read(cls, content: bytes) -> "_Holder":
        """What a lock's content says; where it says nothing, a holder without a name."""
        try:
            found = json.loads(content)
        except ValueError:
            found = {}
        return cls(found if isinstance(found, dict) else {})

    def content(self) -> bytes:
        """As it is written."""
        return json.dumps(self).encode()

    def is_gone(self) -> bool:
        """Whether it ran on this machine and runs no longer."""
        if self.get("host") != socket.gethostname():
            return False
        try:
            return psutil.Process(self["pid"]).create_time() != self["started"]
        except (psutil.Error, KeyError, TypeError, ValueError):
            return True

    def refusal(self, uri: str, more: str = "") -> LockedError:
        """To be raised by the second."""
        job = f", job {self['job']}" if self.get("job") else ""
        who = (
            f"mmray {self.get('stage', '?')}, process {self.get('pid', '?')}{job} on {self.get('host', '?')}"
        )
        return LockedError(
            f"{uri.removesuffix('/.lock')}: another mmray is at work on this output: {who}, since "
            f"{self.get('since', '?')}; wait for it, end it, or give another `output`{more}"
        )


@contextlib.contextmanager
def _flock(storage: Storage, uri: str, holder: _Holder) -> Iterator[None]:
    path = absolute(uri)
    with contextlib.ExitStack() as stack:
        with storage.faults(uri):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file: IO[bytes] = stack.enter_context(open(path, "a+b"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _Holder.read(file.read()).refusal(uri) from None
        except OSError:  # a file system without locks: then it is advice
            pass
        file.truncate(0)
        file.write(holder.content())
        file.flush()
        yield
        file.truncate(0)


@contextlib.contextmanager
def _lease(storage: Storage, uri: str, holder: _Holder) -> Iterator[None]:
    tag = _put(storage, uri, holder, IfNoneMatch="*")
    if tag is None:
        tag = _taken_over(storage, uri, holder)
    ended = threading.Event()

    def beat() -> None:
        current = tag
        while current and not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                current = _put(storage, uri, holder, IfMatch=current)  # None: it is another's now

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.remove(uri)


def _taken_over(storage: Storage, uri: str, holder: _Holder) -> str:
    """The lock of a holder that is gone or silent.

    Raises:
        LockedError: where it is neither, or another process was faster.
    """
    filesystem, path = storage.filesystem(uri)
    with storage.faults(uri):
        info = filesystem.info(path, refresh=True)
        found = _Holder.read(storage.read(uri))
    silent_s = time.time() - info["LastModified"].timestamp()
    if not found.is_gone() and silent_s < LEASE_S:
        left = f"; if it was killed, its lock ends in {LEASE_S - silent_s:.0f} s"
        raise found.refusal(uri, left)
    tag = _put(storage, uri, holder, IfMatch=info["ETag"])
    if tag is None:
        raise _Holder.read(storage.read(uri)).refusal(uri)
    return tag


def _put(storage: Storage, uri: str, holder: _Holder, **condition: str) -> str | None:
    """Put the lock's object on a condition; its ETag, or None where the condition does not hold."""
    from botocore.exceptions import ClientError

    filesystem, path = storage.filesystem(uri)
    bucket, _, key = path.partition("/")
    put: Any = functools.partial(
        cast(Any, filesystem).call_s3, "put_object", Bucket=bucket, Key=key, Body=holder.content()
    )
    with storage.faults(uri):
        try:
            return put(**condition)["ETag"]
        except OSError as error:  # as s3fs words it
            refused = error.__cause__
            code = refused.response["Error"]["Code"] if isinstance(refused, ClientError) else ""
            if code in HELD:
                return None
            if code != "NotImplemented":
                raise
            return put()["ETag"]
