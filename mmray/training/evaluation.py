"""Outputs for a whole split → its loss and metrics, the report on the test split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mmray.config.metrics import main_metric
from mmray.training.aggregate import bootstrap_interval, row_scores
from mmray.training.batches import Examples
from mmray.training.codes import ClassCodes, LevelCodes, TargetCodes, known
from mmray.training.losses import Objective, loss_divisors, loss_sums
from mmray.training.metrics import confusion_matrix, target_metrics
from mmray.training.spec import ModelSpec

__all__ = ["test_report", "validation_metrics"]


def validation_metrics(
    objective: Objective, examples: Examples, rows: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """`val_loss` and `val/<target>/<metric>` from the outputs {target: [len(rows), C]} for these rows."""
    spec = objective.spec
    truths = {name: torch.from_numpy(examples.targets[name][rows]) for name in spec.targets}
    sums = loss_sums(spec.targets, {name: torch.from_numpy(outputs[name]) for name in spec.targets}, truths)
    divisors = loss_divisors(spec.targets, examples.targets, rows)
    results = {"val_loss": objective.value({name: value.item() for name, value in sums.items()}, divisors)}
    for name, codes in spec.targets.items():
        truth = examples.targets[name][rows]
        metrics = target_metrics(codes, outputs[name][known(truth)], truth[known(truth)])
        results |= {f"val/{name}/{metric}": value for metric, value in metrics.items()}
    return results


def test_report(
    spec: ModelSpec,
    examples: Examples,
    present: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    outputs: Mapping[str, np.ndarray],
) -> dict[str, dict]:
    """What the outputs {output: [len(test), C]} for the `test` rows are worth, for each target.

    `examples` need have the targets only; `present` [N, M] bool says which modalities each row has.

    rows        with a known truth; all below is about them
    metrics     of the fused output
    main        the metric `interval` is about, a bootstrap's 95 %
    interval
    majority    metrics of a constant: what the `train` rows suggest when nothing is seen
    heads       {modality: metrics of its own head}, where the model has them
    patterns    [{present, rows, metrics}]: rows by the modalities they have, the most frequent first
    confusion   counts, true classes in rows; of classes and named levels only
    """
    present = present[test]
    report = {}
    for name, codes in spec.targets.items():
        usable = known(examples.targets[name][test])
        truth, output = examples.targets[name][test][usable], outputs[name][usable]
        constant = np.tile(codes.prior(examples.targets[name][train]), (len(truth), 1))
        heads = [modality for modality in spec.shapes if f"{modality}/{name}" in outputs]
        report[name] = {
            "rows": len(truth),
            "metrics": target_metrics(codes, output, truth),
            "main": main_metric(codes.target),
            "interval": list(bootstrap_interval(*row_scores(codes, output, truth))),
            "majority": target_metrics(codes, constant, truth),
            "heads": {
                modality: target_metrics(codes, outputs[f"{modality}/{name}"][usable], truth)
                for modality in heads
            },
            "patterns": _by_pattern(codes, list(spec.shapes), present[usable], output, truth),
        }
        if isinstance(codes, ClassCodes) or (isinstance(codes, LevelCodes) and codes.target.classes):
            classes = len(codes.classes if isinstance(codes, ClassCodes) else codes.levels)
            report[name]["confusion"] = confusion_matrix(codes.predicted(output), truth, classes).tolist()
    return report


def _by_pattern(
    codes: TargetCodes, modalities: Sequence[str], present: np.ndarray, output: np.ndarray, truth: np.ndarray
) -> list[dict]:
    """The metrics of the rows that have the same modalities; `present` [N, M] bool."""
    patterns, of_row, counts = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    return [
        {
            "present": [name for name, there in zip(modalities, patterns[i]) if there],
            "rows": int(counts[i]),
            "metrics": target_metrics(codes, output[of_row == i], truth[of_row == i]),
        }
        for i in np.argsort(-counts, kind="stable")
    ]
