"""kill -9 of drivers, actors and stages: nothing is lost, done twice, left running, or waited for.

MMRAY_KILL_ROUNDS kills of the driver at random points (3; tests/benchmarks/kill_rounds.py takes 30).
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmray.assets.clips import write_clips
from mmray.config import Config, dump_config
from mmray.distributed import pools as cluster
from mmray.distributed.admission import Pool
from mmray.distributed.serving import Servers
from mmray.errors import WorkerError
from mmray.stages.extract import extract
from mmray.tables.read import read

pytestmark = pytest.mark.kill

ROUNDS = int(os.environ.get("MMRAY_KILL_ROUNDS", "3"))
GONE_S = 60.0  # for processes to end; they take seconds
# These two hold no work; they may try for a minute to tell the dead head that it is dead.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
AGENTS_GONE_S = 240.0
SLOW = ("extract.partition_samples=1", "features.face.frames=8", "features.face.size=160")
"""A partition a sample, of a tenth of a second or so: time to be killed in the midst of the work."""
Files = dict[str, tuple]


def rows_of(config: Config) -> pa.Table:
    return read(config).sort_by("sample_id")


def without_errors(config: Config) -> pa.Table:
    return rows_of(config).drop_columns([f"{name}_error" for name in config.features])


def local_files(config: Config) -> Files:
    """Path → inode and time of last change of each finished file."""
    stats = {str(path): path.stat() for path in Path(config.path("features")).glob("*/part-*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def parts_changed(before: Files, after: Files) -> list[str]:
    """Names of the part files that are others now, one for each feature."""
    return [Path(name).name for name, stat in after.items() if before[name] != stat]


def s3_files(s3: Any, name: str) -> Files:
    """Key → hash and time of each finished object."""
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{name}/features/")
    found = [entry for entry in listed.get("Contents", []) if "/part-" in entry["Key"]]
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in found}


def processes_with(marker: str) -> dict[int, str]:
    """Running processes in whose environment the marker is: a driver, its Ray, all that these started."""
    found = {}
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in environment.read_bytes():
                command = (environment.parent / "cmdline").read_bytes()
                found[int(environment.parent.name)] = command.replace(b"\0", b" ").decode()[:200]
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)


def wait_until_gone(marker: str, seconds: float, besides: tuple[str, ...] = ()) -> None:
    deadline = time.monotonic() + seconds
    while left := [name for name in processes_with(marker).values() if not name.startswith(besides)]:
        assert time.monotonic() < deadline, f"still there after {seconds} s: {left}"
        time.sleep(0.05)


def kill_once(path: Path, files: Callable[[], Files], seed: int, *options: str) -> bool:
    """Run `mmray extract` and kill -9 it at a random point; returns whether it had ended before that."""
    rng, before = random.Random(seed), files()
    marker, log = f"{os.getpid()}-{path.parent.name}-{seed}", path.with_suffix(f".{seed}.log")
    environment = {**os.environ, "MMRAY_TEST_MARKER": marker}
    environment.pop("RAY_ADDRESS", None)
    with log.open("wb") as told:
        command = [sys.executable, "-m", "mmray", "extract", str(path), *options]
        driver = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
    # Up to three partitions and a moment after its start; or, with none, anywhere in the start itself.
    more, moment_s = rng.randrange(4), rng.uniform(0, 0.3)
    wait_for(
        lambda: driver.poll() is not None or len(files().items() - before.items()) >= more, "progress", 120
    )
    try:
        driver.wait(moment_s if more else 20 * moment_s)
    except subprocess.TimeoutExpired:
        driver.kill()
    ended = driver.wait()
    wait_until_gone(f"MMRAY_TEST_MARKER={marker}", GONE_S, besides=AGENTS)
    assert ended in (0, -signal.SIGKILL), log.read_text()
    return ended == 0


@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_drivers_lose_and_repeat_nothing(where, ray_cluster, s3, clip_project, clips, tmp_path):
    undisturbed = clip_project(*SLOW)
    assert extract(undisturbed)["rows"] == len(clips.faults)
    path = tmp_path / "kill.yaml"
    left, seeds = 2 if where == "s3" else ROUNDS, itertools.count()
    for table in itertools.count():  # a driver that ends before it is killed makes way for another table
        name = f"killed-{table}"
        config = clip_project(*SLOW, f"output={s3.uri(name) if where == 's3' else tmp_path / name}")
        path.write_text(dump_config(config))
        files = partial(s3_files, s3, name) if where == "s3" else partial(local_files, config)
        ended = False
        while left and not ended:
            before = files()
            ended = kill_once(path, files, next(seeds))
            left -= not ended
            assert before.items() <= files().items(), "finished work was done again"
        before = files()
        summary = extract(config)
        assert before.items() <= files().items()
        assert summary["rows"] == len(clips.faults)
        assert rows_of(config).equals(rows_of(undisturbed)), "to the byte"
        if not left:
            break
    wait_until_gone(f"MMRAY_TEST_MARKER={os.getpid()}-{tmp_path.name}", AGENTS_GONE_S)


def test_a_killed_retry_is_taken_up(ray_cluster, clip_project, tmp_path):
    data = tmp_path / "data"
    rows = write_clips(str(data), clips=40)
    mended = clip_project(*SLOW, f"samples.manifest={data}/manifest.jsonl", f"output={tmp_path}/mended")
    extract(mended)
    gone = [data / row["video"] for row in rows if not row["damage"]][::3]
    for file in gone:
        file.rename(file.with_suffix(".away"))
    config = clip_project(*SLOW, f"samples.manifest={data}/manifest.jsonl")
    summary = extract(config)
    for file in gone:
        file.with_suffix(".away").rename(file)

    path = tmp_path / "retry.yaml"
    path.write_text(dump_config(config))
    files = partial(local_files, config)
    before = files()
    assert not kill_once(path, files, 1, "--retry-failed"), "it ended before it could be killed"
    between = files()
    again = extract(config, retry_failed=True)
    assert again["failed_rows"] == summary["failed_rows"] - len(gone)
    # Of the rows that failed, those done before the kill are not among the retried ones; whole files stay.
    # A row whose face and voice failed is done when both of its part files are.
    changed = [*Counter(parts_changed(before, between)).values()].count(2)
    assert 1 <= changed < len(gone)
    assert again["retried"] == summary["failed_rows"] - changed
    assert len({*parts_changed(before, files())}) == summary["failed_rows"]
    # An error tells how often it was tried.
    assert without_errors(config).equals(without_errors(mended))


def test_a_killed_actor_costs_no_row(ray_cluster, clip_project, clips):
    undisturbed = clip_project("extract.partition_samples=2", "extract.actors=2")
    extract(undisturbed)
    config = clip_project("extract.partition_samples=2", "extract.actors=2", f"output={undisturbed.output}-2")
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: len(local_files(config)) >= 3, "three partitions", 120)
        killed.append(actors_below(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = extract(config)
    killer.join()
    assert killed
    assert summary["rows"] == summary["rows_this_run"] == len(clips.faults)
    assert rows_of(config).equals(rows_of(undisturbed))


def actors_below(pid: int) -> list[int]:
    """Actors of Ray Data that this process's own Ray runs."""
    parents, actors = {}, []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
            title = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        child = int(head.split(" ", 1)[0])
        parents[child] = int(rest.split()[1])
        if title.startswith(b"ray::MapWorker"):
            actors.append(child)

    def below(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return [actor for actor in actors if below(actor)]


# ------------------------------------------------------------------------------------ never a hang


def stream(stage: type, **arguments) -> list[int]:
    """Twelve partitions through two actors of a stage."""
    plan = lambda nodes, left: cluster.Stage(stage, Pool(2, 0.5), arguments)  # noqa: E731
    return [row["partition"] for row in cluster.stream_partitions(range(12), plan)]


def test_an_actor_that_dies_once_is_replaced(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WAVE", 9)  # the rest follow by themselves

    class DiesOnce:
        def __init__(self, flag: str):
            self.flag = flag

        def __call__(self, block: pa.Table) -> pa.Table:
            if block["partition"][0].as_py() == 5 and not os.path.exists(self.flag):
                open(self.flag, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return block

    assert sorted(stream(DiesOnce, flag=str(tmp_path / "died"))) == list(range(12))


def test_an_actor_that_always_dies_ends_the_stage_with_what_it_died_of(ray_cluster, monkeypatch):
    monkeypatch.setattr(cluster, "RESTARTS", 1)

    class Poisoned:
        def __call__(self, block: pa.Table) -> pa.Table:
            if block["partition"][0].as_py() == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return block

    with pytest.raises(WorkerError, match=r"died again and again .*\b5\b"):
        stream(Poisoned)


def test_an_actor_that_cannot_start_ends_the_stage(ray_cluster, monkeypatch):
    monkeypatch.setattr(cluster, "RESTARTS", 1)

    class NeverStarts:
        def __init__(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def __call__(self, block: pa.Table) -> pa.Table:
            return block

    with pytest.raises(WorkerError, match="died again and again"):
        stream(NeverStarts)


def test_a_bug_in_a_stage_is_shown_and_not_tried_again(ray_cluster, tmp_path):
    from ray.exceptions import RayTaskError

    class Bug:
        def __init__(self, log: str):
            self.log = log

        def __call__(self, block: pa.Table) -> pa.Table:
            with open(self.log, "a") as log:
                log.write("x")
            raise KeyError("no such thing")

    with pytest.raises(RayTaskError, match="KeyError: 'no such thing'"):
        stream(Bug, log=str(tmp_path / "log"))
    assert len((tmp_path / "log").read_text()) <= 4, "at most what two actors had in hand"


def test_what_a_constructor_raises_is_shown_as_it_is_and_not_tried_again(ray_cluster, tmp_path):
    class Broken:
        def __init__(self, log: str):
            with open(log, "a") as file:
                file.write("x")
            raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        stream(Broken, log=str(tmp_path / "log"))
    assert len((tmp_path / "log").read_text()) <= 2, "once an actor"


def test_a_server_that_dies_is_asked_again(ray_cluster, tmp_path):
    """What it had in hand is lost; those who asked go on."""

    class Squares:
        def __init__(self, flag: str):
            self.flag = flag

        def square(self, number: int) -> int:
            if number == 5 and not os.path.exists(self.flag):
                open(self.flag, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return number**2

    class Asks:
        def __init__(self, servers: list):
            self.servers = Servers(servers)

        def __call__(self, block: pa.Table) -> pa.Table:
            number = block["partition"][0].as_py()
            answers = [self.servers.ask("square", number), self.servers.ask("square", number + 1)]
            return block.append_column("squares", pa.array([[answer() for answer in answers]]))

    servers = cluster.Stage(Squares, Pool(1, 0.5), {"flag": str(tmp_path / "died")})
    asks = cluster.Stage(Asks, Pool(2, 0.5), {}, servers)
    found = {
        row["partition"]: row["squares"]
        for row in cluster.stream_partitions(range(12), lambda nodes, left: asks)
    }
    assert found == {number: [number**2, (number + 1) ** 2] for number in range(12)}
    assert (tmp_path / "died").exists()
