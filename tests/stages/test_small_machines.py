"""On a Ray of one or two CPUs every stage runs to its end: none waits for resources that never come."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

STAGES = """
import json, ray, sys
ray.init(address="local", num_cpus={cpus}, include_dashboard=False, log_to_driver=False)
from mmray.config import load_config
from mmray.stages.extract import extract
from mmray.stages.score import score
from mmray.stages.train import train
from mmray.stages.tune import tune

path = {path!r}
done = {{"fused": extract(load_config(path))}}
overrides = [f"output={{load_config(path).output}}-split", "extract.placement=split", *{split!r}]
done["split"] = extract(load_config(path, overrides))
done["train"] = train(load_config(path, ["train.workers=2", "train.baselines=true"]))
done["streamed"] = train(load_config(path, ["train.workers=2", "train.memory_budget_mb=0.0001"]))
done["score"] = score(load_config(path))
done["tune"] = tune(load_config(path))
rows = {{stage: summary.get("rows") or summary.get("trials") for stage, summary in done.items()}}
print(json.dumps({{**rows, "train": len(rows["train"]), "streamed": len(rows["streamed"])}}))
"""

CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features: {{face: {{kind: frames, frames: 1, size: 32}}, voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}}}
extract: {{partition_samples: 16}}
train: {{epochs: 1}}
tune: {{trials: 1, space: {{train.learning_rate: {{choice: [0.01, 0.001]}}}}}}
"""


@pytest.mark.parametrize(
    ("cpus", "split"), [(1, ["extract.cpus_per_actor=0.5"]), (2, [])], ids=["1 CPU", "2 CPUs"]
)
def test_every_stage_ends(cpus, split, clips, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(output=tmp_path / "out", data=clips.folder))
    code = STAGES.format(cpus=cpus, path=str(path), split=split)
    # The limit is for a hang; it is some ten times what the stages take.
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=560, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("{")]  # Ray writes there, too
    told = json.loads(line)
    samples = len(clips.faults)
    assert told == {
        "fused": samples,
        "split": samples,
        "train": 4,
        "streamed": 4,
        "score": samples,
        "tune": 1,
    }
