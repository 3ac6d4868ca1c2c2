"""The journey on a real S3 server: manifest, media, features, checkpoints, model, predictions, report."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mmray.assets.clips import write_clips
from mmray.config import load_config
from mmray.stages.extract import extract
from mmray.stages.run import run
from mmray.stages.tune import tune
from mmray.storage.filesystem import Storage
from mmray.tables.parts import read_table

CONFIG = """
output: {base}/out
samples: {{manifest: {base}/data/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
  words: {{kind: tokens}}
extract: {{partition_samples: 16}}
train: {{epochs: 2, workers: 2, baselines: false}}
tune: {{trials: 2, space: {{train.learning_rate: {{choice: [1e-2, 1e-3]}}}}}}
"""


@pytest.fixture(scope="module")
def uploaded(s3, tmp_path_factory) -> tuple[str, list[dict]]:
    """Generated clips in the bucket, and no longer on this machine."""
    folder = tmp_path_factory.mktemp("upload")
    rows = write_clips(str(folder), clips=40)
    client = s3.client()
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"journey/data/{path.relative_to(folder)}"
            client.put_object(Bucket=s3.bucket, Key=key, Body=path.read_bytes())
    shutil.rmtree(folder)
    return s3.uri("journey"), rows


def objects(s3) -> dict[str, str]:
    """Key → ETag and time of every object of the bucket, by another client than mmray's."""
    client = s3.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix="journey/")
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"]: f"{entry['ETag']} {entry['LastModified']}" for entry in found}


def test_the_whole_journey(s3, ray_cluster, uploaded, tmp_path, monkeypatch):
    base, rows = uploaded
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(base=base))
    config = load_config(path)
    summaries = run(config)
    assert summaries["extract"]["rows"] == summaries["score"]["rows"] == len(rows)
    assert summaries["extract"]["failed_rows"] == sum(row["damage"] is not None for row in rows)

    storage = Storage()
    predictions = pa.concat_tables(read_table(storage, summaries["score"]["output"]))
    assert predictions["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    keys = objects(s3)
    model = summaries["train"]["model"].removeprefix(f"s3://{s3.bucket}/")
    for name in ("weights.pt", "model.json", "vocabulary.json", "results.json"):
        assert f"{model}/{name}" in keys
    assert any("/checkpoint_" in key for key in keys), "Ray Train's own checkpoints"
    assert any("/tensorboard/events" in key for key in keys)
    assert "journey/out/report.html" in keys
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"], "nothing of it is local"

    again = run(config)
    assert again["extract"]["rows_this_run"] == again["score"]["rows_this_run"] == 0
    unchanged = {key: tag for key, tag in objects(s3).items() if "/part-" in key or model in key}
    assert unchanged.items() <= keys.items()

    sweep = tune(config)
    assert sweep["trials"] == 2
    best = storage.read(sweep["best_config"]).decode()
    (tmp_path / "best.yaml").write_text(best)
    assert load_config(tmp_path / "best.yaml").output == config.output


def test_the_endpoint_may_stand_in_the_config(s3, ray_cluster, uploaded, tmp_path, monkeypatch):
    """Without it in this process's environment; what is written names it for every later stage."""
    base, rows = uploaded
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(base=base))
    overrides = [f"storage.endpoint_url={s3.endpoint_url}", f"output={tmp_path}/out"]
    config = load_config(path, overrides)
    assert extract(config)["rows"] == len(rows)
    summaries = list(Path(tmp_path, "out/features").glob("*/_summary.json"))
    assert {json.loads(path.read_text())["rows"] for path in summaries} == {len(rows)}
