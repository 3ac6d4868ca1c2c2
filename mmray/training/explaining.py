"""Why a model says what it says: what each modality, step and training sample has to do with it.

    modalities   exact Shapley values: of each row's prediction, and of the metric
    robustness   the metric where a modality is taken away, or made noisy
    steps        integrated gradients over the steps of each modality
    neighbours   the training rows nearest in the fused vector
    surrogate    a tree of depth 3 on what each modality says alone, and how often it agrees

What is explained is one number a row, its *value*: the probability of the predicted class (of a set: of its
likeliest label), or the predicted number. A modality is hidden by a length of 0, as a missing one is.

Shapes: N rows, M modalities, T steps, D numbers a step, F of the fused vector.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmray.errors import TableError
from mmray.fusion.model import UNKNOWN, Standardize
from mmray.targets import FittedTarget, Predicted
from mmray.training.batches import Batch, Examples
from mmray.training.predict import EMBEDDING, Predictor, model_outputs

__all__ = [
    "Hidden",
    "attributions",
    "nearest",
    "noisy",
    "outputs_of_subsets",
    "shapley",
    "surrogate",
    "value_of",
]

MOST_MODALITIES = 10
"""2^10 subsets are looked at."""
PATH_STEPS = 64
"""Of the path of integrated gradients."""

Hidden = Mapping[frozenset[str], Mapping[str, np.ndarray]]
"""{modalities that are seen: {target: outputs [N, C]}}"""


@torch.inference_mode()
def outputs_of_subsets(predictor: Predictor, examples: Examples, batch_size: int = 256) -> Hidden:
    """The outputs for all rows with each subset of the modalities seen.

    Raises:
        TableError: where there are too many modalities to look at all their subsets.
    """
    names = list(predictor.spec.shapes)
    if len(names) > MOST_MODALITIES:
        raise TableError(
            f"{len(names)} modalities have {2 ** len(names):,} subsets; at most {MOST_MODALITIES}"
        )
    subsets = [frozenset(some) for size in range(len(names) + 1) for some in combinations(names, size)]
    parts: dict[frozenset[str], list[dict[str, np.ndarray]]] = {some: [] for some in subsets}
    targets = list(predictor.spec.targets)
    for start in range(0, len(examples), batch_size):
        batch = examples.batch(np.arange(start, min(start + batch_size, len(examples)))).to(predictor.device)
        for some in subsets:
            lengths = {name: steps * (name in some) for name, steps in batch.lengths.items()}
            y = predictor.model(batch.inputs, lengths, batch.times)
            parts[some].append({name: y[name].cpu().numpy() for name in targets})
    return {
        some: {name: np.concatenate([part[name] for part in each]) for name in targets}
        for some, each in parts.items()
    }


def value_of(target: FittedTarget, predicted: Predicted, of: Predicted | None = None) -> np.ndarray:
    """Each row's value, [N] float64: of what `of` predicts (default: `predicted` itself)."""
    p, said = predicted.probabilities, of or predicted
    if p is None or predicted.values.dtype == np.float64:
        return predicted.values.astype(np.float64)
    assert said.probabilities is not None
    best = said.probabilities.argmax(1) if said.values.ndim == 2 else said.values
    return p[np.arange(len(p)), best].astype(np.float64)


def shapley(values: Mapping[frozenset[str], Any], names: Sequence[str]) -> dict[str, Any]:
    """{modality: its exact Shapley value} of any worth {subset: number or array}.

        φ_m = Σ over S without m of |S|! (M - |S| - 1)! / M! · (v(S + m) - v(S))

    They add up to v(all) - v(nothing). Shapley 1953, "A value for n-person games".
    """
    total = {}
    for name in names:
        others = [other for other in names if other != name]
        total[name] = sum(
            math.factorial(size)
            * math.factorial(len(names) - size - 1)
            / math.factorial(len(names))
            * (values[frozenset({*some, name})] - values[frozenset(some)])
            for size in range(len(names))
            for some in combinations(others, size)
        )
    return total


# ------------------------------------------------------------------------------------ noise


def noisy(predictor: Predictor, examples: Examples, name: str, level: float, seed: int = 0) -> Examples:
    """The same rows with noise on one modality.

    Of vectors `level` times the train split's standard deviation, number by number; of words a share `level`
    of them (at most all) is unknown.
    """
    rng = np.random.default_rng(seed)
    ragged = examples.features[name]
    module = predictor.model.inputs[name]
    if isinstance(module, Standardize):
        std = module.std.cpu().numpy()
        values = ragged.values + level * std * rng.standard_normal(ragged.values.shape)
        values = values.astype(ragged.values.dtype)
    else:
        values = np.where(rng.random(ragged.values.shape) < level, UNKNOWN, ragged.values)
    changed = type(ragged)(values, ragged.offsets, ragged.times_s)
    return Examples({**examples.features, name: changed}, examples.targets)


# ------------------------------------------------------------------------------------ steps


@dataclass(frozen=True)
class Attribution:
    """What the steps of one row and modality add to its value."""

    times_s: np.ndarray
    """[T]"""
    added: np.ndarray
    """[T] float64"""


def attributions(
    predictor: Predictor, examples: Examples, target: str
) -> tuple[list[dict[str, Attribution]], np.ndarray]:
    """For each row {modality: what its steps add}, and what is missing to completeness, [N] float64.

    Integrated gradients (Sundararajan, Taly and Yan 2017, "Axiomatic attribution for deep networks") by
    Captum, along the straight line from the mean vector (of words: from no embedding) to the row, all of it
    together, so that all steps add up to value(row) - value(that baseline) but for the error returned.
    """
    from captum.attr import IntegratedGradients

    fitted, model = predictor.spec.targets[target], predictor.model.eval()
    names = list(predictor.spec.shapes)
    found: list[dict[str, Attribution]] = []
    missing = np.zeros(len(examples))
    for row in range(len(examples)):
        batch = examples.batch(np.array([row])).to(predictor.device)
        with torch.no_grad():
            x = [model.inputs[name](batch.inputs[name]) for name in names]
            best = _best(fitted, model.fused(dict(zip(names, x)), batch.lengths, batch.times)[target])
        forward = _value_along(predictor, batch, target, names, best)
        gradients = IntegratedGradients(forward, multiply_by_inputs=True)
        given = tuple(each.detach() for each in x)
        with torch.enable_grad():
            added, delta = gradients.attribute(
                given,
                baselines=tuple(torch.zeros_like(each) for each in given),
                n_steps=PATH_STEPS,
                internal_batch_size=PATH_STEPS,
                return_convergence_delta=True,
            )
        missing[row] = float(delta.abs().max())
        found.append(
            {
                name: Attribution(
                    batch.times[name][0, :steps].cpu().numpy(),
                    each[0, :steps].sum(-1).detach().double().cpu().numpy(),
                )
                for name, each in zip(names, added)
                if (steps := int(batch.lengths[name][0]))
            }
        )
    return found, missing


def _value_along(
    predictor: Predictor, batch: Batch, target: str, names: Sequence[str], best: int
) -> Callable[..., Tensor]:
    """What Captum calls: inputs of many points of the path, [P, T, D] each, → their values [P]."""
    fitted = predictor.spec.targets[target]

    def value(*x: Tensor) -> Tensor:
        points = x[0].shape[0]
        lengths = {name: batch.lengths[name].expand(points) for name in names}
        times = {name: batch.times[name].expand(points, -1) for name in names}
        return _value(fitted, predictor.model.fused(dict(zip(names, x)), lengths, times)[target], best)

    return value


def _best(target: FittedTarget, y_1C: Tensor) -> int:
    """Which class a row's value is the probability of."""
    predicted = target.decode(y_1C.cpu().numpy())
    if predicted.probabilities is None or predicted.values.dtype == np.float64:
        return 0
    return int(predicted.probabilities.argmax(1)[0] if predicted.values.ndim == 2 else predicted.values[0])


def _value(target: FittedTarget, y_BC: Tensor, best: int) -> Tensor:
    """`value_of` in torch, [B]."""
    kind, t = target.target.kind, getattr(target, "temperature", 1.0)
    if kind == "classification":
        return torch.softmax(y_BC / t, 1)[:, best]
    if kind == "multilabel":
        return torch.sigmoid(y_BC[:, best] / t)
    if kind == "ordinal":
        above = torch.sigmoid(y_BC)
        if target.target.classes:
            edges = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
            return edges[:, best] - edges[:, best + 1]
        return above.sum(1) - above.shape[1] / 2
    return y_BC[:, 0] * getattr(target, "std", 1.0) + getattr(target, "mean", 0.0)


# ------------------------------------------------------------------------------------ neighbours


def nearest(
    predictor: Predictor, rows: Examples, train: Examples, k: int = 5, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The k training rows nearest to each row in the fused vector: places [N, k], Euclidean distances."""
    a, b = (
        model_outputs(
            predictor.model, each, np.arange(len(each)), batch_size, predictor.device, embedding=True
        )[EMBEDDING].astype(np.float64)
        for each in (rows, train)
    )
    k = min(k, len(b))
    places, distances = np.zeros((len(a), k), np.int64), np.zeros((len(a), k))
    squares = (b**2).sum(1)
    for row, vector in enumerate(a):
        far = np.maximum(squares - 2 * b @ vector + vector @ vector, 0)
        order = np.argsort(far, kind="stable")[:k]
        places[row], distances[row] = order, np.sqrt(far[order])
    return places, distances


# ------------------------------------------------------------------------------------ surrogate


def surrogate(
    target: FittedTarget, alone: Mapping[str, np.ndarray], together: np.ndarray, fit: np.ndarray
) -> dict[str, Any]:
    """A tree of depth 3 on what the model says with one modality seen: {rules, fidelity, measure, rows}.

    Its inputs are the probabilities (or the number) of each modality, `alone` {modality: outputs [N, C]};
    it is fitted, on the rows where `fit` [N] bool, to what the model predicts of all, `together` [N, C].
    `fidelity` is of the other rows: the share for which it says what the model says, or, of numbers, R².
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, export_text

    inputs, names = [], []
    for modality, outputs in alone.items():
        predicted = target.decode(outputs)
        p = predicted.probabilities
        own = predicted.values[:, None] if p is None else p
        inputs.append(own)
        names += [modality] if p is None else [f"{modality}: {name}" for name in target.names or []]
    x, said = np.concatenate(inputs, 1), target.decode(together)
    number = said.values.dtype == np.float64
    if said.values.ndim == 2 or not fit.any() or fit.all():
        return {}
    y = said.values if number else np.array(target.for_table(said.values), dtype=str)
    tree = DecisionTreeRegressor if number else DecisionTreeClassifier
    fitted = tree(max_depth=3, random_state=0).fit(x[fit], y[fit])
    return {
        "rules": export_text(fitted, feature_names=names, decimals=3),
        "fidelity": float(fitted.score(x[~fit], y[~fit])),
        "measure": "R²" if number else "agreement",
        "rows": int((~fit).sum()),
    }
