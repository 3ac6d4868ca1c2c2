"""What chooses the best epoch: how the epochs stand by it, and why it has no value.

An undefined monitor chooses nothing. Where no model could give it a value (a class without a validation row,
truths that are all the same), training does not start; where it is the model's doing (predictions that are
all the same), an epoch without a value is never the best, and a run without any ends with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmray.targets import FittedTarget, known, lower_is_better
from mmray.targets.metrics import NUMBERS

__all__ = ["Standing", "monitored", "never_defined", "standing", "undefined_by_truths", "worst"]

SHOWN = 8
"""Classes that a message names."""


def monitored(metrics: Mapping[str, float], monitor: str) -> float:
    """The monitor's value in an epoch's flat metrics; NaN where it is undefined."""
    return metrics["val_loss" if monitor == "loss" else f"val/{monitor}"]


def standing(history: Sequence[Mapping[str, float]], monitor: str) -> dict[str, float]:
    """`best_epoch` (from 1; the first of equals) and `bad_epochs` since, by `loss` or `<target>/<metric>`.

    An undefined value is never better than a defined one.
    """
    sign = 1 if lower_is_better(monitor) else -1
    values = [monitored(epoch, monitor) for epoch in history]
    scores = [math.inf if math.isnan(value) else sign * value for value in values]
    best = scores.index(min(scores)) + 1
    return {"best_epoch": best, "bad_epochs": len(history) - best}


def worst(monitor: str) -> float:
    """What nothing is worse than."""
    return math.inf if lower_is_better(monitor) else -math.inf


class Standing:
    """How a trial of a search stands by the monitor, epoch by epoch; `before` are the epochs it goes on
    from.
    """

    def __init__(self, monitor: str, before: Sequence[Mapping[str, float]] = ()):
        self.monitor = monitor
        self.values = [monitored(epoch, monitor) for epoch in before]

    def after(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """An epoch's metrics with `best`, the value at `best_epoch`, and `curve`, that of every epoch."""
        self.values.append(monitored(metrics, self.monitor))
        best = self.values[int(metrics["best_epoch"]) - 1]
        best = worst(self.monitor) if math.isnan(best) else best
        return {**metrics, "best": best, "fault": None, "curve": list(self.values)}

    def failed(self, fault: str) -> dict[str, Any]:
        """What is said of a trial that has no result."""
        epochs = len(self.values)
        told = {"best": worst(self.monitor), "fault": fault, "curve": list(self.values)}
        return {**told, "epoch": epochs + 1, "best_epoch": 0}


def undefined_by_truths(
    targets: Mapping[str, FittedTarget], truths: Mapping[str, np.ndarray], monitor: str
) -> str | None:
    """Why the monitor is undefined for these validation truths, whatever is predicted; None: it is not.

    `truths` {target: encoded, [N] or [N, C]} are those of the validation rows. A metric is asked for a value
    on outputs drawn at random, which are not constant: what it cannot judge then, it cannot judge at all.
    """
    if monitor == "loss":
        return None
    name, _, metric = monitor.partition("/")
    target = targets[name]
    truth = truths[name][known(truths[name])]
    outputs = np.random.default_rng(0).normal(size=(len(truth), target.width)).astype(np.float32)
    if not math.isnan(target.metrics(target.decode(outputs), truth)[metric]):
        return None
    return (
        f"train.monitor {monitor} is undefined on the validation split: "
        f"{_described(name, target, truth, metric)}; "
        "set another train.monitor, or give the val split rows that it can judge"
    )


def never_defined(monitor: str, epochs: int) -> str:
    """The message for a run in which no epoch had a value."""
    return (
        f"train.monitor {monitor} was undefined in each of the {epochs} epochs, so none is the best: all "
        "validation rows were predicted the same; train longer or with another train.learning_rate, or set "
        "another train.monitor"
    )


def _described(name: str, target: FittedTarget, truth: np.ndarray, metric: str) -> str:
    """The known truths in a few words."""
    if not len(truth):
        return f"{name} is unknown in all of its rows"
    rows = f"{len(truth)} rows with a known {name}"
    if (metric in NUMBERS or not target.names) and truth.min() == truth.max():
        return f"its {rows} all have the same"
    classes = target.names or []
    counts = truth.sum(0) if truth.ndim == 2 else np.array([(truth == i).sum() for i in range(len(classes))])
    if missing := [label for label, count in zip(classes, counts) if not count]:
        return f"none of its {rows} has {_listed(missing)}"
    if always := [label for label, count in zip(classes, counts) if count == len(truth)]:
        return f"all of its {rows} have {_listed(always)}"
    return f"it has {rows}"


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN]) + (" …" if len(labels) > SHOWN else "")
