"""A target and the truths of the train split → its codes: classes, weights and scales."""

from collections.abc import Mapping, Sequence
from itertools import chain, compress

import numpy as np

from mmray.config import ClassificationTarget, MultilabelTarget, OrdinalTarget, RegressionTarget, Target
from mmray.errors import SamplesError
from mmray.training.codes import (
    ClassCodes,
    LabelCodes,
    LevelCodes,
    NumberCodes,
    TargetCodes,
    known,
    usable_std,
)

__all__ = ["fit_codes"]


def fit_codes(
    name: str, target: Target, values: np.ndarray, ids: np.ndarray, train: np.ndarray
) -> TargetCodes:
    """Codes of target `name` from its `values` [N] in the rows where `train` [N] bool.

    Raises:
        SamplesError: where the train split has no known value, or some row has a label that is not among
            the classes (`ids` name the samples), or a weight is given for what is no class.

    """
    if isinstance(target, RegressionTarget):
        return NumberCodes(target, *_scale(name, values, ids, train))
    if isinstance(target, OrdinalTarget):
        if target.classes:
            _named_classes(name, target, values, ids, train)
        else:
            _scale(name, values, ids, train)
        return LevelCodes(target)
    classes = _named_classes(name, target, values, ids, train)
    if isinstance(target, MultilabelTarget):
        codes = LabelCodes(target.model_copy(update={"classes": classes}))
        truth = codes.encode(values[train])
        truth = truth[known(truth)]
        balanced = (len(truth) - truth.sum(0) + 1) / (truth.sum(0) + 1)
        weights = _weights(name, target.positive_weights, classes, balanced)
        return LabelCodes(codes.target.model_copy(update={"positive_weights": weights}))
    codes = ClassCodes(target.model_copy(update={"classes": classes}))
    truth = codes.encode(values[train])
    counts = np.bincount(truth[known(truth)], minlength=len(classes))
    balanced = counts.sum() / (len(classes) * np.maximum(counts, 1))
    weights = _weights(name, target.class_weights, classes, balanced)
    return ClassCodes(codes.target.model_copy(update={"class_weights": weights}))


def _scale(name: str, values: np.ndarray, ids: np.ndarray, train: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the numbers of the train split."""
    numbers = values[train & ~np.isnan(values)]
    if not len(numbers):
        raise SamplesError(f"target {name}: no sample of the train split has a value")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = numbers.mean(), numbers.std()
    if not np.isfinite(std):
        extreme = ids[train][np.nanargmax(np.abs(values[train]))]
        raise SamplesError(f"target {name}: the train split's values overflow; look at sample {extreme}")
    return float(mean), float(usable_std(mean, std))


def _named_classes(
    name: str,
    target: ClassificationTarget | MultilabelTarget | OrdinalTarget,
    values: np.ndarray,
    ids: np.ndarray,
    train: np.ndarray,
) -> list[str]:
    """The classes as configured, else the sorted labels of the train split, where all labels must be."""
    labels = [_labels(value) for value in values]
    seen = sorted({*chain.from_iterable(compress(labels, train))})
    if not seen:
        raise SamplesError(f"target {name}: no sample of the train split has a label")
    classes = target.classes or seen
    if unseen := sorted({*chain.from_iterable(labels)} - {*classes}):
        among = f"targets.{name}.classes" if target.classes else "the labels of the train split"
        where = [sample_id for sample_id, some in zip(ids, labels) if not {*classes}.issuperset(some)]
        raise SamplesError(
            f"target {name}: {', '.join(map(repr, unseen))} not among {among} ({', '.join(classes)}); "
            f"for example sample {', '.join(where[:3])}"
        )
    return classes


def _labels(value: str | Sequence[str] | None) -> Sequence[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _weights(
    name: str, given: Mapping[str, float] | str | None, classes: Sequence[str], balanced: np.ndarray
) -> dict[str, float] | None:
    """A weight for every class, or None where all count the same."""
    if given is None:
        return None
    if isinstance(given, str):
        return dict(zip(classes, balanced.tolist()))
    if unknown := sorted({*given} - {*classes}):
        raise SamplesError(
            f"target {name}: a weight is given for {', '.join(unknown)}, not among the classes "
            f"({', '.join(classes)})"
        )
    return {label: given.get(label, 1.0) for label in classes}
