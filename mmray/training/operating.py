"""When a prediction is given at all: thresholds of classes, and how far they must be raised to be right.

    validation outputs ──▶ curves, stored with the model ──▶ the threshold for a wanted precision
    probabilities, thresholds ──▶ the class, or nothing: the row abstains

A curve is [[threshold, precision, rows], …] of one class, falling thresholds: of the validation rows of which
this class was said with at least that probability, the share that is right, and how many they are.

Shapes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmray.errors import ConfigError, TableError
from mmray.targets import FittedTarget, Predicted

__all__ = ["Curve", "Decision", "curves", "decision_for", "threshold_for"]

Curve = Sequence[Sequence[float]]
POINTS = 200
NEVER = 2.0
"""A threshold that no probability reaches."""


def curves(target: FittedTarget, predicted: Predicted, truth: np.ndarray) -> dict[str, Curve]:
    """{class: its curve} of rows whose truth is known; {} for a kind whose truth is not a class or a set."""
    p, names = predicted.probabilities, target.names
    if p is None or names is None or not len(truth) or predicted.values.dtype == np.float64:
        return {}
    found = {}
    for at, name in enumerate(names):
        said = np.ones(len(p), bool) if truth.ndim == 2 else predicted.values == at
        right = truth[:, at] > 0 if truth.ndim == 2 else truth == at
        found[name] = _curve(p[said, at].astype(np.float64), right[said])
    return found


def _curve(p: np.ndarray, right: np.ndarray) -> list[list[float]]:
    order = np.argsort(-p, kind="stable")
    p, hits = p[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(p[1:] < p[:-1], True)) if len(p) else np.zeros(0, int)  # of equal ones
    if len(last) > POINTS:
        last = last[np.unique(np.linspace(0, len(last) - 1, POINTS).round().astype(int))]
    return [[float(p[i]), float(hits[i] / (i + 1)), int(i + 1)] for i in last]


def threshold_for(curve: Curve, precision: float) -> float:
    """The lowest threshold at which so large a share is right; `NEVER` where none is."""
    return min((t for t, share, _ in curve if share >= precision), default=NEVER)


@dataclass(frozen=True)
class Decision:
    """What one target's probabilities must reach: {class: threshold}, and the least for any prediction."""

    thresholds: dict[str, float] = field(default_factory=dict)
    least: float = 0.0

    def __call__(self, target: FittedTarget, predicted: Predicted) -> tuple[np.ndarray, np.ndarray]:
        """The values that are predicted, as `predicted` has them, and which rows abstain, [N] bool.

        Of one class: the likeliest among those that reach their threshold; none does: the row abstains. Of a
        set: those that reach it; the row abstains where the least sure of its labels is below `least`.
        """
        p, values = predicted.probabilities, predicted.values
        if p is None:
            return values, np.zeros(len(values), bool)
        limits = np.array([self.thresholds.get(name, 0.0) for name in target.names or []])
        if values.ndim == 2:
            own = getattr(target.target, "threshold", 0.5)
            at = np.array([self.thresholds.get(name, own) for name in target.names or []])
            values = (p >= at).astype(values.dtype) if self.thresholds else values
            return values, np.where(values > 0, p, 1 - p).min(1) < self.least
        if self.thresholds:
            allowed = np.where(p >= limits, p, -1.0)
            values = np.where(allowed.max(1) < 0, values, allowed.argmax(1))
        said = p[np.arange(len(p)), values] if values.dtype != np.float64 else p.max(1)
        below = said < limits[values] if self.thresholds else np.zeros(len(values), bool)
        return values, below | (said < self.least)


def decision_for(
    name: str,
    target: FittedTarget,
    thresholds: Mapping[str, float],
    precision: float | None,
    least: float,
    operating: Mapping[str, Curve] | None,
) -> Decision:
    """The decision that `score.thresholds`, `score.precision` and `score.abstain_below` ask for.

    `operating` are the target's curves, as the model's folder has them.

    Raises:
        ConfigError: where the target has no classes, or not these.
        TableError: where a precision is asked of a model that has no curves.
    """
    if not (thresholds or precision or least):
        return Decision()
    if target.names is None:
        raise ConfigError(
            "config", [(f"score: {name}", "is a number: it has no probability to hold back by")]
        )
    if unknown := sorted(thresholds.keys() - {*target.names}):
        told = f"{', '.join(unknown)}: no such class; there are {', '.join(target.names)}"
        raise ConfigError("config", [(f"score.thresholds.{name}", told)])
    found = dict(thresholds)
    if precision:
        if not operating:
            raise TableError(
                f"target {name}: the model does not say how precise it was on validation (a target of "
                "classes, trained by this version, does); give score.thresholds instead, or train again"
            )
        found = {cls: threshold_for(curve, precision) for cls, curve in operating.items()} | found
    if found and not _takes_thresholds(target):
        told = "its levels are ordered: only score.abstain_below holds them back"
        raise ConfigError("config", [(f"score.thresholds.{name}", told)])
    return Decision(found, least)


def _takes_thresholds(target: FittedTarget) -> bool:
    return target.target.kind in ("classification", "multilabel")
