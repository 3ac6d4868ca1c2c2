"""Training, sweeps and scoring on a real Ray, from a feature table whose answer needs both modalities."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.config import Config, load_config, override
from mmray.errors import ConfigError, PlanError, SamplesError, TableError
from mmray.stages.evaluate import evaluate
from mmray.stages.explain import explain
from mmray.stages.score import score
from mmray.stages.train import train
from mmray.stages.tune import tune
from mmray.storage.filesystem import Storage
from mmray.tables.parts import read_table
from mmray.tables.read import read

pytestmark = pytest.mark.usefixtures("ray_cluster")


def relabel(config: Config, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every row of the manifest."""
    manifest = Path(str(config.samples.manifest))
    rows = [change(json.loads(line)) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_workers_learn_what_one_does_and_the_same_seed_gives_the_same_model(table_project):
    two = train(table_project("train.workers=2"))
    again = train(table_project("train.workers=2", name="again"))
    one = train(table_project("train.workers=1", name="one"))
    assert [two["workers"], one["workers"]] == [2, 1]
    assert two["model_fingerprint"] == again["model_fingerprint"]
    timeless = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in two["history"]]
    assert timeless == [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in again["history"]]
    for a, b in zip(two["history"], one["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)


def test_scored_rows_are_the_tables_rows_and_give_the_metrics_that_training_told(table_project):
    config = table_project("train.epochs=8", "train.baselines=true", "model.unimodal_heads=0.1")
    results = train(config)
    rows = {row["model"]: row for row in results["rows"]}
    assert list(rows) == ["majority", "voice only", "words only", "head: voice", "head: words", "fused"]

    summary = score(config)
    predictions = pa.concat_tables(read_table(Storage(), summary["output"]))
    truth = read(config).select(["sample_id", "split", "emotion", "score"])
    for name in ("sample_id", "split", "emotion", "score"):
        assert predictions[name].to_pylist() == truth[name].to_pylist()
    assert summary["rows"] == summary["rows_this_run"] == truth.num_rows

    test = predictions.to_pandas().query("split == 'test'")
    nothing = test["present"].map(len) == 0
    assert nothing.sum() == 2, (
        "a row that has nothing is not predicted, and not judged by what is no prediction"
    )
    assert test[nothing]["emotion_predicted"].isna().all()
    test = test[~nothing]
    accuracy = (test["emotion"] == test["emotion_predicted"]).mean()
    error = np.abs(test["score"] - test["score_predicted"]).mean()
    assert rows["fused"]["n"] == len(test)
    assert rows["fused"]["metrics"]["emotion/accuracy"] == pytest.approx(accuracy)
    assert rows["fused"]["metrics"]["score/mae"] == pytest.approx(error, rel=1e-4)
    by_pattern = test.groupby(test["present"].map(tuple)).apply(
        lambda part: (len(part), (part["emotion"] == part["emotion_predicted"]).mean())
    )
    assert {tuple(row["present"]): row["n"] for row in results["patterns"]} == by_pattern.str[0].to_dict()
    assert {
        tuple(row["present"]): row["metrics"]["emotion/accuracy"] for row in results["patterns"]
    } == pytest.approx(by_pattern.str[1].to_dict())
    low, high = rows["fused"]["interval"]["emotion/accuracy"]
    assert low <= accuracy <= high
    # Each modality tells one of two bits: alone they stay near 1/2, together they do not.
    alone = max(rows[name]["metrics"]["emotion/accuracy"] for name in ("voice only", "words only"))
    assert accuracy > alone + 0.1

    explains_what_it_predicts(config, predictions)
    told = evaluate(config)
    for name, target in told["targets"].items():
        (worth,) = [row for row in target["splits"] if row["split"] == "test"]
        there = {key: rows["fused"]["metrics"][f"{name}/{key}"] for key in worth["metrics"]}
        assert worth["metrics"] == pytest.approx(there, rel=1e-5)
        main = f"{name}/{target['main']}"
        assert worth["interval"][target["main"]] == pytest.approx(rows["fused"]["interval"][main], rel=1e-5)

    card = (Path(results["model"]) / "README.md").read_text()
    assert re.search(rf"\| (\*\*)?fused(\*\*)? \| {rows['fused']['n']} \|", card)
    assert re.search(r"\| test \| \d+ \| \d+ \|", card)
    assert "### emotion by present, test rows" in card

    before = {path: path.stat().st_mtime_ns for path in Path(summary["output"]).glob("part-*")}
    assert score(config)["rows_this_run"] == 0
    assert train(config) == results
    assert {path: path.stat().st_mtime_ns for path in Path(summary["output"]).glob("part-*")} == before
    (Path(summary["output"]) / "part-000001.parquet").unlink()
    assert score(config)["rows_this_run"] == 64


def explains_what_it_predicts(config: Config, predictions: pa.Table) -> None:
    """The explanation is of the rows and numbers that `score` gives; modalities add up to them."""
    told = explain(config, samples=4)
    shown = [row["split"] == "test" and row["error"] is None for row in predictions.to_pylist()]
    assert told["rows"] == sum(shown)
    folder = Path(told["output"])
    stored = {row["sample_id"]: row for row in predictions.to_pylist()}
    rows = pq.read_table(folder / "modalities.parquet").to_pylist()
    assert len(rows) == 2 * told["rows"]
    for row in rows:
        there = stored[row["sample_id"]]
        assert row["value"] == pytest.approx(row["base"] + row["voice"] + row["words"])
        if row["target"] == "emotion":
            assert row["predicted"] == there["emotion_predicted"]
            assert row["value"] == pytest.approx(max(there["emotion_probabilities"]), abs=1e-4)
        else:
            assert row["value"] == pytest.approx(there["score_predicted"], abs=1e-3)
    emotion = told["targets"]["emotion"]
    change = emotion["modalities"]["all"] - emotion["modalities"]["nothing"]
    assert sum(emotion["modalities"]["metric"].values()) == pytest.approx(change)
    assert emotion["robustness"]["noise"]["words"][-1][1] < emotion["modalities"]["all"]
    assert 0 <= emotion["surrogate"]["fidelity"] <= 1
    steps = pq.read_table(folder / "steps.parquet").to_pandas()
    assert steps["sample_id"].nunique() == 4
    neighbours = pq.read_table(folder / "neighbours.parquet").to_pandas()
    assert (neighbours.groupby("sample_id").size() == 5).all()
    split = {row["sample_id"]: row["split"] for row in predictions.to_pylist()}
    assert {split[name] for name in neighbours["neighbour"]} == {"train"}


def test_training_leaves_a_whole_checkpoint_tensorboard_logs_and_no_overwritten_model(table_project):
    config = table_project("train.workers=1", "train.epochs=2")
    first = train(config)
    model = Path(first["model"])
    assert {path.name for path in model.iterdir()} == {
        "README.md",
        "features.json",
        "model.json",
        "results.json",
        "vocabulary.json",
        "weights.pt",
    }
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(config.path("train", first["run"], "tensorboard"))
    events.Reload()
    logged = [event.value for event in events.Scalars("val_loss")]
    assert logged == pytest.approx([epoch["val_loss"] for epoch in first["history"]])
    saved = {path: path.read_bytes() for path in model.iterdir()}
    second = train(table_project("train.workers=1", "train.epochs=2", "train.learning_rate=0.02"))
    assert second["model"] != first["model"]
    assert {path: path.read_bytes() for path in model.iterdir()} == saved


def test_faults_are_told_before_any_worker_starts(table_project, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("mmray.distributed.pools.connect", fail)
    config = table_project()
    relabel(config, lambda row: {**row, "emotion": "unheard"} if row["sample_id"] == "s004" else row)
    with pytest.raises(SamplesError, match=r"unheard.*s004"):
        train(config)
    config = table_project(name="novalidation")
    relabel(config, lambda row: {**row, "split": "train"})
    with pytest.raises(SamplesError, match="val split has no samples"):
        train(config)
    config = table_project(
        "train.monitor=score/correlation", "tune.space={train.epochs: {grid: [1]}}", name="flat"
    )
    relabel(config, lambda row: {**row, "score": 1.0} if row["split"] == "val" else row)
    for stage in (train, tune):
        with pytest.raises(SamplesError, match=r"score/correlation is undefined .* all have the same"):
            stage(config)
    config = table_project(name="other")
    with pytest.raises(TableError, match="no complete table of voice"):
        train(override(config, {"features.voice.hop_ms": 20.0}))
    with pytest.raises(TableError, match="run `mmray train` first"):
        score(config)
    nothing = config.model_copy(update={"output": f"{config.output}-nothing"})
    with pytest.raises(TableError, match="no complete table of voice, words"):
        train(nothing)


def test_a_worker_count_that_cannot_run_is_refused(table_project):
    with pytest.raises(PlanError, match="needs 9 CPU"):
        train(table_project("train.workers=9", "train.cpus_per_worker=1.0"))


def test_a_loss_that_is_not_finite_is_a_fault_and_not_a_restart(table_project):
    with pytest.raises(Exception, match="not finite") as caught:
        train(table_project("train.workers=1", "train.learning_rate=1e30", "train.clip_norm=null"))
    assert type(caught.value).__module__ == "mmray.errors"


def test_a_sweep_finds_its_best_trial_and_its_config_gives_the_same_value(table_project, tmp_path):
    config = table_project(
        "train.epochs=4",
        "tune.trials=2",
        "tune.grace_epochs=1",
        "tune.retrain_seeds=2",
        "tune.space={train.learning_rate: {grid: [1e-9, 1e-2]}, model.fusion.hidden: {choice: [8, 16]}}",
    )
    summary = tune(config)
    with (Path(summary["output"]) / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == summary["trials"] == 4
    assert sorted(float(t["train.learning_rate"]) for t in trials) == [1e-9, 1e-9, 1e-2, 1e-2]
    losses = [float(trial["best"]) for trial in trials]
    assert losses == sorted(losses)
    assert summary["best_value"] == losses[0]
    assert summary["best_settings"]["train.learning_rate"] == 1e-2
    assert summary["importance"]["train.learning_rate"] > 0.8
    assert summary["expected_best"][0] == pytest.approx(np.mean(losses))
    assert losses[0] <= summary["expected_best"][-1] <= summary["expected_best"][0]
    for curve, trial in zip(summary["curves"], trials, strict=True):
        assert len(curve["values"]) == int(trial["epochs"])
        assert min(curve["values"]) == pytest.approx(float(trial["best"]))
    winner = {row["model"]: row for row in summary["test"]["rows"]}
    assert list(winner) == ["majority", "fused", "fused, ensemble of 2"]
    assert winner["fused"]["seeds"] == 2

    best = load_config(summary["best_config"])
    searched = {"train", "model"}
    assert best.model_dump(exclude=searched) == config.model_dump(exclude=searched)
    assert train(best)["history"][int(trials[0]["best_epoch"]) - 1]["val_loss"] == pytest.approx(losses[0])
    # A finished search is read, not run again.
    assert tune(config) == summary


def test_of_a_population_the_worst_go_on_from_the_weights_of_the_best(table_project):
    """Of four trials three learn next to nothing; at the end of a rung one of them inherits."""
    config = table_project(
        "train.epochs=8",
        "train.patience=8",
        "tune={scheduler: pbt, trials: 1, concurrent: 2, grace_epochs: 2, retrain_seeds: 0}",
        "tune.space={train.learning_rate: {grid: [1e-7, 2e-7, 3e-7, 1e-2]}}",
    )
    summary = tune(config)
    assert summary["states"]["ended"] == 4
    first = [curve["values"][0] for curve in summary["curves"]]
    last = [curve["values"][-1] for curve in summary["curves"]]
    assert len(set(np.round(first, 4))) < 4, "an heir has the first epochs of whom it inherits from"
    assert sum(value < first[0] - 0.1 for value in last) >= 2
    assert all(len(curve["values"]) == 8 for curve in summary["curves"])


def test_a_trial_may_be_several_workers_and_finds_what_one_finds(table_project):
    values = []
    for workers in (1, 2):
        config = table_project(
            "train.epochs=2",
            f"tune.workers={workers}",
            "tune.retrain_seeds=0",
            "tune.scheduler=none",
            "tune.space={train.learning_rate: {grid: [1e-2]}}",
            name=f"out{workers}",
        )
        summary = tune(config)
        assert summary["states"]["ended"] == 1
        assert summary["concurrent"] == 4 // workers
        values.append(summary["curves"][0]["values"])
        assert load_config(summary["best_config"]).train.workers == workers
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_a_space_with_a_wrong_value_is_refused_before_ray(table_project, monkeypatch):
    monkeypatch.setattr("mmray.distributed.pools.connect", lambda *_: pytest.fail("Ray was asked for"))
    with pytest.raises(ConfigError) as caught:
        tune(table_project("tune.space={train.batch_size: {choice: [8, -1]}}"))
    assert "tune.space.train.batch_size" in str(caught.value)
    with pytest.raises(ConfigError, match="is empty"):
        tune(table_project())


def test_several_models_score_a_config_s_samples_side_by_side_and_together(table_project):
    config = table_project("train.workers=1", "train.epochs=1")
    models = [train(override(config, {"train.seed": seed}))["model"] for seed in (0, 1)]
    summary = score(config, model=models)
    assert summary["rows"] == summary["rows_this_run"] == 203
    assert len(summary["models"]) == 2
    together = pa.concat_tables(read_table(Storage(), summary["output"]))
    own = [pa.concat_tables(read_table(Storage(), each["output"])) for each in summary["models"].values()]
    mean = np.mean([table["score_predicted"].to_numpy() for table in own], axis=0)
    np.testing.assert_allclose(together["score_predicted"].to_numpy(), mean)
    assert together["emotion"] == own[0]["emotion"]
    again = score(config, model=models)
    assert (again["rows_this_run"], again["output"]) == (0, summary["output"])

    # Another option is another table, made again; a target that a model does not know is told.
    held = score(override(config, {"score.abstain_below": 0.99, "score.top_k": 2}), model=models[0])
    table = pa.concat_tables(read_table(Storage(), held["output"]))
    assert held["rows_this_run"] == 203
    assert held["abstained"] == table["emotion_predicted"].null_count - held["unpredicted"] > 0
    tops = [top for top in table["emotion_top"].to_pylist() if top is not None]
    assert {len(top) for top in tops} == {2}
    assert len(tops) == 203 - held["unpredicted"]
    with pytest.raises(ConfigError, match="no such class; there are class0"):
        score(override(config, {"score.thresholds": {"emotion": {"happy": 0.5}}}), model=models[0])
    with pytest.raises(TableError, match=r"(?s)made with other settings.*hop_ms"):
        score(override(config, {"features.voice.hop_ms": 20.0}), model=models[0])
