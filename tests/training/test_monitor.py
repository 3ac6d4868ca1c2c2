"""The monitor: how epochs stand by it, and each way in which it has no value."""

import math

import numpy as np
import pytest

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import MmrayError, SamplesError
from mmray.training.batches import FeatureSet
from mmray.training.loop import fit
from mmray.training.monitor import standing

FEATURES = ["audio", "video", "words"]


def monitoring(monitor: str, **settings) -> TrainConfig:
    return TrainConfig(**{"monitor": monitor, "batch_size": 16, "epochs": 3, **settings})


@pytest.fixture
def data(make_table, every_target, with_every_target) -> FeatureSet:
    return FeatureSet.load(with_every_target(make_table(150)), FEATURES, every_target)


def in_val(data: FeatureSet, target: str, values) -> FeatureSet:
    """The same with other truths in the validation split."""
    changed = data.targets[target].copy()
    rows = np.flatnonzero(data.split == "val")
    for row, value in zip(rows, np.resize(np.array(values, dtype=object), len(rows))):
        changed[row] = value
    return FeatureSet(data.sample_ids, data.split, data.features, {**data.targets, target: changed})


def test_standing_follows_the_monitor():
    history = [
        {"val_loss": 3.0, "val/mood/accuracy": 0.5, "val/score/correlation": math.nan},
        {"val_loss": 1.0, "val/mood/accuracy": 0.5, "val/score/correlation": -0.3},
        {"val_loss": 2.0, "val/mood/accuracy": 0.7, "val/score/correlation": math.nan},
    ]
    assert standing(history, "loss") == {"best_epoch": 2, "bad_epochs": 1}
    assert standing(history, "mood/accuracy") == {"best_epoch": 3, "bad_epochs": 0}
    assert standing(history[:2], "mood/accuracy") == {"best_epoch": 1, "bad_epochs": 1}
    assert standing(history, "score/correlation") == {"best_epoch": 2, "bad_epochs": 1}
    assert standing(history[:1], "score/correlation") == {"best_epoch": 1, "bad_epochs": 0}


@pytest.mark.parametrize(
    ("monitor", "values", "told"),
    [
        ("mood/auroc", ["high"], "none of its .* rows with a known mood has low"),
        ("mood/accuracy", [None], "mood is unknown in all of its rows"),
        ("grade/spearman", ["fair"], "rows with a known grade all have the same"),
        ("score/correlation", [2.5], "rows with a known score all have the same"),
        ("score/mae", [math.nan], "score is unknown in all of its rows"),
    ],
)
def test_truths_by_which_no_model_can_be_judged_are_told_before_training(
    data, every_target, monitor, values, told
):
    name = monitor.partition("/")[0]
    target = {name: every_target[name]}
    epochs = []
    # Another target keeps the validation rows usable.
    both = target | {"rating": every_target["rating"]}
    with pytest.raises(SamplesError, match=f"train.monitor {monitor} is undefined.*{told}"):
        fit(
            ModelConfig(),
            monitoring(monitor),
            in_val(data, name, values),
            FEATURES,
            both,
            report=lambda metrics, save: epochs.append(metrics),
        )
    assert epochs == []


def test_labels_of_which_one_is_on_every_row_have_no_auroc(data, every_target):
    changed = in_val(data, "tags", [None])
    values = changed.targets["tags"]
    for row in np.flatnonzero(data.split == "val"):
        values[row] = ["odd", "up"] if row % 2 else ["odd"]
    with pytest.raises(SamplesError, match=r"tags/auroc is undefined.*all of its .* have odd"):
        fit(ModelConfig(), monitoring("tags/auroc"), changed, FEATURES, {"tags": every_target["tags"]})


def test_a_model_that_says_the_same_of_every_row_is_never_the_best(data, every_target):
    """All rows have the same features, so all are put on the same level."""
    (heard,) = np.flatnonzero(data.features["audio"].lengths > 0)[:1]
    same = {"audio": data.features["audio"].take(np.full(len(data), heard))}
    same_rows = FeatureSet(data.sample_ids, data.split, same, data.targets)
    grade = {"grade": every_target["grade"]}
    with pytest.raises(MmrayError, match=r"grade/spearman was undefined in each of the 3 epochs"):
        fit(ModelConfig(), monitoring("grade/spearman"), same_rows, ["audio"], grade)
