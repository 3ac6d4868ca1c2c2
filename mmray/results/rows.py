"""Test reports of models (`mmray.training.evaluation.test_report`) → the rows of the results tables.

A row is {model, features, n, metrics, interval}, metrics by `target/metric`; JSON has no NaN, so an undefined
one is null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["number_or_null", "pattern_rows", "results_rows"]

TestReport = Mapping[str, Mapping[str, Any]]


def results_rows(
    fused: TestReport, alone: Mapping[str, TestReport], features: Sequence[str]
) -> list[dict[str, Any]]:
    """The majority, a model on each feature alone, the fused model's own heads, and the fused output."""
    return [
        _metrics_row("majority", [], fused, {name: report["majority"] for name, report in fused.items()}),
        *(_row(f"{name} only", [name], test) for name, test in alone.items()),
        *_head_rows(fused),
        _row("fused", list(features), fused),
    ]


def _row(model: str, features: list[str], test: TestReport) -> dict[str, Any]:
    """A line of the results table: every target's metrics, the main one with its interval."""
    return {
        **_metrics_row(model, features, test, {name: report["metrics"] for name, report in test.items()}),
        "interval": {
            f"{name}/{report['main']}": [number_or_null(value) for value in report["interval"]]
            for name, report in test.items()
        },
    }


def _head_rows(test: TestReport) -> list[dict[str, Any]]:
    """A line for each unimodal head of the fused model."""
    names = dict.fromkeys(name for report in test.values() for name in report["heads"])
    return [
        _metrics_row(f"head: {name}", [name], test, {t: report["heads"][name] for t, report in test.items()})
        for name in names
    ]


def _metrics_row(
    model: str,
    features: list[str],
    test: TestReport,
    metrics: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """A line without an interval; `metrics` {target: {metric: value}}."""
    return {
        "model": model,
        "features": features,
        "n": max((report["rows"] for report in test.values()), default=0),
        "metrics": _flat(metrics),
        "interval": {},
    }


def pattern_rows(test: TestReport) -> list[dict[str, Any]]:
    """The fused model's metrics by the features its rows have, the most frequent set first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, report in test.items():
        for pattern in report["patterns"]:
            present = tuple(pattern["present"])
            row = found.setdefault(present, {"present": list(present), "n": 0, "metrics": {}})
            row["n"] = max(row["n"], pattern["rows"])
            row["metrics"] |= _flat({name: pattern["metrics"]})
    return sorted(found.values(), key=lambda row: -row["n"])


def _flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """{target: {metric: value}} → {target/metric: value}"""
    return {
        f"{t}/{name}": number_or_null(value)
        for t, values in metrics.items()
        for name, value in values.items()
    }


def number_or_null(value: float | None) -> float | None:
    """JSON has no NaN: an undefined metric is null."""
    return None if value is None or np.isnan(value) else float(value)
