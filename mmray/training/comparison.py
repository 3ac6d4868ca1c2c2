"""What models are worth on the same test rows → rows of one table: chosen by validation, held against
another.

    outputs of a model on val and test ──▶ result ──▶ of all seeds and folds ──▶ a row
    outputs of a model's seeds         ──▶ their mean ──▶ result ──▶ a row "…, ensemble"

A result is what one trained model is worth: {monitored, parameters, seconds, test: {target: {rows, main,
metrics, majority, scores}}}, `scores` being `FittedTarget.row_scores` and the group of each row. The results
of several folds are one: their test rows side by side, each row once.

The *best single modality* is the one whose validation value is best; what other rows say is held against it,
on the same rows. The *chosen* row is the one validation would choose among all. Nothing is chosen by the
test split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.results.rows import number_or_null
from mmray.targets import FittedTarget, Target, known, lower_is_better
from mmray.training.aggregate import bootstrap_difference, bootstrap_interval, mean_std
from mmray.training.batches import FeatureSet

__all__ = ["Entry", "Result", "Rows", "joined", "majority_row", "model_rows", "words"]

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """The validation and test rows of a fold, and their truths: all that outputs are judged by."""

    targets: dict[str, FittedTarget]
    truths: dict[str, dict[str, np.ndarray]]
    """{split: {target: encoded}}"""
    prior: dict[str, np.ndarray]
    groups: np.ndarray | None
    """Of the test rows, [N]."""

    @classmethod
    def of(cls, data: FeatureSet, targets: Mapping[str, Target], seen: np.ndarray) -> "Rows":
        """Of rows that need no features; `seen` [N] bool says which have any: the others are not judged."""
        fitted = {
            name: target.fit(name, data.targets[name], data.sample_ids, data.split == "train")
            for name, target in targets.items()
        }
        encoded = {name: target.encode(data.targets[name]) for name, target in fitted.items()}
        return cls(
            fitted,
            {
                split: {name: _where(seen, truth)[data.split == split] for name, truth in encoded.items()}
                for split in ("val", "test")
            },
            {name: target.prior(encoded[name][data.split == "train"]) for name, target in fitted.items()},
            None if data.group is None else data.group[data.split == "test"],
        )

    def result(self, outputs: Mapping[str, Mapping[str, np.ndarray]], monitor: str, **more: Any) -> Result:
        """Of outputs {split: {target: [N, C]}} of val and test, calibrated on val."""
        test = {}
        for name, target in self.targets.items():
            if name not in outputs["test"]:
                continue
            seen = known(self.truths["val"][name])
            if seen.any():
                target = target.calibrated(outputs["val"][name][seen], self.truths["val"][name][seen])
            truth = self.truths["test"][name]
            rows = known(truth)
            predicted = target.decode(outputs["test"][name][rows])
            constant = target.uncalibrated().decode(np.tile(self.prior[name], (rows.sum(), 1)))
            metrics = target.metrics(predicted, truth[rows])
            majority = target.uncalibrated().metrics(constant, truth[rows])
            parts, wholes = target.row_scores(predicted, truth[rows])
            test[name] = {
                "rows": int(rows.sum()),
                "main": target.target.metric_names[0],
                "metrics": {metric: number_or_null(value) for metric, value in metrics.items()},
                "majority": {metric: number_or_null(value) for metric, value in majority.items()},
                "scores": [parts.tolist(), wholes.tolist(), self._groups_of(rows)],
            }
        return {"monitored": number_or_null(self._monitored(outputs["val"], monitor)), "test": test, **more}

    def ensemble(self, members: Sequence[Mapping[str, Mapping[str, np.ndarray]]], monitor: str) -> Result:
        """Of the mean of what several models say."""
        return self.result(
            {
                split: {
                    name: target.averaged([outputs[split][name] for outputs in members])
                    for name, target in self.targets.items()
                }
                for split in ("val", "test")
            },
            monitor,
        )

    def _groups_of(self, rows: np.ndarray) -> list[int]:
        if self.groups is None:
            return list(range(int(rows.sum())))
        return np.unique(self.groups[rows], return_inverse=True)[1].tolist()

    def _monitored(self, outputs: Mapping[str, np.ndarray], monitor: str) -> float:
        """The monitor's value on validation; NaN where these outputs have none."""
        truths = self.truths["val"]
        if monitor == "loss":
            return (
                sum(self._loss(name, outputs[name], truths[name]) for name in self.targets)
                if {*outputs} >= {*self.targets}
                else math.nan
            )
        name, _, metric = monitor.partition("/")
        if name not in outputs:
            return math.nan
        rows = known(truths[name])
        target = self.targets[name]
        return target.metrics(target.decode(outputs[name][rows]), truths[name][rows])[metric]

    def _loss(self, name: str, outputs: np.ndarray, truth: np.ndarray) -> float:
        import torch

        target = self.targets[name]
        total = target.loss_sum(torch.from_numpy(outputs).float(), torch.from_numpy(truth)).item()
        return total / (target.row_weights(truth).sum() or 1.0)


def _where(seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Encoded truths, unknown of the rows that are not seen."""
    truth = truth.copy()
    truth[~seen] = -1 if truth.dtype == np.int64 else np.nan
    return truth


# ------------------------------------------------------------------------------------ folds and seeds


@dataclass(frozen=True)
class Entry:
    """A model of the table and its results, one a seed (folds joined)."""

    model: str
    features: list[str]
    results: Sequence[Result]
    settings: Mapping[str, Any]
    folds: int = 1
    comparable: bool = True
    """Whether its validation value is of the monitor that models are chosen by."""

    @property
    def validation(self) -> float:
        """Its mean value on validation."""
        values = [math.nan if r["monitored"] is None else r["monitored"] for r in self.results]
        return sum(values) / len(values)

    def scores(self, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parts and wholes [S, N], and the group of each row [N]."""
        parts, wholes, groups = np.moveaxis(
            np.array([r["test"][target]["scores"] for r in self.results]), 1, 0
        )
        return parts, wholes, groups[0]


def joined(folds: Sequence[Result]) -> Result:
    """The results of a model on several folds as one: its test rows side by side, metrics by their number."""
    first = folds[0]
    if len(folds) == 1:
        return first
    test = {}
    for name, report in first["test"].items():
        parts, wholes, groups, before = [], [], [], 0
        for fold in folds:
            fold_parts, fold_wholes, fold_groups = fold["test"][name]["scores"]
            parts, wholes = parts + fold_parts, wholes + fold_wholes
            groups = groups + [before + int(group) for group in fold_groups]
            before = max(groups, default=-1) + 1
        rows = [fold["test"][name]["rows"] for fold in folds]
        test[name] = {
            "rows": sum(rows),
            "main": report["main"],
            "metrics": _by_rows([fold["test"][name]["metrics"] for fold in folds], rows),
            "majority": _by_rows([fold["test"][name]["majority"] for fold in folds], rows),
            "scores": [parts, wholes, groups],
        }
    values = [fold["monitored"] for fold in folds]
    return {
        **first,
        "monitored": None if None in values else sum(values) / len(values),
        "seconds": sum(fold.get("seconds") or 0.0 for fold in folds),
        "test": test,
    }


def _by_rows(metrics: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> dict[str, float | None]:
    """The mean of each metric, weighted by rows; null where a fold has none."""

    def mean(values: Sequence[Any]) -> float | None:
        return None if None in values else sum(v * n for v, n in zip(values, rows)) / max(sum(rows), 1)

    return {metric: mean([fold[metric] for fold in metrics]) for metric in metrics[0]}


# ------------------------------------------------------------------------------------ the table


def model_rows(entries: Sequence[Entry], monitor: str) -> list[dict[str, Any]]:
    """A row a model, in their order; the chosen one marked, and differences to the best single modality."""
    sign = 1 if lower_is_better(monitor) else -1

    def best(of: Sequence[Entry]) -> Entry | None:
        judged = [entry for entry in of if entry.comparable and not math.isnan(entry.validation)]
        return min(judged, key=lambda entry: sign * entry.validation) if judged else None

    chosen = best(entries)
    single = best([entry for entry in entries if len(entry.features) == 1])
    return [
        {
            **_row(entry),
            "chosen": entry is chosen and len(entries) > 1,
            "single": entry is single and len(entries) > 1,
            "difference": _differences(entry, single) if single and len(entry.features) > 1 else {},
        }
        for entry in entries
    ]


def _row(entry: Entry) -> dict[str, Any]:
    first = entry.results[0]
    metrics, interval = {}, {}
    for name, report in first["test"].items():
        for metric in report["metrics"]:
            values = [one["test"][name]["metrics"][metric] for one in entry.results]
            mean, std = mean_std(values)
            told = {"mean": number_or_null(mean), "std": number_or_null(std), "values": values}
            metrics[f"{name}/{metric}"] = told
        low, high = bootstrap_interval(*entry.scores(name))
        interval[f"{name}/{report['main']}"] = [number_or_null(low), number_or_null(high)]
    seconds = [one["seconds"] for one in entry.results if one.get("seconds") is not None]
    return {
        "model": entry.model,
        "features": entry.features,
        "n": max((report["rows"] for report in first["test"].values()), default=0),
        "seeds": len(entry.results),
        "folds": entry.folds,
        "metrics": metrics,
        "interval": interval,
        "validation": number_or_null(entry.validation),
        "parameters": first.get("parameters"),
        "seconds": round(sum(seconds) / len(seconds), 2) if seconds else None,
        "settings": dict(entry.settings),
    }


def _differences(entry: Entry, single: Entry) -> dict[str, list[float | None]]:
    """{target/main metric: [difference of the means, low, high]} to the best single modality."""
    found = {}
    for name, report in entry.results[0]["test"].items():
        if name not in single.results[0]["test"]:
            continue
        (*own, groups), (*others, _) = entry.scores(name), single.scores(name)
        low, high = bootstrap_difference((own[0], own[1]), (others[0], others[1]), groups)
        ratio = [np.mean(parts.sum(1) / np.maximum(wholes.sum(1), 1e-300)) for parts, wholes in (own, others)]
        values = (float(ratio[0] - ratio[1]), low, high)
        found[f"{name}/{report['main']}"] = [number_or_null(value) for value in values]
    return found


def majority_row(test: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the constant is worth that the train split suggests."""
    return {
        "model": "majority",
        "features": [],
        "n": max(report["rows"] for report in test.values()),
        "seeds": None,
        "metrics": {
            f"{name}/{metric}": {"mean": value, "std": None, "values": [value]}
            for name, report in test.items()
            for metric, value in report["majority"].items()
        },
        "interval": {},
        "validation": None,
        "parameters": 0,
        "seconds": None,
        "settings": {},
    }


def words(rows: Sequence[Mapping[str, Any]], monitor: str) -> list[str]:
    """What a reader must know of the table: how rows were chosen, and what many of them mean."""
    told = []
    single = next((row["model"] for row in rows if row.get("single")), None)
    if chosen := next((row["model"] for row in rows if row.get("chosen")), None):
        told.append(f"Chosen by validation ({monitor}), of all rows: {chosen}.")
    compared = [row for row in rows if row.get("difference")]
    if single and compared:
        told.append(
            f"Differences are to {single}, the best single modality on validation, on the same test rows; "
            "95 % intervals resample groups and seeds."
        )
    if (count := sum(len(row["difference"]) for row in compared)) > 1:
        told.append(
            f"{count} differences are judged at once: at 95 % each, some would leave out 0 by chance "
            f"({count / 20:.1f} of so many, if none were real). Quote the chosen row; for any row picked "
            f"by its test value, ask for an interval of {100 * (1 - 0.05 / count):.2f} % (Bonferroni)."
        )
    return told
