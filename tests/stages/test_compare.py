"""The comparison table: its arithmetic against the runs' own files, what is chosen by, and going on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmray.config import load_config
from mmray.errors import ConfigError
from mmray.results.table import ResultsTable
from mmray.stages.compare import compare, planned_runs, table_rows
from mmray.stages.report import write_report
from mmray.storage.filesystem import Storage
from mmray.tables.identity import run_name
from mmray.tables.read import read

MODELS = (
    "compare.models={concat: {}, late: {model.fusion: {kind: late}}, voice_mlp: {features: [voice], "
    "model.encoders.voice: {kind: mlp}}}"
)


def naming(config) -> str:
    return run_name(config, "data")


def runs_in(config) -> dict[str, dict]:
    folder = Path(config.path("compare", "runs"))
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.usefixtures("ray_cluster")
def test_the_table_is_what_its_runs_say_and_one_model_more_trains_that_model_only(table_project):
    # A sweep's setting that one of the models does not have is no fault of the comparison.
    sweep = "tune.space={model.fusion.hidden: {choice: [8, 16]}}"
    settings = ["train.epochs=3", "compare.seeds=[0, 1]", sweep, MODELS, "compare.yardsticks=[logistic]"]
    config = table_project(*settings)
    summary = compare(config)
    assert (summary["runs"], summary["runs_now"], summary["failed"]) == (13, 13, {})
    rows = {row["model"]: row for row in summary["rows"]}
    trained = ["voice only", "words only", "concat", "late", "voice_mlp"]
    yardsticks = ["logistic, voice only", "logistic, words only", "logistic"]
    ensembles = [f"{model}, ensemble of 2" for model in trained]
    assert list(rows) == ["majority", *trained, *yardsticks, *ensembles]
    runs = runs_in(config)
    test_rows = read(config)["split"].to_pylist().count("test") - 2  # which have nothing to be judged by
    output = Path(summary["output"])
    table = (output / "compare.md").read_text().splitlines()
    cells = [cell.strip() for cell in table[5].strip("|").split("|")]
    assert cells[:3] == ["concat", str(test_rows), "2"]
    with (output / "compare.csv").open() as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    concat = [run["test"] for run in runs.values() if run["model"] == "concat"]
    for target, metric in (("emotion", "accuracy"), ("score", "mae")):
        told = rows["concat"]["metrics"][f"{target}/{metric}"]
        values = [reports[target]["metrics"][metric] for reports in concat]
        assert told["mean"] == pytest.approx(np.mean(values))
        assert told["std"] == pytest.approx(np.std(values, ddof=1))
        for report in (reports[target] for reports in concat):
            parts, wholes, groups = report["scores"]
            assert report["main"] == metric
            assert len(groups) == len(parts)
            assert len(parts) == report["rows"] == rows["concat"]["n"] == test_rows
            assert np.sum(parts) / np.sum(wholes) == pytest.approx(report["metrics"][metric], abs=1e-6)
        low, high = rows["concat"]["interval"][f"{target}/{metric}"]
        assert low <= told["mean"] <= high
        assert f"{told['mean']:.3f} ± {told['std']:.3f} [{low:.3f}, {high:.3f}]" in cells
        assert float(lines["concat"][f"{target}/{metric} mean"]) == told["mean"]
    assert rows["voice_mlp"]["features"] == ["voice"]
    # What is held against what, and what is marked, follows from validation alone: the lowest loss.
    single = min(("voice only", "words only", "voice_mlp"), key=lambda model: rows[model]["validation"])
    of_one = [m for m in rows if len(rows[m]["features"]) == 1 and not m.startswith("logistic")]
    best_single = min(of_one, key=lambda model: rows[model]["validation"])
    assert best_single in (single, *(m for m in ensembles))
    assert [model for model in rows if rows[model].get("single")] == [best_single]
    judged = [model for model in rows if rows[model]["validation"] and not model.startswith("logistic")]
    chosen = min(judged, key=lambda model: rows[model]["validation"])
    assert [model for model in rows if rows[model].get("chosen")] == [chosen]
    assert chosen in summary["notes"][0]
    for model in ("concat", "late", "logistic", "concat, ensemble of 2"):
        ahead, low, high = rows[model]["difference"]["emotion/accuracy"]
        means = [rows[m]["metrics"]["emotion/accuracy"]["mean"] for m in (model, best_single)]
        assert ahead == pytest.approx(means[0] - means[1])
        assert low <= ahead <= high
    assert not rows["voice only"]["difference"]
    # The answer needs both: another library's model finds that out as well.
    both = rows["logistic"]["metrics"]["emotion/accuracy"]["mean"]
    assert both > rows["logistic, voice only"]["metrics"]["emotion/accuracy"]["mean"] + 0.2
    assert rows["late"]["parameters"] != rows["concat"]["parameters"]

    assert all("concat" in (output / f"compare-{name}.svg").read_text() for name in ("emotion", "score"))
    assert "Comparison" in Path(write_report(config.output, Storage(), config)).read_text()

    times = {path: path.stat().st_mtime_ns for path in Path(config.path("compare", "runs")).iterdir()}
    more = MODELS.replace("concat: {}", "concat: {}, wide: {model.fusion.hidden: 32}")
    config = table_project(*settings[:3], more)
    summary = compare(config)
    assert (summary["runs"], summary["runs_now"]) == (12, 2)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.usefixtures("ray_cluster")
def test_over_folds_every_row_is_judged_once(table_project):
    config = table_project()
    manifest = Path(str(config.samples.manifest))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text(
        "".join(json.dumps({k: v for k, v in r.items() if k != "split"}) + "\n" for r in rows)
    )
    split = "samples.split={folds: 3, fold: 1}"
    more = (
        split,
        "train.epochs=2",
        "compare={seeds: [0], folds: true, models: {late: {model.fusion.kind: late}}}",
    )
    config = load_config(str(manifest).replace(".jsonl", ".yaml"), more)
    summary = compare(config)
    assert summary["runs"] == summary["runs_now"] == 9
    by_model = {row["model"]: row for row in summary["rows"]}
    judged = len(rows) - 2  # but for those that have no feature
    assert by_model["late"]["n"] == judged
    assert (by_model["late"]["seeds"], by_model["late"]["folds"]) == (1, 3)
    of_late = [run["test"]["emotion"] for run in runs_in(config).values() if run["model"] == "late"]
    right = sum(sum(report["scores"][0]) for report in of_late)
    assert by_model["late"]["metrics"]["emotion/accuracy"]["mean"] == pytest.approx(right / judged)
    assert read(config)["split"].to_pylist().count("test") < len(rows) / 2, "the index is as the config says"
    assert compare(config)["runs_now"] == 0


def test_a_variant_is_chosen_by_its_mean_on_validation_alone(table_project):
    config = table_project(
        "train.monitor=emotion/accuracy",
        "compare.seeds=[0, 1]",
        "compare.models={concat: {}}",
        "compare.variants=[{train.learning_rate: 1e-3}, {train.learning_rate: 1e-2}]",
    )
    runs = [run for run in planned_runs(config, naming) if run.model == "concat"]
    assert len({run.key for run in runs}) == 4
    # (validation, test) of each run: the better variant on average is the worse one on test.
    values = {(0, 0): (0.9, 0.1), (0, 1): (0.5, 0.1), (1, 0): (0.6, 1.0), (1, 1): (0.6, 1.0)}

    def found(run) -> dict:
        validation, accuracy = values[run.variant, run.seed]
        report = {"rows": 10, "main": "accuracy", "metrics": {"accuracy": accuracy}}
        report |= {"majority": {"accuracy": 0.3}, "scores": [[accuracy] * 10, [1.0] * 10, [*range(10)]]}
        return {"monitored": validation, "parameters": 7, "seconds": 1.0, "test": {"emotion": report}}

    majority, row = table_rows(config, {run: found(run) for run in runs})
    assert row["settings"] == {"train.learning_rate": 1e-3}
    assert row["validation"] == pytest.approx(0.7)
    assert row["metrics"]["emotion/accuracy"]["mean"] == pytest.approx(0.1)
    assert majority["metrics"]["emotion/accuracy"]["mean"] == 0.3
    assert ResultsTable.from_json([majority, row]).to_markdown().splitlines()[2:] == [
        "| majority | 10 | – | 0.300 | 0 | – |  |",
        "| concat | 10 | 2 | 0.100 ± 0.000 [0.100, 0.100] | 7 | 1.0 | train.learning_rate=0.001 |",
    ]


def test_models_that_are_none_are_told_with_the_config(table_project):
    for overrides, told in {
        "compare.models={a: {features: [face]}}": r"compare\.models\.a\.features +must be a list of some of",
        "compare.models={a: {model.fusion.hiden: 3}}": r"compare\.models\.a .*did you mean 'hidden'",
        "compare.models={a: {output: x}}": r"output: only model\.… and train\.…",
        "compare.variants=[{train.batch_size: 0}]": r"compare\.variants\.0 ",
    }.items():
        with pytest.raises(ConfigError, match=told):
            table_project(overrides)
    with pytest.raises(ConfigError, match=r"compare\.variants\.0 +with models\.late: model\.fusion"):
        table_project(
            "compare.models={late: {model.fusion.kind: late}}", "compare.variants=[{model.fusion.hidden: 8}]"
        )


def test_killed_in_the_middle_it_goes_on_with_the_runs_that_are_missing(table_project, tmp_path):
    settings = ("train.epochs=20", "train.patience=20", "compare.seeds=[0, 1]")
    config = table_project(*settings)
    command = [sys.executable, "-m", "mmray", "compare", str(tmp_path / "out.yaml"), *settings]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    runs = Path(config.path("compare", "runs"))
    deadline = time.monotonic() + 120
    while not list(runs.glob("*.json")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {path: path.read_bytes() for path in runs.glob("*.json")}
    assert 0 < len(before) < 6
    ended = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["runs"] == len(list(runs.glob("*.json"))) == 6
    # A worker may outlive the driver by the run it is at.
    assert 0 < summary["runs_now"] <= 6 - len(before)
    assert {path: path.read_bytes() for path in before} == before
