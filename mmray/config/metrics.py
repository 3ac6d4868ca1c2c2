"""Which metrics a target has, by name, and which way they are better: no numbers, so nothing heavy.

`mmray.training.metrics` computes them.
"""

from mmray.config.targets import ClassificationTarget, MultilabelTarget, OrdinalTarget, Target

__all__ = ["lower_is_better", "main_metric", "metric_names"]

CLASSES = (
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "precision_macro",
    "precision_weighted",
    "recall_macro",
    "recall_weighted",
    "auroc",
)
LABELS = ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "auroc")
NUMBERS = ("mae", "correlation", "spearman", "ccc")
SENTIMENT = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7")
LEVELS = ("mae", "accuracy", "f1_macro", "f1_weighted", "spearman")


def metric_names(target: Target) -> tuple[str, ...]:
    """The metrics of a target, the main one first."""
    if isinstance(target, ClassificationTarget):
        return CLASSES
    if isinstance(target, MultilabelTarget):
        return LABELS
    if isinstance(target, OrdinalTarget) and target.classes:
        return LEVELS
    return NUMBERS + SENTIMENT if target.scale == "sentiment" else NUMBERS


def main_metric(target: Target) -> str:
    """The one a target is judged by; it is a ratio of sums over rows, and has an interval."""
    return metric_names(target)[0]


def lower_is_better(metric: str) -> bool:
    """Direction of a metric, by the last part of its name: `val_loss`, `val/sentiment/mae`."""
    return metric.endswith(("loss", "mae"))
