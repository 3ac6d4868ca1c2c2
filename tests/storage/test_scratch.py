"""Temporary files are this user's; those of a killed process go, those of a living one stay."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmray.errors import StorageError
from mmray.storage.scratch import kept, scratch, scratch_folder

HOLD = """
import sys
from mmray.storage.scratch import scratch
open(f"{scratch()}/copy.mp4", "w").close()
print(scratch(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_by_the_next(temporary):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    killed, living = (Path(process.stdout.readline().decode().strip()) for process in processes)  # pyright: ignore
    try:
        assert (killed / "copy.mp4").exists()
        processes[0].kill()
        processes[0].wait()
        own = Path(scratch())
        assert not killed.exists()
        assert (living / "copy.mp4").exists()
        assert own.parent == living.parent == temporary / f"mmray-{os.getuid()}"
    finally:
        processes[1].kill()
        processes[1].wait()


def test_no_other_user_reads_or_writes_them(temporary):
    with scratch_folder() as folder:
        for path in (Path(folder), Path(scratch()), Path(scratch()).parent, Path(kept("weights"))):
            assert path.stat().st_mode & 0o077 == 0
    assert not Path(folder).exists()


def test_a_folder_that_is_not_this_users_is_refused(temporary):
    (temporary / "theirs").mkdir()
    (temporary / f"mmray-{os.getuid()}").symlink_to(temporary / "theirs")
    with pytest.raises(StorageError, match="is not a folder of this user alone"):
        scratch()
