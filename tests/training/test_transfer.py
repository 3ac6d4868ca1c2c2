"""Frozen parts, parts with their own learning rate, and weights taken from another model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import ConfigError, TableError
from mmray.targets import ClassificationTarget
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_snapshot
from mmray.training.loop import FitResult, fit
from mmray.training.transfer import Transfer

FEATURES = ["audio", "video", "words"]


def model_config(**changes) -> ModelConfig:
    encoders = {"audio": {"kind": "gru", "hidden": 8}, "video": {"kind": "mlp", "hidden": 8}} | changes
    return ModelConfig.model_validate({"encoders": encoders, "embedding": 8})


def train_config(**settings) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 5e-3, "batch_size": 16, "epochs": 1, **settings})


def unchanged(a: torch.Tensor, b: torch.Tensor) -> bool:
    """But for what a learning rate of 1e-30 does to a zero."""
    return torch.allclose(a, b, rtol=0, atol=1e-20)


@pytest.fixture(scope="module")
def data(make_table, targets) -> FeatureSet:
    return FeatureSet.load(make_table(120), FEATURES, targets)


@pytest.fixture(scope="module")
def trained(data, targets, tmp_path_factory) -> tuple[FitResult, str]:
    folder = tmp_path_factory.mktemp("trained")
    result = fit(model_config(), train_config(epochs=3), data, FEATURES, targets)
    result.save(folder)
    return result, str(folder)


def transfer_of(result: FitResult) -> Transfer:
    assert result.transfer is not None
    return result.transfer


def start(data, targets, folder, **settings) -> FitResult:
    """A model with what it took from `folder`, before any learning: a learning rate that changes nothing."""
    return fit(
        settings.pop("model", model_config()),
        train_config(learning_rate=1e-30, weight_decay=0.0, **settings),
        data,
        FEATURES,
        targets,
        initialize_from=folder,
    )


def test_the_same_model_takes_every_weight(data, targets, trained):
    result, folder = trained
    taken = start(data, targets, folder)
    assert transfer_of(taken).left == {}
    for name, weights in result.snapshot.weights.items():
        assert unchanged(taken.snapshot.weights[name], weights)


def test_what_does_not_fit_is_listed_and_left(data, targets, trained):
    result, folder = trained
    other = start(data, targets, folder, model=model_config(audio={"kind": "gru", "hidden": 12}))
    left = transfer_of(other).left
    assert {name.split(".")[0] for name in transfer_of(other).taken} >= {"inputs", "encoders", "fusion"}
    assert all("audio" in name or name == "fusion.fusion.linear.weight" for name in left)
    assert left["fusion.fusion.linear.weight"] == "is (64, 80) there, (64, 84) here"
    for name in transfer_of(other).taken:
        assert unchanged(other.snapshot.weights[name], result.snapshot.weights[name])
    assert f"took {len(transfer_of(other).taken)} of" in str(transfer_of(other))


def test_words_are_matched_by_name_and_other_classes_are_not_taken(data, targets, trained):
    result, folder = trained
    words = data.features["words"]
    renamed = np.array(["new" if word == "a" else word for word in words.values], dtype=object)
    labels = np.array([label and label.upper() for label in data.targets["mood"]], dtype=object)
    changed = replace(
        data,
        features={**data.features, "words": replace(words, values=renamed)},
        targets={**data.targets, "mood": labels},
    )
    other = start(changed, targets, folder)
    old, new = (fitted.snapshot.spec.vocabularies["words"].words for fitted in (result, other))
    a, b = (fitted.snapshot.weights["inputs.words_.weight"] for fitted in (result, other))
    for word in set(old) & set(new):
        assert unchanged(b[2 + new.index(word)], a[2 + old.index(word)])
    assert not any(unchanged(b[2 + new.index("new")], row) for row in a)
    assert {name for name in transfer_of(other).left if "mood" in name} == {
        "fusion.heads.targets.mood_.weight",
        "fusion.heads.targets.mood_.bias",
    }


def test_a_model_with_nothing_in_common_is_refused(data, targets, trained):
    only = {"size": ClassificationTarget(kind="classification")}
    renamed = FeatureSet(
        data.sample_ids, data.split, {"smell": data.features["audio"]}, {"size": data.targets["mood"]}
    )
    other = ModelConfig.model_validate({"fusion": {"kind": "late"}})
    with pytest.raises(TableError, match="no weights fit this model"):
        fit(other, train_config(), renamed, ["smell"], only, initialize_from=trained[1])


def test_frozen_parts_keep_their_weights_and_drop_nothing(data, targets, trained, tmp_path):
    frozen = ["encoders.audio", "inputs.words"]
    config = train_config(freeze=frozen, epochs=2)
    result = fit(model_config(), config, data, FEATURES, targets, initialize_from=trained[1])
    result.save(tmp_path)
    before = trained[0].snapshot.weights
    for name, weights in load_snapshot(tmp_path).current.items():
        kept = name.startswith(("encoders.audio_.", "inputs.", "prior_"))
        assert torch.equal(weights, before[name]) == kept, name
    assert not result.model.encoders["audio"].training
    count = sum(parameter.requires_grad for parameter in result.model.parameters())
    assert len(result.snapshot.optimizer["adamw"]["state"]) == count


def test_a_part_has_its_own_learning_rate(data, targets, trained):
    """Rates that change nothing, but for one part."""
    config = train_config(
        learning_rate=1e-30, weight_decay=0.0, learning_rates={"encoders": 1e-30, "encoders.video": 1e-2}
    )
    result = fit(model_config(), config, data, FEATURES, targets, initialize_from=trained[1])
    before = trained[0].snapshot.weights
    changed = {name for name, w in result.snapshot.current.items() if not unchanged(w, before[name])}
    assert changed
    assert all(name.startswith("encoders.video_.") for name in changed)


def test_unknown_parts_are_named_with_a_suggestion(data, targets):
    with pytest.raises(ConfigError, match=r"no part 'encoders.adio'.*encoders.audio"):
        fit(model_config(), train_config(freeze=["encoders.adio"]), data, FEATURES, targets)
    with pytest.raises(ConfigError, match=r"train.learning_rates.*no part 'face'.*it has inputs"):
        fit(model_config(), train_config(learning_rates={"face": 0.1}), data, FEATURES, targets)
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        fit(
            model_config(),
            train_config(freeze=["inputs", "encoders", "fusion"]),
            data,
            FEATURES,
            targets,
        )
