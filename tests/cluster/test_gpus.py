"""Extraction on a Ray that says it has a GPU: the placement is real, what computes falls back to the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmray.assets.clips import write_clips

pytestmark = pytest.mark.ray

CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
extract: {{partition_samples: 8}}
"""

DRIVER = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from mmray.config import load_config
from mmray.stages.extract import extract
import mmray

path, several = sys.argv[1], sys.argv[2] == "several"
if several:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
else:
    ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
config = load_config(path)
told = {"auto": extract(config)}
fused = load_config(path, [f"output={config.output}-fused", "extract.placement=fused", "extract.actors=1"])
told["fused"] = extract(fused)
told["same"] = mmray.read(config).equals(mmray.read(fused))
json.dump(told, open(sys.argv[3], "w"))
ray.shutdown()
"""


@pytest.mark.parametrize("nodes", ["alone", "several"])
def test_features_are_made_where_a_gpu_is(tmp_path: Path, nodes):
    clips = write_clips(str(tmp_path / "data"), clips=60)
    path, told_path = tmp_path / "config.yaml", tmp_path / "told.json"
    path.write_text(CONFIG.format(output=tmp_path / "out", data=tmp_path / "data"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path), nodes, str(told_path)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(told_path.read_text())
    assert (told["auto"]["placement"], told["auto"]["encoders"]) == ("split", 1)
    assert told["fused"]["placement"] == "fused"
    assert told["auto"]["rows"] == told["fused"]["rows"] == len(clips)
    assert told["same"], "the same values, wherever they were encoded"
    assert told["auto"]["stage_seconds"]["encode"] > 0
