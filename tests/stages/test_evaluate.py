"""Predictions with truths, judged; the yardsticks are scikit-learn and scipy on the same file."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

from mmray.config import load_config
from mmray.errors import TableError
from mmray.results.evaluation import subgroups_of
from mmray.samples.index import make_index
from mmray.stages.evaluate import evaluate
from mmray.storage.filesystem import Storage
from mmray.tables.parts import write_partition
from mmray.tables.schemas import ERROR, prediction_schema
from mmray.targets import (
    ClassificationTarget,
    FittedClassification,
    FittedRegression,
    RegressionTarget,
    metadata_of,
)

MOODS = ["calm", "loud", "sad"]
FITTED = {
    "mood": FittedClassification(ClassificationTarget(kind="classification", classes=MOODS)),
    "score": FittedRegression(RegressionTarget(kind="regression"), 0.0, 1.0),
}
ROWS = 240


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """An output with an index of 240 samples of 48 groups; in room b predictions are worse by far."""
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    samples = [
        {
            "sample_id": f"s{i:03d}",
            "text": "some words",
            "split": ("train", "test", "test", "val")[i // 5 % 4],
            "speaker": f"speaker{i // 5}",
            "room": "ab"[i // 5 % 3 == 0],
            "age": str(20 + i // 5),
            "mood": MOODS[rng.integers(3)],
            "score": float(rng.normal()),
        }
        for i in range(ROWS)
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    config = load_config(
        {
            "output": str(folder / "out"),
            "samples": {
                "manifest": str(folder / "m.jsonl"),
                "keep": ["room", "age"],
                "split": {"group": "speaker"},
            },
            "targets": {"mood": {"kind": "classification"}, "score": {"kind": "regression"}},
            "features": {"words": {"kind": "tokens"}},
        }
    )
    make_index(config, Storage())
    predict(folder / "out/predictions/good", samples, 0.2)
    predict(folder / "out/predictions/poor", samples, 0.6)
    return folder / "out"


def predict(folder: Path, samples: list[dict], noise: float) -> None:
    rng = np.random.default_rng(1)
    probabilities, moods, scores = [], [], []
    for row in samples:
        p = rng.dirichlet(np.ones(3))
        if rng.random() > noise + 0.8 * (row["room"] == "b"):
            p = 0.3 * p + 0.7 * np.eye(3)[MOODS.index(row["mood"])]
        p = p.astype(np.float32)
        probabilities.append(p.tolist())
        moods.append(MOODS[int(p.argmax())])
        scores.append(row["score"] + rng.normal(0, noise))
    absent = {"stage": "score", "reason": "absent", "detail": "", "attempts": 1}
    gone = np.arange(len(samples)) % 40 == 7
    columns = {
        "sample_id": [row["sample_id"] for row in samples],
        "split": [row["split"] for row in samples],
        "mood": [row["mood"] for row in samples],
        "mood_predicted": pa.array(moods, mask=gone),
        "mood_probabilities": pa.array(probabilities, mask=gone),
        "score": [row["score"] for row in samples],
        "score_predicted": pa.array(scores, mask=gone),
        "present": [[] if none else ["words"] for none in gone],
        "model": ["m"] * len(samples),
        "error": pa.array([absent if none else None for none in gone], ERROR),
    }
    schema = prediction_schema({name: fitted.target for name, fitted in FITTED.items()})
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata_of(FITTED)))
    for number, start in enumerate(range(0, len(samples), 64)):
        write_partition(Storage(), str(folder), number, table.slice(start, 64))


@pytest.fixture(scope="module")
def found(project) -> dict:
    return evaluate(str(project / "predictions/good"), against=str(project / "predictions/poor"))


def rows_of(project: Path, name: str = "good"):
    frame = pq.read_table(project / "predictions" / name).to_pandas()
    return frame[frame["mood_predicted"].notna()]


def test_every_metric_is_what_scikit_learn_finds_in_the_file(project, found):
    frame = rows_of(project).query("split == 'test'")
    truth, said = frame["mood"], frame["mood_predicted"]
    p = np.stack(frame["mood_probabilities"]).astype(float)
    told = next(row for row in found["targets"]["mood"]["splits"] if row["split"] == "test")
    expected = {
        "accuracy": sk.accuracy_score(truth, said),
        "f1_macro": sk.f1_score(truth, said, average="macro"),
        "f1_weighted": sk.f1_score(truth, said, average="weighted"),
        "precision_macro": sk.precision_score(truth, said, average="macro"),
        "recall_weighted": sk.recall_score(truth, said, average="weighted"),
        "auroc": np.mean([sk.roc_auc_score(truth == name, p[:, i]) for i, name in enumerate(MOODS)]),
        "nll": -np.log(p[np.arange(len(p)), truth.map(MOODS.index)]).mean(),
    }
    assert {name: told["metrics"][name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert (told["n"], told["groups"]) == (len(frame), 24)
    numbers = next(row for row in found["targets"]["score"]["splits"] if row["split"] == "test")["metrics"]
    assert numbers["mae"] == pytest.approx(
        sk.mean_absolute_error(frame["score"], frame["score_predicted"]), rel=1e-12
    )
    every = sum(row["n"] + row["unpredicted"] for row in found["targets"]["mood"]["splits"])
    assert (every, found["rows"], found["unpredicted"]) == (ROWS, ROWS, 6)
    assert sk.confusion_matrix(truth, said).tolist() == found["targets"]["mood"]["confusion"]["counts"]
    for name, (low, high) in told["interval"].items():
        assert low < told["metrics"][name] < high or name == "ece", name


def test_a_weak_subgroup_is_found_with_its_distance_to_all_others(project, found):
    frame = rows_of(project).query("split == 'test'")
    index = pa.concat_tables(
        pq.read_table(path) for path in (project / "samples").glob("samples-*")
    ).to_pandas()
    frame = frame.merge(index[["sample_id", "room", "age"]], on="sample_id")
    right = frame["mood"] == frame["mood_predicted"]
    rooms = {row["value"]: row for row in found["targets"]["mood"]["by"]["room"]}
    for room in "ab":
        inside = frame["room"] == room
        assert rooms[room]["n"] == inside.sum()
        assert rooms[room]["metrics"]["accuracy"] == pytest.approx(right[inside].mean())
        far, low, high = rooms[room]["difference"]["accuracy"]
        assert far == pytest.approx(right[inside].mean() - right[~inside].mean())
        assert low < far < high
    assert rooms["b"]["difference"]["accuracy"][2] < 0 < rooms["a"]["difference"]["accuracy"][1]
    # Two subgroups are each other's rest, on the same resamples.
    a, b = (rooms[room]["difference"]["accuracy"] for room in "ab")
    assert a == pytest.approx([-b[0], -b[2], -b[1]])
    ages = found["targets"]["mood"]["by"]["age"]
    assert [row["n"] for row in ages] == [row["n"] for row in ages if row["n"] > 20]
    assert sum(row["n"] for row in ages) == len(frame)
    assert len(ages) == 4


def test_the_most_wrong_and_the_surest_of_the_wrong(project, found):
    frame = rows_of(project).query("split == 'test'").set_index("sample_id")
    error = (frame["score"] - frame["score_predicted"]).abs().sort_values(ascending=False)
    assert [row["sample_id"] for row in found["targets"]["score"]["wrong"]] == list(error.index[:20])
    sure = frame["mood_probabilities"].map(max)[frame["mood"] != frame["mood_predicted"]]
    told = found["targets"]["mood"]["certain"]
    assert [row["confidence"] for row in told] == pytest.approx(sorted(sure, reverse=True)[:20])
    assert all(row["truth"] != row["predicted"] for row in told)
    bins = found["targets"]["mood"]["calibration"]
    assert sum(row["n"] for row in bins) == len(frame)


def test_two_tables_are_compared_row_by_row(project, found, tmp_path):
    good, poor = (rows_of(project, name).query("split == 'test'") for name in ("good", "poor"))
    told = found["targets"]["mood"]["against"]
    difference = (good["mood"] == good["mood_predicted"]).mean() - (
        poor["mood"] == poor["mood_predicted"]
    ).mean()
    far, low, high = told["difference"]["accuracy"]
    assert far == pytest.approx(difference)
    assert low < far < high
    assert low > 0
    assert told["n"] == len(good)
    good = str(project / "predictions/good")
    same = evaluate(good, against=good, by=["room"], output=str(tmp_path))
    assert same["targets"]["mood"]["against"]["difference"]["nll"] == [0, 0, 0]


def test_the_tables_lie_beside_the_predictions(project, found):
    folder = project / "evaluations/good"
    assert found["output"] == str(folder)
    assert json.loads((folder / "evaluation.json").read_text())["rows"] == ROWS
    with (folder / "subgroups.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["column"] for line in lines} == {"present", "room", "age"}
    assert {line["metric"] for line in lines} >= {"accuracy", "mae"}


def test_what_cannot_be_judged_is_refused_with_the_remedy(project, tmp_path):
    with pytest.raises(TableError, match=r"no column mood_2 .*room"):
        evaluate(str(project / "predictions/good"), by=["mood_2"])
    with pytest.raises(TableError, match="no predictions here"):
        evaluate(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["b", "a", None, "b"]), ["(none)", "a", "b"]),
        (pa.array([["x"], [], ["x", "y"]]), ["", "x", "x + y"]),
        (pa.array([1, 2, 2]), ["1", "2"]),
        (pa.array([f"v{i // 2 if i < 38 else i}" for i in range(60)]), 21),
    ],
)
def test_columns_become_subgroups(values, expected):
    cut = subgroups_of(pa.chunked_array([values]))
    assert cut.values == expected if isinstance(expected, list) else len(cut.values) == expected
    assert len(cut.of_row) == len(values)


def test_many_numbers_are_quarters():
    numbers = np.arange(100.0)
    cut = subgroups_of(pa.chunked_array([pa.array([*numbers, None])]))
    assert np.bincount(cut.of_row).tolist() == [25, 25, 25, 25, 1]
    assert cut.values[-1] == "(none)"
