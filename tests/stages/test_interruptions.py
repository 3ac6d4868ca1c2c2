"""Training that is killed, at a worker or as a whole, ends as if it had not been."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mmray.config import Config
from mmray.stages.train import train
from mmray.storage.filesystem import Storage
from mmray.training.checkpoint import load_snapshot

pytestmark = [pytest.mark.ray, pytest.mark.kill]

SETTINGS = ("train.epochs=12", "train.workers=2", "train.patience=12", "train.batch_size=4")
LIMIT_S = 300.0
"""For a hang; some ten times what it takes."""


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def checkpoints(config: Config) -> list[Path]:
    """The checkpoints Ray knows of, from the last of which it goes on; none before it has noted one."""
    for note in Path(config.path("train")).glob("*/checkpoint_manager_snapshot.json"):
        try:
            state = json.loads(note.read_text())
        except ValueError:
            return []  # it is being written
        known = [note.parent / result["checkpoint_dir_name"] for result in state["checkpoint_results"]]
        return [path for path in known if (path / "trainer.pt").exists()]
    return []


def seconds_of(folder: Path) -> dict[float, float]:
    """How long each epoch took, as a checkpoint tells: no second run of it would take the same."""
    return {epoch["epoch"]: epoch["seconds"] for epoch in load_snapshot(folder).history}


def timeless(results: dict) -> dict:
    """What must not depend on interruptions."""
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in results["history"]]
    return {"history": epochs, **{key: results[key] for key in ("rows", "splits", "model_fingerprint")}}


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, shared_table_project) -> dict:
    """Results of the same training left alone."""
    return train(shared_table_project(*SETTINGS))


def test_a_killed_worker_changes_nothing_but_the_time(table_project, undisturbed):
    config = table_project(*SETTINGS)
    done: list[dict[float, float]] = []

    def kill_a_worker() -> None:
        wait_for(lambda: len(checkpoints(config)) >= 2)
        ours = psutil.Process().children(recursive=True)
        victims = [process for process in ours if "RayTrainWorker" in " ".join(process.cmdline())]
        done.append(seconds_of(checkpoints(config)[0]))
        victims[-1].kill()

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    results = train(config)
    killer.join()
    assert timeless(results) == timeless(undisturbed)
    kept = {epoch["epoch"]: epoch["seconds"] for epoch in results["history"]}
    assert done
    assert done[0].items() <= kept.items()
    assert len(results["history"]) == 12


def test_a_killed_driver_is_gone_on_from_by_the_same_command(table_project, undisturbed, tmp_path):
    config = table_project(*SETTINGS)
    command = [sys.executable, "-m", "mmray", "train", str(tmp_path / "out.yaml"), *SETTINGS, "--json"]
    driver = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: len(checkpoints(config)) >= 2 or driver.poll() is not None)
        assert driver.poll() is None, driver.stderr.read()
    finally:
        everything = [driver, *driver.children(recursive=True)]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything, LIMIT_S)
    assert not list(Path(config.output).glob("models/*/results.json"))
    done = seconds_of(checkpoints(config)[-1])
    again = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=True)
    results = json.loads(again.stdout)
    assert results == Storage().read_json(f"{results['model']}/results.json")
    assert timeless(results) == timeless(undisturbed)
    kept = {epoch["epoch"]: epoch["seconds"] for epoch in results["history"]}
    assert len(done) < 12
    assert done.items() <= kept.items()


def ended_trials(config: Config) -> dict[str, tuple[float, int]]:
    """{trial: its best value, and when it came} of those that Ray Tune's state says have ended."""
    found = {}
    for path in Path(config.path("tune")).glob("*/ray/experiment_state-*.json"):
        try:
            stored = json.loads(path.read_text())["trial_data"]
        except ValueError:  # caught while it was written
            continue
        for trial, runtime in ((json.loads(one[0]), json.loads(one[1])) for one in stored):
            if trial["status"] == "TERMINATED":
                found[trial["trial_id"]] = (
                    runtime["last_result"]["best"],
                    runtime["last_result"]["timestamp"],
                )
    return found


@pytest.mark.kill
def test_a_killed_sweep_keeps_the_trials_that_ended_and_its_searcher(table_project, tmp_path):
    """Killed with all its processes as soon as one trial of six has ended, as Tune's own state says."""
    settings = (
        "train.epochs=12",
        "train.patience=12",
        "tune={searcher: optuna, scheduler: none, trials: 6, concurrent: 1, retrain_seeds: 0, "
        "space: {train.learning_rate: {log_uniform: [1e-4, 1e-1]}, model.fusion.hidden: {int: [4, 16]}}}",
    )
    config = table_project(*settings)
    command = [sys.executable, "-m", "mmray", "tune", str(tmp_path / "out.yaml"), *settings, "--json"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TUNE_GLOBAL_CHECKPOINT_S": "0.2",
    }
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not ended_trials(config):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = ended_trials(config)
    assert 0 < len(before) < 6
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=400
    )
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert (summary["trials"], summary["states"]["ended"]) == (6, 6)
    after = ended_trials(config)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before, "what had ended was not run again"
    rates = [curve["settings"]["train.learning_rate"] for curve in summary["curves"]]
    assert len(set(rates)) == 6, "the searcher knew what it had drawn"
