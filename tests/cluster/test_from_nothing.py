"""A cluster that has a head without CPUs and an autoscaler: it wakes, works, and nothing of it is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.services import get_node_ip_address

pytestmark = [pytest.mark.ray, pytest.mark.timeout(580)]

DRIVER = """
import json, sys
from mmray.stages.extract import extract
json.dump(extract(sys.argv[1], sys.argv[2]), open(sys.argv[3], "w"))
"""

LISTS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
AUTOSCALER: dict[str, Any] = {
    "cluster_name": "fake_multinode",
    "provider": {"type": "fake_multinode"},
    "max_workers": 2,
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    **{f"{name}_commands": [] for name in LISTS},
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}


@pytest.fixture
def sleeping(free_port) -> Iterator[tuple[str, dict[str, str], Path]]:
    """(address, environment, log) of a head with Ray's autoscaler, which starts nodes of this machine."""
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        port, address = free_port(), get_node_ip_address()
        provider = AUTOSCALER["provider"] | {"gcs_address": f"{address}:{port}"}
        Path(folder, "autoscaler.json").write_text(json.dumps(AUTOSCALER | {"provider": provider}))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": folder, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        log = Path(folder, "log")
        binary = Path(ray.__file__).parents[4] / "bin" / "ray"
        options = f"--head --block --num-cpus=0 --port={port} --temp-dir={folder} --include-dashboard=false "
        options += f"--dashboard-agent-listen-port=0 --autoscaling-config={folder}/autoscaler.json"
        command = [str(binary), "start", *options.split(), "--disable-usage-stats"]
        with log.open("wb") as file:
            head = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield f"127.0.0.1:{port}", environment, log
        finally:
            with_it = _below(head.pid)
            head.send_signal(signal.SIGTERM)
            head.wait(timeout=120)
            for pid in with_it:  # nodes that the autoscaler started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    import psutil

    return [each.pid for each in psutil.Process(pid).children(recursive=True)]


def test_a_cluster_of_nothing_is_woken_and_grows(sleeping, tmp_path):
    address, environment, log = sleeping
    rows = [{"sample_id": f"s{row}", "text": f"text number {row}"} for row in range(40)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "output": str(tmp_path / "out"),
        "samples": {"manifest": str(tmp_path / "manifest.jsonl")},
        "features": {"words": {"kind": "tokens"}},
        "extract": {"partition_samples": 10},
    }
    (tmp_path / "mmray.yaml").write_text(yaml.safe_dump(config))
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)
    told = tmp_path / "told.json"
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "mmray.yaml"), address, str(told)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "waiting: the cluster's autoscaler was asked for 1 CPUs, 0 are there" in run.stderr
    assert json.loads(told.read_text())["rows_this_run"] == len(rows)
