"""One step on a few rows finds what would stop a training, before it starts."""

import numpy as np
import pytest

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import ConfigError, PlanError, TableError
from mmray.training.batches import FeatureSet
from mmray.training.loop import fit
from mmray.training.rehearsal import rehearse

FEATURES = ["audio", "video", "words"]
TENSOR = {
    "encoders": {"audio": {"kind": "mlp", "hidden": 2048}, "video": {"kind": "mlp", "hidden": 2048}},
    "fusion": {"kind": "tensor"},
}


@pytest.fixture
def everyone(make_table, targets) -> FeatureSet:
    return FeatureSet.load(make_table(80), FEATURES, targets)


def test_it_says_what_is_trained_as_fit_would_train_it(everyone, targets, tmp_path):
    settings = {"freeze": ["encoders.audio"], "learning_rates": {"encoders.video": 1e-4}}
    train = TrainConfig.model_validate({"epochs": 1, **settings})
    told = rehearse(
        ModelConfig(), train, everyone, everyone, FEATURES, targets, device="cpu"
    )  # fmt: skip
    model = fit(ModelConfig(), train, everyone, FEATURES, targets).model
    assert told["parameters"] == sum(p.numel() for p in model.parameters())
    assert told["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert told["trained"] < told["parameters"]
    assert np.isfinite(told["loss"])


@pytest.mark.parametrize(
    ("model", "train", "fault", "match"),
    [
        ({}, {"freeze": ["nope"]}, ConfigError, r"train\.freeze +the model has no part 'nope'"),
        ({}, {"learning_rates": {"encoders.face": 0.1}}, ConfigError, r"train\.learning_rates"),
        ({}, {"precision": "float16"}, PlanError, "float16 needs a GPU"),
        (TENSOR, {}, ConfigError, "tensor"),
    ],
)
def test_what_cannot_be_trained_is_refused(everyone, targets, model, train, fault, match):
    models = ModelConfig.model_validate(model), TrainConfig.model_validate(train)
    with pytest.raises(fault, match=match):
        rehearse(*models, everyone, everyone, FEATURES, targets, device="cpu")


def test_a_model_to_start_from_that_is_none_is_told(everyone, targets, tmp_path):
    with pytest.raises(TableError, match="nowhere does not exist"):
        rehearse(
            ModelConfig(), TrainConfig(), everyone, everyone, FEATURES, targets,
            device="cpu", initialize_from=tmp_path / "nowhere",
        )  # fmt: skip
