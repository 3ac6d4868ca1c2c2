"""kill -9 of a driver that scores: every sample once, finished files untouched, the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmray.config import dump_config
from mmray.distributed.feeding import load_features
from mmray.stages.score_samples import FEATURES, described
from mmray.storage.filesystem import Storage
from mmray.tables.features import require_data
from mmray.tables.parts import read_table
from mmray.training.loop import fit

pytestmark = pytest.mark.kill


def test_a_killed_score_goes_on_where_it_was(table_project, tmp_path):
    config, storage = table_project("extract.partition_samples=1"), Storage()
    data = require_data(config, storage)
    rows = load_features(config, storage, list(config.features))
    result = fit(config.model, config.train, rows, list(config.features), config.targets)
    result.snapshot.save_model(tmp_path / "model")
    storage.write_json(f"{tmp_path}/model/{FEATURES}", described(config, data))
    (tmp_path / "score.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "mmray", "score", str(tmp_path / "score.yaml")]
    command += ["--model", str(tmp_path / "model"), "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    predictions = Path(config.path("predictions"))

    def files() -> dict[str, tuple[int, int]]:
        found = {str(path): path.stat() for path in predictions.glob("*/part-*.parquet")}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}

    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while len(files()) < 3 and driver.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = files()
    assert before, (tmp_path / "log").read_text()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rows"] == 203
    after = files()
    # What an actor of the killed driver wrote before it ended is taken as well.
    assert told["rows_this_run"] <= 203 - len(before)
    assert {name: after[name] for name in before} == before
    ids = [name for part in read_table(storage, told["output"]) for name in part["sample_id"].to_pylist()]
    assert sorted(ids) == sorted(rows.sample_ids)
    assert len(ids) == len(set(ids)) == 203
