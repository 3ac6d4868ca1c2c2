"""What a project's output says of how far it is; no Ray, nobody is asked."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmray.errors import TableError
from mmray.stages.status import line, status
from mmray.storage.filesystem import Storage
from mmray.storage.lock import locked
from mmray.tables.parts import done_partitions, file_name, read_with_notes, write_partition


def stage_of(found: dict, name: str) -> dict:
    (stage,) = [each for each in found["stages"] if each["name"].startswith(name)]
    return stage


def table_of(config, name: str) -> Path:
    (folder,) = Path(config.path("features")).glob(f"{name}-*")
    return folder


def test_a_table_that_is_being_made_has_counts_rate_failures_and_age(table_project, tmp_path):
    config = table_project("extract.partition_samples=16")  # 203 rows: 13 files
    folder, storage = table_of(config, "voice"), Storage()
    os.remove(folder / "_summary.json")
    for partition in done_partitions(storage, str(folder))[10:]:
        os.remove(folder / file_name(partition))
    table, notes = read_with_notes(storage, str(folder), 3)
    write_partition(storage, str(folder), 3, table, {**notes, "failures": {"corrupt": 3}})
    now = time.time()
    for partition in range(10):  # a file every two seconds, the last one a minute ago
        when = now - 60 - 2 * (9 - partition)
        os.utime(folder / file_name(partition), (when, when))
    os.utime(folder / "_spec.json", (now - 3000, now - 3000))

    found = status(str(tmp_path / "out"))
    assert found["samples"] == {"rows": 203, "partitions": 13}
    assert found["at_work"] is None
    voice = stage_of(found, "voice")
    assert (voice["state"], voice["done"], voice["total"]) == ("begun", 10, 13)
    assert voice["rows_per_s"] == pytest.approx(203 / 13 / 2, rel=0.01)
    assert voice["left_s"] == pytest.approx(3 * 2, abs=1)
    assert voice["failures"] == {"corrupt": 3}
    assert 60 <= voice["age_s"] < 100
    assert "10/13 files, 7.8 rows/s, 6 s left; failed: 3 corrupt; last write" in line(voice)
    words = stage_of(found, "words")
    assert (words["state"], words["done"]) == ("done", 13)
    assert status(str(tmp_path / "out.yaml"))["stages"][1]["name"] == words["name"], "of the config as well"


def test_what_is_complete_for_other_samples_is_old(table_project, tmp_path):
    config = table_project()
    lines = Path(str(config.samples.manifest)).read_text().splitlines()
    row = json.loads(lines[0]) | {"text": "quite another"}
    Path(str(config.samples.manifest)).write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    from mmray.samples.index import make_index

    make_index(config, Storage())
    found = status(str(tmp_path / "out"))
    assert stage_of(found, "words")["state"] == "old"
    assert stage_of(found, "voice")["state"] == "done", "its media are the same"


def test_who_is_at_work_is_named_and_a_dead_one_is_not(tmp_path):
    output = str(tmp_path / "out")
    with locked(Storage(), output, "extract"):
        holder = status(output)["at_work"]
        assert holder is not None
        assert (holder["stage"], holder["pid"]) == ("extract", os.getpid())
    killed = (
        "import os; from mmray.storage.lock import locked; from mmray.storage.filesystem import Storage\n"
    )
    killed += f"with locked(Storage(), {output!r}, 'train'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert Path(output, ".lock").read_text(), "it left its name"
    Path(output, "models", "a").mkdir(parents=True)
    assert status(output)["at_work"] is None


def test_on_s3(s3):
    storage, output = Storage(), s3.uri("status", "out")
    with locked(storage, output, "extract"):
        storage.write_json(f"{output}/models/abc/results.json", {})
        found = status(output)
    assert found["at_work"]["stage"] == "extract"
    (model,) = found["stages"]
    assert (model["stage"], model["name"], model["state"]) == ("train", "abc", "done")
    assert model["age_s"] < 60
    assert status(output)["at_work"] is None


def test_nothing_is_said_so(tmp_path):
    with pytest.raises(TableError, match="nothing was written here yet"):
        status(str(tmp_path))


def test_the_command_prints_and_gives_json(table_project, tmp_path):
    table_project()
    command = [sys.executable, "-m", "mmray", "status", str(tmp_path / "out.yaml")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "samples  203 in 4 partitions" in told
    assert "at work  nobody" in told
    watched = subprocess.run(
        [*command, "--json", "--watch"], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(watched.stdout)["samples"]["rows"] == 203, "nobody is at work: it ends"
