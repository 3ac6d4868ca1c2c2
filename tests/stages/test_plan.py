"""What a larger run takes: the arithmetic by hand, and the rates of a real extraction."""

import pytest

from mmray.config import load_config
from mmray.config.cluster import NodesConfig
from mmray.errors import ConfigError, TableError
from mmray.stages.plan import arithmetic, per_sample_of, plan

SUMMARY = {
    "rows_this_run": 1000,
    "encoders": 2,
    "stage_seconds": {"fetch": 100.0, "decode": 300.0, "encode": 50.0, "write": 40.0, "wait": 900.0},
    "fetched_bytes": 2_000_000_000,
}


def test_time_and_cost_by_hand():
    per_sample = per_sample_of(SUMMARY, 5000.0)
    assert per_sample == pytest.approx(
        {"cpu_s": 0.44, "gpu_s": 0.05, "fetched_bytes": 2e6, "stored_bytes": 5e3}
    ), "waiting is no work"
    nodes = {
        "spot": NodesConfig(count=32, cpus=16, price_per_hour=0.7, spot_price_per_hour=0.3, spot_share=0.75),
        "gpu": NodesConfig(count=4, cpus=8, gpus=1, price_per_hour=1.0),
    }
    told = arithmetic(per_sample, 100_000_000, nodes)
    # 544 CPUs: 44e6 s / 544 / 0.8; 4 GPUs: 5e6 s / 4 / 0.8, which is longer.
    assert told["machines"]["cpus"] == 544
    assert told["hours"] == pytest.approx(5e6 / 4 / 0.8 / 3600)
    hourly = 32 * (0.75 * 0.3 + 0.25 * 0.7) + 4 * 1.0
    assert told["cost"] == pytest.approx(told["hours"] * hourly)
    assert told["arithmetic"][0] == "100,000,000 samples × 0.44 s of a CPU = 1.222e+04 CPU hours"
    assert any("the GPUs decide, 434" in line for line in told["arithmetic"])

    fused = arithmetic({**per_sample, "gpu_s": 0.0}, 100_000_000, {"spot": nodes["spot"]})
    assert fused["hours"] == pytest.approx(44e6 / 512 / 0.8 / 3600)
    assert arithmetic(per_sample, 10, {})["cost"] is None


def test_a_spot_share_needs_a_price(tmp_path):
    config = {
        "output": str(tmp_path),
        "samples": {"manifest": "m.jsonl"},
        "features": {"words": {"kind": "tokens"}},
        "cluster": {"nodes": {"spot": {"cpus": 4, "price_per_hour": 1.0, "spot_share": 0.5}}},
    }
    with pytest.raises(ConfigError, match="spot_share needs spot_price_per_hour"):
        load_config(config)


def test_without_an_extraction_there_is_nothing_to_go_by(table_project):
    with pytest.raises(TableError, match="no extraction of these features to take rates from"):
        plan(table_project())


def test_the_rates_of_a_real_extraction(extracted):
    config, summary = extracted
    planned = plan(config, rows=1_000_000)
    work = sum(value for stage, value in summary["stage_seconds"].items() if stage != "wait")
    assert planned["per_sample"]["cpu_s"] == pytest.approx(work / summary["rows"])
    assert planned["per_sample"]["stored_bytes"] > 100
    assert planned["rows"] == 1_000_000
    assert planned["hours"] is None
    assert any("a guess" in note for note in planned["notes"]), "some forty clips"
    assert plan(config)["rows"] == summary["rows"]
