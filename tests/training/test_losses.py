"""Losses against torch's own modules and hand-written formulas, and in parts against the whole."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmray.config import ModelConfig, TrainConfig
from mmray.fusion.build import ModalityShape
from mmray.targets import (
    ClassificationTarget,
    FittedClassification,
    FittedMultilabel,
    FittedOrdinal,
    FittedRegression,
    FittedTarget,
    MultilabelTarget,
    OrdinalTarget,
    RegressionTarget,
)
from mmray.training.losses import Objective, loss_divisors, loss_sums
from mmray.training.spec import ModelSpec

NAN = math.nan
CLASSES = ["a", "b", "c"]


def classes(**settings) -> FittedClassification:
    return FittedClassification(ClassificationTarget(kind="classification", classes=CLASSES, **settings))


def labels(**settings) -> FittedMultilabel:
    return FittedMultilabel(MultilabelTarget(kind="multilabel", classes=CLASSES, **settings))


def numbers(**settings) -> FittedRegression:
    return FittedRegression(RegressionTarget(kind="regression", **settings), 10.0, 2.0)


WEIGHTS = {"a": 0.5, "b": 3.0, "c": 1.0}
SCORES = FittedOrdinal(OrdinalTarget(kind="ordinal", scale="sentiment"))
LEVELS = FittedOrdinal(OrdinalTarget(kind="ordinal", classes=CLASSES))
INDICES = np.array([0, 2, -1, 1, -1, 0])
SETS = np.array([[1, 0, 1], [0, 0, 0], [NAN] * 3, [0, 1, 1], [NAN] * 3, [1, 1, 1]], dtype=np.float32)
VALUES = np.array([9.0, NAN, 12.5, NAN, 10.0, 4.0])


def mean_loss(codes: FittedTarget, y: torch.Tensor, truth: np.ndarray) -> torch.Tensor:
    sums = loss_sums({"t": codes}, {"t": y}, {"t": torch.from_numpy(truth)})
    return sums["t"] / loss_divisors({"t": codes}, {"t": truth}, np.arange(len(truth)))["t"]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_torchs_over_the_known_truths(weights, smoothing):
    y, seen = torch.randn(6, 3), [0, 1, 3, 5]
    theirs = nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor([*weights.values()]), label_smoothing=smoothing
    )
    expected = theirs(y[seen], torch.from_numpy(INDICES[seen]))
    ours = mean_loss(classes(class_weights=weights, label_smoothing=smoothing), y, INDICES)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_label_loss_is_torchs_over_the_known_truths(weights):
    y, seen = torch.randn(6, 3), [0, 1, 3, 5]
    theirs = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else torch.tensor([*weights.values()]))
    expected = theirs(y[seen], torch.from_numpy(SETS[seen]))
    torch.testing.assert_close(mean_loss(labels(positive_weights=weights), y, SETS), expected)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_number_loss_is_torchs_in_standard_deviations(loss):
    y, seen = torch.randn(6, 1), [0, 2, 4, 5]
    theirs = {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": nn.HuberLoss()}[loss]
    expected = theirs(y[seen, 0], torch.from_numpy((VALUES[seen] - 10) / 2).float())
    torch.testing.assert_close(mean_loss(numbers(loss=loss), y, VALUES), expected)


def test_ordinal_loss_is_corals_sum_over_thresholds():
    scores = np.array([-3.0, NAN, 1.4, 0.5])
    for codes, truth, levels in ((SCORES, scores, [0, None, 4, 3]), (LEVELS, INDICES[:4], [0, 2, None, 1])):
        y = torch.randn(4, codes.width)
        p, expected = y.sigmoid(), []
        for row, level in enumerate(levels):
            if level is not None:
                above = [p[row, k] if level > k else 1 - p[row, k] for k in range(codes.width)]
                expected.append(-sum(math.log(value) for value in above))
        assert mean_loss(codes, y, truth).item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("codes", "truth"),
    [
        (classes(class_weights=WEIGHTS), np.full(4, -1)),
        (labels(), np.full((4, 3), NAN, dtype=np.float32)),
        (numbers(), np.full(4, NAN)),
        (SCORES, np.full(4, NAN)),
    ],
)
def test_without_a_known_truth_loss_and_gradient_are_0(codes, truth):
    y = torch.randn(4, codes.width, requires_grad=True)
    loss = loss_sums({"t": codes}, {"t": y}, {"t": torch.from_numpy(truth)})["t"]
    loss.backward()
    assert loss.item() == 0
    assert y.grad is not None
    assert not y.grad.any()
    assert loss_divisors({"t": codes}, {"t": truth}, np.arange(4)) == {"t": 0}


# ------------------------------------------------------------------------------------ several targets

TARGETS: dict[str, FittedTarget] = {
    "mood": classes(class_weights=WEIGHTS, label_smoothing=0.1),
    "tags": labels(positive_weights=WEIGHTS),
    "score": numbers(),
    "sentiment": SCORES,
}
TRUTHS = {"mood": INDICES, "tags": SETS, "score": VALUES, "sentiment": np.array([1, NAN, -3, 0, NAN, 2.6])}


def objective(loss_weights: dict | str = {}, heads: float = 0.0) -> Objective:  # noqa: B006
    spec = ModelSpec(
        ModelConfig(unimodal_heads=heads),
        TrainConfig.model_validate({"loss_weights": loss_weights}),
        {name: ModalityShape("vectors", 2) for name in ("face", "voice")},
        TARGETS,
        {},
        "",
    )
    return Objective(spec, spec.build())


def outputs_of(names: list[str]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        name: torch.randn(6, TARGETS[name.rpartition("/")[2]].width, requires_grad=True) for name in names
    }


NAMES = [prefix + target for prefix in ("", "face/", "voice/") for target in TARGETS]


@pytest.mark.parametrize("loss_weights", [{}, {"mood": 2.0, "score": 0.25}, "uncertainty"])
@pytest.mark.parametrize("cuts", [[3], [1, 6], [2, 2, 5]])
def test_parts_of_a_step_add_up_to_the_whole(loss_weights, cuts):
    """However the rows are spread, also where a part is empty or knows no truth."""
    whole, parts = objective(loss_weights, 0.5), objective(loss_weights, 0.5)
    divisors = loss_divisors(TARGETS, TRUTHS, np.arange(6))

    def step(of: Objective, y: dict, rows: np.ndarray, share: float) -> torch.Tensor:
        truths = {name: torch.from_numpy(truth[rows]) for name, truth in TRUTHS.items()}
        sums = loss_sums(TARGETS, {name: value[rows] for name, value in y.items()}, truths)
        loss = of.step(sums, divisors, share)
        loss.backward()
        return loss.detach()

    one, several = outputs_of(NAMES), outputs_of(NAMES)
    expected = step(whole, one, np.arange(6), 1.0)
    slices = np.split(np.arange(6), cuts)
    total = torch.stack([step(parts, several, rows, 1 / len(slices)) for rows in slices]).sum()
    torch.testing.assert_close(total, expected)
    for name in NAMES:
        torch.testing.assert_close(several[name].grad, one[name].grad)
    for target in whole.model.learned_weights:
        gradients = [of.model.get_parameter(f"log_variance_{target}").grad for of in (parts, whole)]
        torch.testing.assert_close(*gradients)


def test_fixed_weights_and_heads():
    y = outputs_of(NAMES)
    truths = {name: torch.from_numpy(truth) for name, truth in TRUTHS.items()}
    sums, divisors = loss_sums(TARGETS, y, truths), loss_divisors(TARGETS, TRUTHS, np.arange(6))
    means = {name: value.item() / divisors[name.rpartition("/")[2]] for name, value in sums.items()}
    ours = objective({"mood": 2.0, "score": 0.25}, 0.5)
    weights = {"mood": 2.0, "tags": 1.0, "score": 0.25, "sentiment": 1.0}
    fused = sum(weights[t] * means[t] for t in TARGETS)
    heads = sum(weights[t] * (means[f"face/{t}"] + means[f"voice/{t}"]) for t in TARGETS)
    assert ours.step(sums, divisors).item() == pytest.approx(fused + 0.5 * heads, rel=1e-5)
    unweighted = sum(means[t] for t in TARGETS)
    assert ours.value({t: sums[t].item() for t in TARGETS}, divisors) == pytest.approx(unweighted, rel=1e-5)


def test_learned_weights_rest_where_the_noise_is_the_loss():
    """d/ds [exp(-s) L + s/2] = 0 at s = log 2L; of a squared error, [exp(-s) L/2 + s/2], at s = log L."""
    ours = objective("uncertainty", heads=1.0)
    y = {name: value.detach() for name, value in outputs_of(NAMES).items()}
    truths = {name: torch.from_numpy(truth) for name, truth in TRUTHS.items()}
    truths["tags"][:] = torch.nan
    divisors = loss_divisors(TARGETS, {name: truth.numpy() for name, truth in truths.items()}, np.arange(6))
    sums = loss_sums(TARGETS, y, truths)
    best = {t: math.log((1 if t == "score" else 2) * sums[t] / divisors[t]) for t in TARGETS if divisors[t]}
    with torch.no_grad():
        for target, s in best.items():
            ours.model.get_parameter(f"log_variance_{target}").fill_(s)
    ours.step(sums, divisors).backward()
    for target in TARGETS:  # `tags` has no known truth: nothing moves it
        gradient = ours.model.get_parameter(f"log_variance_{target}").grad
        assert gradient is not None
        assert gradient.item() == pytest.approx(0, abs=1e-6)
    assert set(best) == {"mood", "score", "sentiment"}
    with torch.no_grad():
        ours.model.get_parameter("log_variance_mood").zero_()
    ours.model.zero_grad()
    ours.step(sums, divisors).backward()
    gradient = ours.model.get_parameter("log_variance_mood").grad
    assert gradient is not None
    assert gradient.item() == pytest.approx(0.5 - sums["mood"].item() / divisors["mood"], rel=1e-5)
