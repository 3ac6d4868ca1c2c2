"""Outputs for a whole split → its loss and metrics, the report on the test split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from mmray.targets import FittedTarget, Predicted, known
from mmray.targets.metrics import CALIBRATION
from mmray.training.aggregate import bootstrap_interval
from mmray.training.batches import Examples
from mmray.training.losses import Objective, loss_divisors, loss_sums
from mmray.training.operating import Curve, curves
from mmray.training.spec import ModelSpec

__all__ = ["calibrated", "operating_curves", "test_report", "validation_metrics"]


def validation_metrics(
    objective: Objective, examples: Examples, rows: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """`val_loss` and `val/<target>/<metric>` from the outputs {target: [len(rows), C]} for these rows."""
    spec = objective.spec
    truths = {name: torch.from_numpy(examples.targets[name][rows]) for name in spec.targets}
    sums = loss_sums(spec.targets, {name: torch.from_numpy(outputs[name]) for name in spec.targets}, truths)
    divisors = loss_divisors(spec.targets, examples.targets, rows)
    results = {"val_loss": objective.value({name: value.item() for name, value in sums.items()}, divisors)}
    for name, target in spec.targets.items():
        truth = examples.targets[name][rows]
        metrics = target.metrics(target.decode(outputs[name][known(truth)]), truth[known(truth)])
        results |= {f"val/{name}/{metric}": value for metric, value in metrics.items()}
    return results


def calibrated(
    spec: ModelSpec, truths: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> ModelSpec:
    """The spec whose probabilities fit these validation rows best: {target: encoded truths, outputs}."""
    fitted = {}
    for name, target in spec.targets.items():
        seen = known(truths[name])
        fitted[name] = target.calibrated(outputs[name][seen], truths[name][seen]) if seen.any() else target
    return replace(spec, targets=fitted)


def operating_curves(
    spec: ModelSpec, truths: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Curve]]:
    """{target: {class: `mmray.training.operating` curve}} of these validation rows."""
    found = {}
    for name, target in spec.targets.items():
        seen = known(truths[name])
        found[name] = curves(target, target.decode(outputs[name][seen]), truths[name][seen])
    return found


def test_report(
    spec: ModelSpec,
    examples: Examples,
    present: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    groups: np.ndarray | None,
) -> dict[str, dict]:
    """What the outputs {output: [len(test), C]} for the `test` rows are worth, for each target.

    `examples` need have the targets only; `present` [N, M] bool says which modalities each row has.

    rows        with a known truth and finite outputs (others are failures); all below is about them
    metrics     of the fused output
    uncalibrated   metrics of its probabilities at a temperature of 1: {nll, brier, ece}, where it has any
    main        the metric `interval` is about, a bootstrap's 95 %
    interval    over resamples of `groups` [N] (None: of rows)
    majority    metrics of a constant: what the `train` rows suggest when nothing is seen
    heads       {modality: metrics of its own head}, where the model has them
    patterns    [{present, rows, metrics}]: rows by the modalities they have, the most frequent first
    confusion   counts, true classes in rows; of classes and named levels only
    """
    present = present[test]
    report = {}
    finite = np.all([np.isfinite(y).all(axis=1) for y in outputs.values()], axis=0)
    for name, target in spec.targets.items():
        usable = known(examples.targets[name][test]) & finite
        truth, predicted = examples.targets[name][test][usable], target.decode(outputs[name][usable])
        of_group = None if groups is None else groups[test][usable]
        plain = target.uncalibrated()
        as_it_was = plain.metrics(plain.decode(outputs[name][usable]), truth)
        constant = np.tile(target.prior(examples.targets[name][train]), (len(truth), 1))
        heads = [modality for modality in spec.shapes if f"{modality}/{name}" in outputs]
        report[name] = {
            "rows": len(truth),
            "metrics": target.metrics(predicted, truth),
            "uncalibrated": {key: as_it_was[key] for key in CALIBRATION if key in as_it_was},
            "main": target.target.metric_names[0],
            "interval": list(bootstrap_interval(*target.row_scores(predicted, truth), of_group)),
            "majority": plain.metrics(plain.decode(constant), truth),
            "heads": {
                modality: target.metrics(target.decode(outputs[f"{modality}/{name}"][usable]), truth)
                for modality in heads
            },
            "patterns": _by_pattern(target, list(spec.shapes), present[usable], predicted, truth),
        }
        confusion = target.confusion(predicted, truth)
        if confusion is not None:
            report[name]["confusion"] = confusion.tolist()
    return report


def _by_pattern(
    target: FittedTarget,
    modalities: Sequence[str],
    present: np.ndarray,
    predicted: Predicted,
    truth: np.ndarray,
) -> list[dict]:
    """The metrics of the rows that have the same modalities; `present` [N, M] bool."""
    patterns, of_row, counts = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    return [
        {
            "present": [name for name, there in zip(modalities, patterns[i]) if there],
            "rows": int(counts[i]),
            "metrics": target.metrics(predicted[of_row == i], truth[of_row == i]),
        }
        for i in np.argsort(-counts, kind="stable")
    ]
