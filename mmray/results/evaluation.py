"""A table of predictions with truths → what they are worth: by split, by subgroup, and where they fail.

    splits       every metric with its interval; rows with a truth and without a prediction are counted apart
    by           the same for each value of a column, and how far it is from all other rows
    calibration  how often it was right by how sure it was
    confusion    of classes
    wrong        the rows that are furthest from their truth
    certain      the wrong rows that it was surest of
    against      another table's predictions of the same rows: paired differences

Intervals are a bootstrap's over groups (`mmray.training.aggregate`). Everything is a function of the table
alone: scikit-learn finds the same figures in the same columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmray.errors import TableError
from mmray.results.predictions import Judged
from mmray.results.rows import number_or_null
from mmray.targets import Predicted
from mmray.targets.metrics import reliability
from mmray.training.aggregate import bootstrap_intervals

__all__ = ["Subgroups", "compared", "evaluation", "subgroups_of", "subset"]

SPLITS = ("train", "val", "test", "")
NO_VALUE = "(none)"
OTHERS = "(others)"
MAX_VALUES = 20
"""Of a column; the rarer ones are one."""
QUARTERS = 4
"""Into which many numbers are cut."""
WORST = 20
RESAMPLES = 1000
LEAST_RESAMPLES = 200
ROWS_RESAMPLED = 2e7
"""Of all resamples of a column together, before there are fewer of them."""


@dataclass(frozen=True)
class Subgroups:
    """A column as subgroups: `values` in order, and which of them each row has, [N] int64."""

    values: list[str]
    of_row: np.ndarray


def subgroups_of(column: pa.ChunkedArray) -> Subgroups:
    """A column of any type → subgroups: its values, or quarters of many numbers.

    Lists (`present`) are one value each, joined by a plus. Texts that are all numbers are numbers. Of more
    than `MAX_VALUES` values the rarest are one, `(others)`; nulls are `(none)`.
    """
    values = column.to_pylist()
    if pa.types.is_list(column.type):
        values = [None if value is None else " + ".join(map(str, value)) for value in values]
    numbers = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), float)
    given = np.array([value is not None for value in values], bool)
    if given.any() and np.isfinite(numbers[given]).all() and len(np.unique(numbers[given])) > 2 * QUARTERS:
        return _quarters(numbers, given)
    texts = pd.Series([NO_VALUE if value is None else str(value) for value in values], dtype=object)
    counts = texts.value_counts()
    if len(counts) > MAX_VALUES:
        texts = texts.where(texts.isin(counts.index[:MAX_VALUES].tolist()), OTHERS)
    names, of_row = np.unique(texts.to_numpy().astype(str), return_inverse=True)
    return Subgroups(names.tolist(), of_row)


def _quarters(numbers: np.ndarray, given: np.ndarray) -> Subgroups:
    edges = np.unique(np.quantile(numbers[given], np.linspace(0, 1, QUARTERS + 1)))
    of_row = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    names = [f"{low:.4g} – {high:.4g}" for low, high in pairwise(edges)]
    return Subgroups([*names, NO_VALUE], np.where(given, of_row, len(names)))


def evaluation(
    found: Judged, table: pa.Table, groups: np.ndarray, by: Mapping[str, Subgroups], split: str | None = None
) -> dict[str, Any]:
    """What the predictions of one target are worth.

    Args:
        found: What is judged of `table`.
        table: The predictions [N], with `sample_id` and `split`.
        groups: Of each row, [N]: what resampling draws together.
        by: Column → its subgroups of the N rows.
        split: What `by` and all after it are about; default: test where it has judged rows, else all rows.
    """
    splits = np.array([name or "" for name in table["split"].to_pylist()], dtype=object)
    here, without = splits[found.rows], splits[found.unpredicted]
    of_split = [
        {
            "split": name or "none",
            **_worth(found, here == name, groups[found.rows]),
            "unpredicted": int((without == name).sum()),
        }
        for name in SPLITS
        if (here == name).any()
    ]
    split = split or ("test" if (here == "test").any() else "all")
    some = found if split == "all" else subset(found, np.flatnonzero(here == split))
    return {
        "kind": found.target.target.kind,
        "main": found.target.target.metric_names[0],
        "splits": of_split,
        "split": split,
        "by": {
            column: _by(some, replace(cut, of_row=cut.of_row[some.rows]), groups[some.rows])
            for column, cut in by.items()
        },
        "calibration": _calibration(some),
        "confusion": _confusion(some),
        **_examples(some, table),
    }


def subset(found: Judged, rows: np.ndarray) -> Judged:
    """The judged rows at these places."""
    return replace(found, rows=found.rows[rows], predicted=found.predicted[rows], truth=found.truth[rows])


def _metrics(found: Judged, rows: np.ndarray) -> list[float]:
    """In the order of `metric_names`; NaN: undefined."""
    values = found.target.metrics(found.predicted[rows], found.truth[rows])
    return [values[name] for name in found.target.target.metric_names]


def _worth(found: Judged, mask: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    rows = np.flatnonzero(mask)
    names = found.target.target.metric_names
    intervals = bootstrap_intervals(
        lambda drawn: _metrics(found, rows[drawn]), len(rows), groups[rows], _resamples(len(rows))
    )
    return {
        "n": len(rows),
        "groups": len(set(groups[rows].tolist())),
        "metrics": _named(names, _metrics(found, rows)),
        "interval": {name: _pair(interval) for name, interval in zip(names, intervals)},
    }


def _resamples(rows: int) -> int:
    return int(np.clip(ROWS_RESAMPLED / max(rows, 1), LEAST_RESAMPLES, RESAMPLES))


def _by(found: Judged, cut: Subgroups, groups: np.ndarray) -> list[dict[str, Any]]:
    """A row a subgroup: its metrics, and its distance from all other rows, resampled together."""
    names, told, size = found.target.target.metric_names, [], len(found.truth)
    resamples, known = _resamples(size * len(cut.values)), len(names)
    for at, value in enumerate(cut.values):
        inside = cut.of_row == at
        if not inside.any():
            continue

        def statistics(drawn: np.ndarray, inside: np.ndarray = inside) -> list[float]:
            own, rest = drawn[inside[drawn]], drawn[~inside[drawn]]
            metrics = _metrics(found, own)
            return [*metrics, *(np.array(metrics) - np.array(_metrics(found, rest))).tolist()]

        values, many = statistics(np.arange(size)), set(groups[inside].tolist())
        # One recording says nothing of others like it.
        intervals = (
            bootstrap_intervals(statistics, size, groups, resamples)
            if len(many) > 1
            else [(math.nan, math.nan)] * len(values)
        )
        told.append(
            {
                "value": value,
                "n": int(inside.sum()),
                "groups": len(many),
                "metrics": _named(names, values[:known]),
                "interval": {name: _pair(pair) for name, pair in zip(names, intervals)},
                "difference": {
                    name: [number_or_null(far), *_pair(pair)]
                    for name, far, pair in zip(names, values[known:], intervals[known:])
                },
            }
        )
    return told


def _calibration(found: Judged) -> list[dict[str, Any]] | None:
    """A row a bin of confidence that has any; None for a kind without probabilities."""
    sure = found.target.confidence(found.predicted, found.truth) if len(found.truth) else None
    if sure is None:
        return None
    counts, said, true = reliability(sure[0].astype(np.float64), sure[1])
    return [
        {"n": int(n), "confidence": float(p), "right": float(share)}
        for n, p, share in zip(counts, said, true)
        if n
    ]


def _confusion(found: Judged) -> dict[str, Any] | None:
    counts = found.target.confusion(found.predicted, found.truth)
    return None if counts is None else {"classes": found.target.names, "counts": counts.tolist()}


# ------------------------------------------------------------------------------------ examples


def _examples(found: Judged, table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """`wrong` and `certain`, the first first."""
    if not len(found.truth):
        return {"wrong": [], "certain": []}
    error, wrong = _errors(found.predicted, found.truth)
    worst = np.argsort(-error, kind="stable")[:WORST]
    told = {"wrong": [_example(found, table, at, error) for at in worst if wrong[at]], "certain": []}
    sure = _certainty(found.predicted, found.truth)
    if sure is not None:
        surest = np.argsort(np.where(wrong, -sure, np.inf), kind="stable")[:WORST]
        told["certain"] = [
            {**_example(found, table, at, error), "confidence": float(sure[at])} for at in surest if wrong[at]
        ]
    return told


def _example(found: Judged, table: pa.Table, at: int, error: np.ndarray) -> dict[str, Any]:
    one = slice(at, at + 1)
    said = found.target.for_table(found.predicted.values[one])
    true = found.target.for_table(found.truth[one])
    return {
        "sample_id": table["sample_id"][int(found.rows[at])].as_py(),
        "truth": _plain(true[0]),
        "predicted": _plain(said[0]),
        "error": float(error[at]),
    }


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, np.floating) else value


def _errors(predicted: Predicted, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each row is from its truth, [N] float64, and whether it is wrong at all, [N] bool.

    Of a class 1 minus its probability, of a set of labels the largest such distance among them, of a number
    the absolute difference.
    """
    p = predicted.probabilities
    if truth.ndim == 2:
        far = np.abs(truth - (predicted.values if p is None else p)).max(1)
        return far.astype(np.float64), (predicted.values != truth).any(1)
    if p is not None and truth.dtype == np.int64:
        return 1.0 - p[np.arange(len(truth)), truth].astype(np.float64), predicted.values != truth
    far = np.abs(predicted.values - truth).astype(np.float64)
    return far, far > 0


def _certainty(predicted: Predicted, truth: np.ndarray) -> np.ndarray | None:
    """Probability of what was predicted, [N]; of a set of labels the least sure of them."""
    p = predicted.probabilities
    if p is None or truth.dtype == np.float64:
        return None
    if truth.ndim == 2:
        return np.where(predicted.values > 0, p, 1 - p).min(1)
    return p[np.arange(len(truth)), predicted.values]


# ------------------------------------------------------------------------------------ two tables


def compared(
    name: str, found: Judged, ids: np.ndarray, other: Judged, other_ids: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """One target's metrics in two tables on the rows that both judge, and the first's minus the second's.

    `ids`, `other_ids` and `groups` are of the judged rows.

    Raises:
        TableError: where the tables do not know the same truths, or have no row in common.
    """
    if (found.target.names, found.target.target.kind) != (other.target.names, other.target.target.kind):
        raise TableError(f"target {name} has other classes in the two tables: they cannot be compared")
    place = pd.Index(other_ids).get_indexer(pd.Index(ids))
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        raise TableError(f"target {name}: no sample is judged in both tables")
    a, b = subset(found, rows), subset(other, place[rows])
    different = a.truth != b.truth
    different = different.any(1) if different.ndim == 2 else different
    if different.any():
        raise TableError(
            f"target {name}: {different.sum()} of {len(rows)} samples have another truth in the other table; "
            "score again with both models"
        )
    names, size = found.target.target.metric_names, len(rows)

    def statistics(drawn: np.ndarray) -> list[float]:
        return (np.array(_metrics(a, drawn)) - np.array(_metrics(b, drawn))).tolist()

    everything = np.arange(size)
    intervals = bootstrap_intervals(statistics, size, groups[rows], _resamples(size))
    return {
        "n": size,
        "groups": len(set(groups[rows].tolist())),
        "only_here": len(ids) - size,
        "only_there": len(other_ids) - size,
        "metrics": _named(names, _metrics(a, everything)),
        "other": _named(names, _metrics(b, everything)),
        "difference": {
            metric: [number_or_null(far), *_pair(pair)]
            for metric, far, pair in zip(names, statistics(everything), intervals)
        },
    }


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    return {name: number_or_null(value) for name, value in zip(names, values)}


def _pair(interval: tuple[float, float]) -> list[float | None]:
    return [number_or_null(value) for value in interval]
