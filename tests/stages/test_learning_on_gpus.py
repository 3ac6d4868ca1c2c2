"""Training, comparison and search on a Ray that says it has a GPU: it is reserved, and torch goes without."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

DRIVER = """
import json, sys
import ray
import mmray

ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
config = mmray.load_config(sys.argv[1])
told = {"train": mmray.train(config), "compare": mmray.compare(config), "tune": mmray.tune(config)}
json.dump(told, open(sys.argv[2], "w"))
ray.shutdown()
"""

SETTINGS = """
train: {epochs: 2, learning_rate: 1e-2, batch_size: 16, baselines: false}
compare: {seeds: [0]}
tune:
  searcher: optuna
  scheduler: median
  trials: 4
  grace_epochs: 1
  gpus_per_trial: 0.5
  time_budget_s: 300
  space:
    features: {choice: [[voice, words], [words]]}
    model.fusion.kind: {choice: [concat, low_rank]}
    model.fusion.rank: {int: [1, 3]}
    train.learning_rate: {log_uniform: [1e-3, 1e-1]}
"""


def test_a_gpu_that_torch_cannot_use_is_reserved_and_trained_without(table_project, tmp_path):
    table_project()
    path, told_path = tmp_path / "gpu.yaml", tmp_path / "told.json"
    project = (tmp_path / "out.yaml").read_text().partition("train:")[0]
    path.write_text(project + SETTINGS)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path), str(told_path)],
        capture_output=True,
        text=True,
        timeout=590,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(told_path.read_text())
    assert told["train"]["workers"] == 1, "one a GPU"
    assert len(told["train"]["history"]) == 2
    assert told["compare"]["runs"] == 3
    assert not told["compare"]["failed"]
    assert told["tune"]["concurrent"] == 2, "two halves of a GPU"
    assert (told["tune"]["trials"], told["tune"]["failed"]) == (4, 0)
    with (Path(told["tune"]["output"]) / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    for trial in trials:
        assert bool(trial["model.fusion.rank"]) == (trial["model.fusion.kind"] == "low_rank")
