"""What is said of a search's trials: importance against settings that do and do not matter."""

import csv
import io
import math

import numpy as np

from mmray.training.search import as_csv, importance, told


def trial(best: float | None, curve: list[float] | None = None, **settings) -> dict:
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    state = "failed" if best is None else "ended"
    return {"settings": settings, "best": best, "state": state, "curve": curve or [], "error": None}


def test_what_decides_the_value_is_important_and_what_does_not_is_not():
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(40):
        rate, kind, size = 10 ** rng.uniform(-5, -1), rng.choice(["a", "b"]), int(rng.integers(1, 9))
        value = abs(math.log10(rate) + 3) + (0.3 if kind == "a" else 0.0)
        trials.append(trial(value, train__rate=float(rate), model__kind=str(kind), model__size=size))
    found = importance(trials)
    assert found["train.rate"] > 0.7 > found["model.kind"]
    assert found["model.size"] < 0.1
    assert abs(sum(found.values()) - 1) < 1e-2


def test_where_nothing_can_be_told_nothing_is():
    assert importance([trial(1.0, x=1), trial(2.0, x=2)]) == {}, "too few"
    assert importance([trial(1.0, x=i) for i in range(9)]) == {}, "all the same"
    assert importance([trial(float(i), x=1) for i in range(9)]) == {}, "nothing varied"
    # A failed trial, and a setting of one kind only, are left out.
    trials = [trial(float(i), x=i) if i % 2 else trial(float(i), x=i, y=i) for i in range(9)]
    trials.append(trial(None, x=0))
    assert importance(trials) == {"x": 1.0}


def test_the_table_and_the_curves_have_every_trial():
    trials = [trial(0.5, [0.7, 0.5], a=1), trial(0.9, [math.nan, 0.9], b=[1, 2]), trial(None)]
    lines = list(csv.DictReader(io.StringIO(as_csv(trials, ["a", "b"]).decode())))
    assert [line["a"] for line in lines] == ["1", "", ""]
    assert lines[1]["b"] == "[1, 2]"
    found = told(trials, lower_is_better=True)
    assert [curve["values"] for curve in found["curves"]] == [[0.7, 0.5], [None, 0.9], []]
    assert found["expected_best"] == [0.7, 0.6]
