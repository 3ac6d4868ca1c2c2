"""A function call that may crash, hang or eat memory → its result, or the reason why it has none.

Decoders are C code fed with strangers' bytes. So they are called in a child process, one file at a time,
and the parent watches: a child that dies, takes too long or grows too much is killed and costs the one
call it was busy with; the next call starts another.

    parent   request ──pickle──▶ child   imports once, then answers many calls
             answer  ◀─pickle───         large arrays in memory that both share: pixels are copied once

- The child is a fresh interpreter: a fork of a process with threads (Ray's, torch's) may deadlock.
- Memory is what the child holds of its own (resident, without mapped files), read from /proc every
  `WATCH_S`. Limits of the kernel were rejected: RLIMIT_AS counts reservations, and where RLIMIT_DATA
  makes an allocation fail, C code answers with any fault, a segmentation fault included. Other systems
  than Linux have no such limit here.
- A crash or an overrun is taken as the file's property: it is not tried again.
- The child never outlives its parent: its pipe ends, and in the midst of a call the kernel kills it
  (PR_SET_PDEATHSIG; prctl(2)). What it may have started is of its process group, and is killed with it.
"""

import contextlib
import ctypes
import importlib
import itertools
import mmap
import os
import pickle
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mmray.errors import MediaError

__all__ = ["Sandbox"]

MB = 2**20
WATCH_S = 0.01
"""Between two looks at a busy child: what memory can grow by unseen, at some GB/s, is tens of MB."""
START_S = 300.0
"""A child that has not begun by then never will."""
END_S = 0.1
"""A child whose pipe has ended may take this long to end itself."""
PIPE_BYTES = 4 * MB
SHARED_BYTES = MB // 4
"""Arrays that have so much together travel in shared memory, an open file until they are let go."""
ALIGNED_BYTES = 64
PR_SET_PDEATHSIG = 1
P = ParamSpec("P")
R = TypeVar("R")


class Sandbox:
    """Calls functions in a child process, which the first call starts.

    Not for use by several threads at once.

    Args:
        timeout_s: A call may take this long; None: for ever.
        memory_mb: A call may add this much to the child's memory, MiB; None: without limit.
        threads: The child's numerical libraries (OpenMP) use this many.

    """

    def __init__(self, *, timeout_s: float | None = None, memory_mb: int | None = None, threads: int = 1):
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.threads = threads
        self._child: _Child | None = None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(*args, **kwargs)`, computed in the child.

        The function must be importable there by its module and name; arguments and result are pickled.

        Raises:
            MediaError: what the function raised; `decoder_crashed`, `decoder_timed_out` or
                `decoder_out_of_memory` where there is no answer.
            RuntimeError: where the function raised anything else (with its traceback), or where the child
                does not even start.

        """
        child = self._ready(function.__module__)
        try:
            _send(child.pipe, (function, args, kwargs))
            self._watch(child)
            kind, value = _receive(child.pipe)
        except (EOFError, ConnectionError):
            raise MediaError("decoder_crashed", child.end()) from None
        except BaseException:
            child.end()  # it is still busy with a call whose answer nobody awaits
            raise
        if kind == "result":
            return value
        if kind == "fault":
            raise value
        raise RuntimeError(f"in the decoding process: {value}")

    def close(self) -> None:
        """End the child; another call starts another."""
        if self._child:
            self._child.end()

    def usage(self) -> tuple[float, int]:
        """CPU seconds and peak bytes of the child that is there; of none, zeros. Linux only."""
        child = self._child
        return child.usage() if child and child.alive() and sys.platform == "linux" else (0.0, 0)

    def _ready(self, module: str) -> "_Child":
        """A child that waits for a call, and holds no more than one call may leave behind."""
        child = self._child
        if child and child.alive() and self.memory_mb and child.memory() - child.idle > self.memory_mb * MB:
            child.end()
        if child is None or not child.alive():
            child = self._child = _Child(module, self.threads)
        return child

    def _watch(self, child: "_Child") -> None:
        """Return when there is an answer or an end; raise MediaError where a limit is passed."""
        before = child.memory()
        deadline = time.monotonic() + (self.timeout_s or float("inf"))
        while not child.answers(WATCH_S):
            if time.monotonic() > deadline:
                raise MediaError("decoder_timed_out", f"no end after {self.timeout_s:g} s")
            if self.memory_mb and child.memory() - before > self.memory_mb * MB:
                raise MediaError("decoder_out_of_memory", f"more than {self.memory_mb} MiB")


class _Child:
    """The process and its pipe; made when it has imported `module` and waits for calls."""

    def __init__(self, module: str, threads: int):
        self.pipe, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
        self._poller = select.poll()
        self._poller.register(self.pipe, select.POLLIN)
        # With the parent's import path, so that it finds what the parent found.
        arguments = (theirs.fileno(), os.getpid(), module)
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve(*{arguments})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=2,  # a decoder's chatter is no output of ours
            process_group=0,
        )
        theirs.close()
        statm = f"/proc/{self.process.pid}/statm"  # proc(5)
        self._statm = os.open(statm, os.O_RDONLY) if sys.platform == "linux" else None
        try:
            if not self.answers(START_S):
                raise RuntimeError(f"the decoding process is not ready after {START_S:g} s")
            _receive(self.pipe)
        except (EOFError, ConnectionError):
            raise RuntimeError(f"the decoding process does not start: {self.end()}") from None
        except BaseException:
            self.end()
            raise
        self.idle = self.memory()

    def answers(self, wait_s: float) -> bool:
        """Whether, within that time, it begins an answer or ends."""
        return bool(self._poller.poll(1000 * wait_s))

    def alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> int:
        """Bytes it holds of its own: resident, without what it maps from files or shares."""
        if self._statm is None:
            return 0
        try:
            _, resident, shared, *_ = map(int, os.pread(self._statm, 200, 0).split())
        except ProcessLookupError:
            return 0
        return (resident - shared) * resource.getpagesize()

    def usage(self) -> tuple[float, int]:
        """CPU seconds, and the most bytes it was resident with (proc(5): stat, status)."""
        folder = Path(f"/proc/{self.process.pid}")
        try:
            user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
            peak = re.search(r"VmHWM:\s*(\d+) kB", (folder / "status").read_text())
        except ProcessLookupError:
            return 0.0, 0
        ticks = int(user) + int(system)
        return ticks / os.sysconf("SC_CLK_TCK"), int(peak[1]) * 1024 if peak else 0

    def end(self) -> str:
        """Kill it where it does not end with its pipe; how it ended."""
        self.pipe.close()
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of its group, where any is left
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def serve(handle: int, parent: int, module: str) -> None:
    """The child's life: answer calls from the pipe until it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module(module)
    pipe = socket.socket(fileno=handle)
    _send(pipe, "ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            _send(pipe, _answer(*_receive(pipe)))


def _answer(function: Callable, args: tuple, kwargs: dict) -> tuple[str, Any]:
    try:
        return "result", function(*args, **kwargs)
    except MediaError as error:
        return "fault", error
    except MemoryError:
        return "fault", MediaError("decoder_out_of_memory", "an allocation was refused")
    except Exception:  # noqa: BLE001 - a defect: it ends the parent's call, told in full
        return "defect", traceback.format_exc()


def _send(pipe: socket.socket, message: object) -> None:
    """How many parts, whether arrays are shared, the sizes in bytes; a pickle; the arrays it refers to."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [array.raw() for array in arrays]
    sizes = [len(head), *(part.nbytes for part in parts)]
    shared = sum(sizes[1:]) >= SHARED_BYTES and hasattr(os, "memfd_create")
    pipe.sendall(struct.pack(f"=QQ{len(sizes)}Q", len(sizes), shared, *sizes))
    pipe.sendall(head)
    if not shared:
        for part in parts:
            pipe.sendall(part)
        return
    file = os.memfd_create("arrays")
    try:
        for part, place in zip(parts, _places(sizes[1:])):
            written = 0
            while written < part.nbytes:
                written += os.pwrite(file, part[written:], place + written)
        socket.send_fds(pipe, [b"\0"], [file])
    finally:
        os.close(file)


def _receive(pipe: socket.socket) -> Any:
    count, shared = struct.unpack("=QQ", _read(pipe, 16))
    sizes = struct.unpack(f"={count}Q", _read(pipe, 8 * count))
    head = _read(pipe, sizes[0])
    if not shared:
        return pickle.loads(head, buffers=[_read(pipe, size) for size in sizes[1:]])
    data, files, _, _ = socket.recv_fds(pipe, 1, 1)
    if not data:
        raise EOFError
    places = _places(sizes[1:])
    try:
        memory = memoryview(mmap.mmap(files[0], places[-1]))  # goes with the last array in it
    finally:
        os.close(files[0])
    return pickle.loads(head, buffers=[memory[at : at + size] for at, size in zip(places, sizes[1:])])


def _places(sizes: Sequence[int]) -> list[int]:
    """Where each of the arrays begins in shared memory, and where the last ends."""
    begins = [0, *itertools.accumulate(-(-size // ALIGNED_BYTES) * ALIGNED_BYTES for size in sizes[:-1])]
    return [*begins, begins[-1] + sizes[-1]]


def _read(pipe: socket.socket, size: int) -> bytearray:
    data, at = bytearray(size), 0
    while at < size:
        received = pipe.recv_into(memoryview(data)[at:])
        if not received:
            raise EOFError
        at += received
    return data
