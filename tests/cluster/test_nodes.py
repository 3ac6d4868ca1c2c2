"""Several nodes on this machine, one of them killed in mid-run: the same rows, each once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmray
from mmray.assets.clips import write_clips
from mmray.config import load_config

pytestmark = [pytest.mark.ray, pytest.mark.kill]

CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
  words: {{kind: tokens}}
extract: {{partition_samples: 2}}
"""

# A head and two workers of one CPU each; the first run is left alone, of the second a worker is killed
# as soon as four partitions are there.
DRIVER = """
import json, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from mmray.config import load_config
from mmray.stages.extract import extract


cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
undisturbed = extract(load_config({path!r}))
killed = load_config({path!r}, ["output={output}-killed"])

def kill():
    while len(list(Path(killed.path("features")).glob("*/part-*"))) < 12:
        time.sleep(0.02)
    cluster.remove_node(workers[0], allow_graceful=False)
    left.append(3 * undisturbed["partitions"] - len(list(Path(killed.path("features")).glob("*/part-*"))))

left = []
killer = threading.Thread(target=kill)
killer.start()
summary = extract(killed)
killer.join()
while sum(node["Alive"] for node in ray.nodes()) > 2:  # the head may take seconds to know of it
    time.sleep(0.1)
nodes = [node["Alive"] for node in ray.nodes()]
told = {{"first": undisturbed, "second": summary, "left": left[0], "alive": sum(nodes), "nodes": len(nodes)}}
Path({told!r}).write_text(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


def test_a_killed_node_costs_no_row(tmp_path: Path):
    data, path, output = tmp_path / "data", tmp_path / "config.yaml", tmp_path / "out"
    clips = write_clips(str(data), clips=40)
    path.write_text(CONFIG.format(output=output, data=data))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # The limit is for a hang; it is some ten times what it takes.
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            DRIVER.format(path=str(path), output=output, told=str(tmp_path / "told.json")),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["first"]["actors"] == 3, "a node each"
    assert (told["alive"], told["nodes"]) == (2, 3)
    assert told["left"] > 0, "it was killed in mid-run"
    # What the dead node had written is found there, and not done again.
    assert 0 < told["second"]["rows_this_run"] <= told["second"]["rows"] == len(clips)
    tables = [mmray.read(load_config(path, overrides)) for overrides in ([], [f"output={output}-killed"])]
    assert tables[0].equals(tables[1]), "to the byte, and in order"


GROWING = """
import json, sys, threading, time
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from mmray.distributed import pools
from mmray.distributed.admission import Pool

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)


class Where:
    def __call__(self, block):
        time.sleep(0.5)
        node = ray.get_runtime_context().get_node_id()
        return block.append_column("node", pa.array([node] * block.num_rows))


rows, added = [], None
stage = pools.Stage(Where, Pool(1, 1.0, grows=True), {}, None)
for row in pools.stream_partitions(range(1000), lambda nodes, left: stage):
    rows.append(row["node"])
    if len(rows) == 2:
        cluster.add_node(num_cpus=1)
        added = time.monotonic()
    if len(set(rows)) == 2:
        break
json.dump({"nodes": len(set(rows)), "after_s": time.monotonic() - added}, open(sys.argv[1], "w"))
ray.shutdown()
cluster.shutdown()
"""


def test_a_node_that_comes_is_used(tmp_path: Path):
    """Within a minute on an idle machine; a thousand partitions of half a second are the limit."""
    told = tmp_path / "told.json"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", GROWING, str(told)],
        capture_output=True,
        text=True,
        timeout=590,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(told.read_text())["nodes"] == 2
