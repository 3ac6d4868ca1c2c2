"""The metrics that a real Ray serves, and the dashboard and alerts that are built on their names."""

import json
import re
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from mmray.config import load_config
from mmray.distributed.metrics import COUNTERS, GAUGES, count_epoch
from mmray.stages.extract import extract

CLUSTER = Path(__file__).parents[2] / "cluster"
OF_RAY = {"ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total", "ray_object_store_memory"}
"""Ray's own that are shown beside ours."""


def scraped(names: Iterable[str], project: str) -> dict[str, float]:
    """{name{labels}: value} of a project, once all of these names have come; they come every ten seconds."""
    import ray

    (node,) = [each for each in ray.nodes() if each["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    while True:
        page = urllib.request.urlopen(address, timeout=10).read().decode()
        ours = {}
        for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE):
            if f'project="{project}"' in labels:
                kept = dict(re.findall(r'(\w+)="([^"]*)"', labels))
                known = {key: kept[key] for key in ("feature", "reason", "stage", "step") if key in kept}
                ours[name + str(known or "")] = ours.get(name + str(known or ""), 0.0) + float(value)
        missing = [name for name in names if not any(found.startswith(name) for found in ours)]
        missing += [name for name in OF_RAY if not re.search(rf"^{name}\{{", page, re.MULTILINE)]
        if not missing:
            return ours
        assert time.monotonic() < deadline, f"{missing} are not served"
        time.sleep(1.0)


@pytest.mark.timeout(300)
def test_a_real_ray_serves_what_a_stage_did(ray_cluster, tmp_path):
    rows = [{"sample_id": f"s{row}", "text": "so good", "audio": "nowhere.wav"} for row in range(12)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(
        {
            "name": "metrics_test",
            "output": str(tmp_path / "out"),
            "samples": {"manifest": str(tmp_path / "manifest.jsonl")},
            "features": {"words": {"kind": "tokens"}, "voice": {"kind": "mel"}},
            "extract": {"partition_samples": 4, "max_failed_fraction": 1.0},
        }
    )
    summary = extract(config)
    assert summary["features"]["voice"]["failures"] == {"missing_file": 12}
    count_epoch(config.name, "tune", trials=3)
    names = [f"ray_{name}" for name in [*COUNTERS, *GAUGES] if name != "mmray_encoder_busy"]
    found = scraped([name for name in names if "fetched" not in name], config.name)
    assert found["ray_mmray_rows_total{'stage': 'extract'}"] == 12
    assert found["ray_mmray_rows_left{'stage': 'extract'}"] == 0
    assert found["ray_mmray_partitions_left{'stage': 'extract'}"] == 0
    labels = "{'feature': 'voice', 'reason': 'missing_file'}"
    assert found[f"ray_mmray_failures_total{labels}"] == 12
    writing = found["ray_mmray_work_seconds_total{'step': 'write'}"]
    assert writing == pytest.approx(summary["stage_seconds"]["write"], abs=0.001)
    assert found["ray_mmray_trials"] == 3


def expressions() -> list[str]:
    """Every query of the dashboard and the alerts."""
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    variables = [variable["query"] for variable in dashboard["templating"]["list"]]
    found += [query["query"] for query in variables if isinstance(query, dict)]
    alerts = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are():
    known = {f"ray_{name}" for name in (*COUNTERS, *GAUGES)} | OF_RAY
    asked = {name for each in expressions() for name in re.findall(r"\bray_\w+", each)}
    assert asked <= known, asked - known
    assert {f"ray_{name}" for name in (*COUNTERS, *GAUGES)} <= asked, "each is shown"


def test_the_metrics_are_documented_with_their_labels():
    import mmray.distributed.metrics as module

    for name, labels in {**COUNTERS, **GAUGES}.items():
        (told,) = re.findall(rf"^    {name} +(.*)$", module.__doc__ or "", re.MULTILINE)
        assert all(label in told for label in labels), name


def test_the_dashboard_and_the_alerts_are_whole():
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for group in yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert {"alert", "expr", "for", "labels", "annotations"} <= rule.keys()
            assert rule["annotations"].keys() == {"summary", "action"}


def test_labels_do_not_grow_with_the_samples():
    """A label's values are few: reasons, features, stages; never ids or files."""
    assert {label for labels in {**COUNTERS, **GAUGES}.values() for label in labels} == {
        "stage",
        "feature",
        "reason",
        "step",
    }
    config = load_config(
        {"output": "out", "samples": {"manifest": "m.jsonl"}, "features": {"words": {"kind": "tokens"}}}
    )
    assert re.fullmatch(r"[a-z][a-z0-9_]*", config.name)
