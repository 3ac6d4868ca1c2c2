"""Extraction from an S3 that is slow, cuts bodies off or refuses the keys, on a real Ray."""

import json
from pathlib import Path

import pytest

from mmray.config import Config, load_config
from mmray.errors import StorageError
from mmray.stages.extract import extract
from mmray.tables.read import read

CONFIG = """
output: {folder}/out
samples: {{manifest: {folder}/manifest.jsonl}}
storage: {{endpoint_url: "{endpoint}", max_attempts: 3, retry_wait_s: 0.05, read_timeout_s: 1.0}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
extract: {{actors: 2, partition_samples: 4}}
"""


@pytest.fixture
def project(s3, flaky_s3, clips, tmp_path) -> Config:
    """Twelve whole clips in the bucket and one that is not, reached through the proxy."""
    lines = (clips.folder / "manifest.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if not clips.faults[row["sample_id"]]][:12]
    client = s3.client()
    for number, row in enumerate(rows):
        body = (clips.folder / row["video"]).read_bytes()
        row.update(sample_id=f"s{number}", video=s3.uri("faults", f"s{number}.mp4"))
        client.put_object(Bucket=s3.bucket, Key=f"faults/s{number}.mp4", Body=body)
    rows.append({**rows[0], "sample_id": "gone", "video": s3.uri("faults", "gone.mp4")})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = Path(tmp_path, "config.yaml")
    path.write_text(CONFIG.format(folder=tmp_path, endpoint=flaky_s3.endpoint_url))
    return load_config(path)


def test_flaky_objects_arrive_and_hopeless_ones_say_why(ray_cluster, flaky_s3, project):
    passing = {"s1": [(503, "SlowDown")] * 2, "s2": ["reset"], "s3": ["cut", "cut"], "s4": ["stall"]}
    hopeless = {"s6": [(500, "InternalError")] * 99, "s7": ["cut"] * 99}
    flaky_s3.faults = {f"/{name}.mp4": faults for name, faults in {**passing, **hopeless}.items()}
    summary = extract(project)
    table = read(project).to_pylist()
    assert [row["sample_id"] for row in table] == [*(f"s{number}" for number in range(12)), "gone"]
    expected = {**dict.fromkeys(hopeless, ("fetch_failed", 3)), "gone": ("missing_file", 1)}
    for row in table:
        errors = {name: row[f"{name}_error"] for name in project.features if row[f"{name}_error"]}
        found = {(name, error["reason"], error["attempts"]) for name, error in errors.items()}
        fault = expected.get(row["sample_id"])
        assert found == ({(name, *fault) for name in project.features} if fault else set())
        assert all(error["stage"] == "fetch" for error in errors.values())
    assert summary["rows"] == 13
    assert summary["failed_rows"] == len(expected)
    asked = {name: flaky_s3.asked(f"/{name}.mp4") for name in ("s0", *passing, *hopeless, "gone")}
    assert asked == {"s0": 1, "s1": 3, "s2": 2, "s3": 3, "s4": 2, "s6": 3, "s7": 3, "gone": 1}


def test_refused_keys_stop_the_job_before_any_row(ray_cluster, flaky_s3, project):
    flaky_s3.faults = {".mp4": [(403, "SignatureDoesNotMatch")] * 999}
    with pytest.raises(StorageError, match="check the keys") as info:
        extract(project)
    assert type(info.value) is StorageError  # not a sample's MediaError: exit code 1, one message
    assert not list(Path(project.path("features")).glob("*/part-*"))
    assert flaky_s3.asked(".mp4") <= 4  # one a partition, of thirteen samples
