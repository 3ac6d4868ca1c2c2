"""Two drivers on one output: the second is told who the first is; a killed one leaves no lock behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from mmray.errors import LockedError
from mmray.storage import lock
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked

HOLD = """
import sys
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked
with locked(Storage(), sys.argv[1], "extract"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return request.getfixturevalue("s3").uri(f"lock-{uuid.uuid4().hex}")


@pytest.fixture
def other(output):
    """Another process that holds the lock of the output."""
    command = [sys.executable, "-c", HOLD, output]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def refusal(output: str) -> str:
    with pytest.raises(LockedError) as caught, locked(Storage(), output, "train"):
        pass
    assert caught.value.exit_code == 75
    return str(caught.value)


def test_the_second_driver_is_told_who_the_first_is(output, other):
    told = refusal(output)
    assert f"{output}: another mmray is at work on this output" in told
    assert f"mmray extract, process {other.pid} on {socket.gethostname()}, since 20" in told


def test_a_killed_driver_leaves_no_lock_behind(output, other):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with locked(Storage(), output, "train"):
        assert f"mmray train, process {os.getpid()}" in refusal(output)


def test_a_driver_that_ended_leaves_none_either(output, other):
    other.communicate("")
    assert other.returncode == 0
    with locked(Storage(), output, "train"), locked(Storage(), f"{output}-2", "train"):
        pass
    with locked(Storage(), output, "train"):
        pass


def test_a_fault_in_the_work_gives_it_back(output):
    with pytest.raises(ZeroDivisionError), locked(Storage(), output, "train"):
        raise ZeroDivisionError
    with locked(Storage(), output, "train"):
        pass


@pytest.fixture
def elsewhere(s3) -> tuple[str, Callable[[], None]]:
    """An output whose lock a process on another machine holds."""
    name = f"lock-{uuid.uuid4().hex}"
    holder = {"stage": "tune", "host": "far-away", "pid": 7, "job": "raysubmit_x", "since": "then"}

    def beat() -> None:
        s3.client().put_object(Bucket=s3.bucket, Key=f"{name}/.lock", Body=json.dumps(holder).encode())

    beat()
    return s3.uri(name), beat


def test_another_machines_lock_holds_as_long_as_it_is_put_again(elsewhere, monkeypatch):
    output, _ = elsewhere
    told = refusal(output)
    assert "mmray tune, process 7, job raysubmit_x on far-away, since then" in told
    assert re.search(r"if it was killed, its lock ends in (\d+) s", told)
    monkeypatch.setattr(lock, "LEASE_S", 0.0)
    with locked(Storage(), output, "train"):
        monkeypatch.undo()
        assert f"process {os.getpid()}" in refusal(output)


def test_a_held_lock_is_put_again_and_again(s3, monkeypatch):
    name = f"lock-{uuid.uuid4().hex}"
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    puts: list[dict] = []
    put = lock._put

    def counted(*arguments, **condition):
        puts.append(condition)
        return put(*arguments, **condition)

    monkeypatch.setattr(lock, "_put", counted)
    with locked(Storage(), s3.uri(name), "extract"):
        while len(puts) < 4:
            pass
    assert puts[0] == {"IfNoneMatch": "*"}
    assert all(condition.keys() == {"IfMatch"} for condition in puts[1:])


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path):
    from mmray.errors import StorageError

    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), locked(Storage(), f"{tmp_path}/file/out", "train"):
        pass
