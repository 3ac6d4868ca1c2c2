import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import TableError
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_predictor, load_snapshot
from mmray.training.loop import FitResult, fit

FILES = ["model.json", "trainer.pt", "vocabulary.json", "weights.pt"]


@pytest.fixture
def result(make_table, targets) -> FitResult:
    data = FeatureSet.load(make_table(80), ["audio", "words"], targets)
    return fit(
        ModelConfig(), TrainConfig(epochs=2), data, ["audio", "words"], targets, features_fingerprint="f1"
    )


@pytest.fixture
def folder(result, tmp_path) -> Path:
    result.save(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_saved_comes_back(result, folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    snapshot = load_snapshot(folder)
    assert snapshot.spec == result.snapshot.spec
    assert snapshot.history == result.history
    assert snapshot.test == json.loads(json.dumps(result.test).replace("NaN", "null"))
    for part in ("weights", "current"):
        saved, ours = getattr(snapshot, part), getattr(result.snapshot, part)
        assert saved.keys() == ours.keys()
        assert all(torch.equal(saved[name], ours[name]) for name in ours)


def test_weights_and_description_stand_alone(result, folder):
    weights = torch.load(folder / "weights.pt", weights_only=True)
    result.model.load_state_dict(weights)
    model = json.loads((folder / "model.json").read_text())
    assert model["targets"]["mood"]["target"]["kind"] == "classification"
    assert model["targets"]["mood"]["target"]["classes"] == ["high", "low"]
    assert model["features"]["audio"] == {"kind": "vectors", "size": 3, "components": None}
    assert model["features_fingerprint"] == "f1"
    assert model["metrics"]["epoch"] == result.best["epoch"]
    assert model["test"]["mood"]["majority"]["accuracy"] == result.test["mood"]["majority"]["accuracy"]
    words = json.loads((folder / "vocabulary.json").read_text())["words"]
    assert len(words) + 2 == model["features"]["words"]["size"]
    assert {"high", "low"} <= set(words)


@pytest.mark.parametrize("missing", FILES)
def test_an_incomplete_checkpoint_is_detected(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(TableError, match="incomplete" if missing == "model.json" else missing):
        load_snapshot(folder)


def test_a_model_is_a_checkpoint_without_the_state_of_training(result, folder, tmp_path):
    result.snapshot.save_model(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [
        name for name in FILES if name != "trainer.pt"
    ]
    assert load_predictor(tmp_path / "alone").fingerprint == load_predictor(folder).fingerprint
    with pytest.raises(TableError, match=r"trainer\.pt"):
        load_snapshot(tmp_path / "alone")


@pytest.mark.parametrize("torn", FILES)
def test_a_torn_file_is_detected(folder, torn):
    content = (folder / torn).read_bytes()
    (folder / torn).write_bytes(content[: len(content) // 2])
    with pytest.raises(TableError, match=f"{torn} cannot be read"):
        load_snapshot(folder)


def test_an_absent_checkpoint_is_named(tmp_path):
    with pytest.raises(TableError, match="nowhere does not exist"):
        load_predictor(tmp_path / "nowhere")


def test_another_version_is_refused(folder):
    model = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**model, "version": 99}))
    with pytest.raises(TableError, match="has version 99"):
        load_predictor(folder)


def test_weights_of_another_model_are_refused(folder):
    weights = torch.load(folder / "weights.pt", weights_only=True)
    name = next(iter(weights))
    torch.save({**weights, name: weights[name] + 1}, folder / "weights.pt")
    with pytest.raises(TableError, match="was altered"):
        load_predictor(folder)


def test_the_fingerprint_is_the_models_own(result, folder, tmp_path):
    result.save(tmp_path / "copy")
    assert load_predictor(tmp_path / "copy").fingerprint == load_predictor(folder).fingerprint
    assert len(load_predictor(folder).fingerprint) == 16


def test_saving_again_replaces_what_was_there(result, folder, make_table, targets):
    before = load_predictor(folder).fingerprint
    data = FeatureSet.load(make_table(80, seed=1), ["video"], targets)
    fit(ModelConfig(), TrainConfig(epochs=1), data, ["video"], targets).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    predictor = load_predictor(folder)
    assert list(predictor.spec.shapes) == ["video"]
    assert predictor.fingerprint != before


def test_a_save_that_fails_leaves_no_mixture(result, folder):
    """The earlier model.json must not vouch for the newer weights."""
    cannot_be_pickled = replace(result.snapshot, optimizer={"step": lambda: None})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        cannot_be_pickled.save(folder)
    with pytest.raises(TableError, match="incomplete"):
        load_snapshot(folder)
