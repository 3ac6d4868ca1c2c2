"""Temporary files below a folder of this user; what killed processes left there is removed.

$TMPDIR/mmray-UID/            this user's alone: made so, or refused
process-XXXX/             of one process (or table-KEY, of several), which holds an flock(2) on the `.lock`
in it while it lives weights/                  copies that are kept
"""

import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from mmray.errors import StorageError

__all__ = ["kept", "scratch", "scratch_folder", "shared_scratch"]

PREFIX = "process-"
SHARED = "process-table-"
YOUNG_S = 60.0
"""A folder without a lock is one that is being made, for so long."""


def kept(name: str) -> str:
    """A folder of this user for copies that are kept from run to run."""
    folder = os.path.join(_home(tempfile.gettempdir()), name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def shared_scratch(key: str) -> str:
    """Where a folder for several processes goes, each of which must hold a shared lock on the `.lock` in
    it.
    """
    return os.path.join(_home(tempfile.gettempdir()), f"{SHARED}{key}")


def scratch() -> str:
    """The folder of this process, which goes when it ends, or after that."""
    return _of_process(tempfile.gettempdir(), os.getpid())[0]


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder in it for as long as the block runs."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        yield folder


@functools.lru_cache
def _of_process(temporary: str, pid: int) -> tuple[str, IO[bytes]]:
    home = _home(temporary)
    _sweep(home)
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=home)
    lock = open(f"{folder}/.lock", "wb")  # noqa: SIM115  # open as long as the process is
    with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


def _home(temporary: str) -> str:
    """This user's folder.

    Raises:
        StorageError: where something of that name belongs to another user, who could change what is in it.
    """
    folder = os.path.join(temporary, f"mmray-{os.getuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {(error.strerror or str(error)).lower()}; set TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StorageError(f"{folder}: is not a folder of this user alone; remove it, or set TMPDIR")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)
    return folder


def _sweep(home: str) -> None:
    """Remove the folders of processes that are gone: whose lock is free."""
    for name in os.listdir(home):
        folder = os.path.join(home, name)
        if name.startswith(PREFIX) and _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: str) -> bool:
    try:
        with open(f"{folder}/.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return time.time() - os.lstat(folder).st_mtime > YOUNG_S
        return False
    except OSError:  # held, or not to be told
        return False
