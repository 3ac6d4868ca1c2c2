"""Results of folds and of seeds put together, against the arithmetic by hand; yardsticks against numpy."""

import numpy as np
import pytest

from mmray.targets import ClassificationTarget, MultilabelTarget, OrdinalTarget, RegressionTarget
from mmray.training.batches import FeatureSet, Ragged
from mmray.training.comparison import Entry, Rows, joined, model_rows, words
from mmray.training.yardsticks import fit_yardstick, row_vectors

RNG = np.random.default_rng(0)


def ids(count: int) -> np.ndarray:
    return np.array([f"s{i}" for i in range(count)], dtype=object)


def test_seeds_together_say_the_mean_of_their_probabilities():
    labels = np.array(["a", "b", "c", "a"], dtype=object)
    target = ClassificationTarget(kind="classification").fit("t", labels, ids(4), np.ones(4, bool))
    members = [RNG.normal(0, 3, (4, 3)).astype(np.float32) for _ in range(3)]
    p = np.mean([np.exp(y) / np.exp(y).sum(1, keepdims=True) for y in members], axis=0)
    assert target.decode(target.averaged(members)).probabilities == pytest.approx(p, rel=1e-5)

    levels = OrdinalTarget(kind="ordinal", classes=["low", "mid", "high"])
    target = levels.fit("t", np.array(["low", "mid", "high", "low"], dtype=object), ids(4), np.ones(4, bool))
    members = [-np.sort(-RNG.normal(0, 2, (4, 2)), axis=1).astype(np.float32) for _ in range(2)]
    p = np.mean([np.asarray(target.decode(y).probabilities) for y in members], axis=0)
    assert target.decode(target.averaged(members)).probabilities == pytest.approx(p, abs=1e-5)

    sets = np.array([["x"], ["y"], ["x", "y"], []], dtype=object)
    target = MultilabelTarget(kind="multilabel").fit("t", sets, ids(4), np.ones(4, bool))
    p = np.mean([1 / (1 + np.exp(-y)) for y in members], axis=0)
    assert target.decode(target.averaged(members)).probabilities == pytest.approx(p, rel=1e-5)

    numbers = RegressionTarget(kind="regression").fit("t", np.arange(4.0), ids(4), np.ones(4, bool))
    members = [RNG.normal(size=(4, 1)) for _ in range(3)]
    values = np.mean([numbers.decode(y).values for y in members], axis=0)
    assert numbers.decode(numbers.averaged(members)).values == pytest.approx(values)


def result(right: list[int], groups: list[int], monitored: float = 0.5) -> dict:
    share = sum(right) / len(right)
    report = {"rows": len(right), "main": "accuracy", "metrics": {"accuracy": share}}
    report |= {"majority": {"accuracy": 0.5}, "scores": [right, [1] * len(right), groups]}
    return {"monitored": monitored, "seconds": 1.0, "parameters": 3, "test": {"t": report}}


def test_folds_are_judged_as_one_test_split_whose_groups_stay_apart():
    both = joined([result([1, 1, 0], [0, 0, 1], 0.4), result([0], [0], 0.6)])
    assert both["test"]["t"]["metrics"]["accuracy"] == pytest.approx(2 / 4)
    assert both["test"]["t"]["scores"] == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 2]]
    assert (both["monitored"], both["seconds"]) == (pytest.approx(0.5), 2.0)
    undefined = joined([result([1], [0]), {**result([1], [0]), "monitored": None}])
    assert undefined["monitored"] is None


def test_what_a_row_is_held_against_is_chosen_by_validation_and_not_by_test():
    rows = list(range(40))
    good, bad = [int(i % 4 > 0) for i in rows], [int(i % 4 > 1) for i in rows]
    entries = [
        Entry("voice only", ["voice"], [result(bad, rows, 0.9)], {}),
        Entry("face only", ["face"], [result(good, rows, 0.6)], {}),
        Entry("late", ["face", "voice"], [result(good, rows, 0.95), result(bad, rows, 0.95)], {}),
        Entry("concat", ["face", "voice"], [result(good, rows, 0.8)], {}),
        Entry("svm", ["face", "voice"], [result(good, rows, 0.99)], {}, comparable=False),
    ]
    table = {row["model"]: row for row in model_rows(entries, "t/accuracy")}
    assert [name for name, row in table.items() if row["single"]] == ["voice only"], "worse on test"
    assert [name for name, row in table.items() if row["chosen"]] == ["late"]
    assert table["concat"]["difference"]["t/accuracy"][0] == pytest.approx(0.25)
    assert table["late"]["difference"]["t/accuracy"][0] == pytest.approx(0.125)
    low, high = table["concat"]["difference"]["t/accuracy"][1:]
    assert 0 < low < 0.25 < high
    told = " ".join(words(list(table.values()), "t/accuracy"))
    assert "late" in told
    assert "3 differences" in told


def test_rows_become_vectors_by_interpolation_over_time():
    values = np.array([[0.0], [2.0], [4.0], [10.0]], np.float32)
    ragged = Ragged(values, np.array([0, 3, 3, 4]))
    found = row_vectors(ragged, steps=5)
    assert found[0] == pytest.approx([0, 1, 2, 3, 4])
    assert np.isnan(found[1]).all(), "it has no step"
    assert found[2] == pytest.approx([10] * 5)
    assert row_vectors(ragged, steps=5, centred=True)[0] == pytest.approx([-2, -1, 0, 1, 2])


def table(rows: int = 240) -> FeatureSet:
    """A class of which voice and words tell one bit each, and a number near it."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, rows)
    lengths = rng.integers(1, 5, rows)
    lengths[::17] = 0
    vectors = np.concatenate([rng.normal(4 * (t % 2), 1, (n, 3)) for t, n in zip(truth, lengths)])
    words = [[("small", "large")[t // 2], f"noise{rng.integers(5)}"] for t in truth]
    return FeatureSet(
        ids(rows),
        np.array([("train", "train", "val", "test")[i % 4] for i in range(rows)], dtype=object),
        {
            "voice": Ragged(vectors.astype(np.float32), np.concatenate([[0], np.cumsum(lengths)])),
            "words": Ragged(np.array(words, dtype=object).ravel(), np.arange(rows + 1) * 2),
        },
        {"t": np.array([f"c{t}" for t in truth], dtype=object), "x": truth + rng.normal(0, 0.1, rows)},
    )


@pytest.mark.parametrize("kind", ["svm", "logistic"])
def test_a_yardstick_learns_what_is_there_and_no_more(kind):
    targets = {"t": ClassificationTarget(kind="classification"), "x": RegressionTarget(kind="regression")}
    data = table()
    rows = Rows.of(data, targets, data.seen)
    told = {}
    for features in (["voice"], ["words"], ["voice", "words"]):
        outputs, chosen = fit_yardstick(kind, data, features, targets)
        found = rows.result(outputs, "t/accuracy")
        told[" ".join(features)] = found["test"]["t"]["metrics"]["accuracy"]
        assert chosen.keys() == targets.keys()
        truth = data.targets["t"][data.split == "val"]
        names = rows.targets["t"].names or []
        right = [names[i] for i in outputs["val"]["t"].argmax(1)] == truth
        assert found["monitored"] == pytest.approx(np.mean(right))
    assert told["voice words"] > 0.85
    assert max(told["voice"], told["words"]) < 0.65
