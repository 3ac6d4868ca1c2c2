"""Explanations against brute force: all orders of the modalities, through the table and not through masks."""

from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.training.batches import Examples, FeatureSet
from mmray.training.checkpoint import load_predictor
from mmray.training.explaining import (
    attributions,
    nearest,
    noisy,
    outputs_of_subsets,
    shapley,
    surrogate,
    value_of,
)
from mmray.training.loop import fit
from mmray.training.predict import Predictor

FEATURES = ["audio", "video", "words"]


@pytest.fixture(scope="module")
def table(make_table, with_every_target) -> pa.Table:
    return with_every_target(make_table(90, missing=0.2))


@pytest.fixture(scope="module")
def predictor(table, every_target, tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    data = FeatureSet.load(table, FEATURES, every_target)
    model = ModelConfig.model_validate({"encoders": {"audio": {"kind": "gru", "hidden": 8}}})
    fit(model, TrainConfig(epochs=6, learning_rate=1e-2), data, FEATURES, every_target).save(folder)
    return load_predictor(folder)


@pytest.fixture(scope="module")
def examples(predictor, table) -> Examples:
    return predictor.spec.examples(FeatureSet.load(table, FEATURES, {}))


def hidden(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    """The table without these modalities."""
    for name in names:
        at = table.column_names.index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type)
        )
    return table


@pytest.mark.parametrize("name", ["mood", "tags", "grade", "rating", "score"])
def test_shapley_values_are_the_mean_over_all_orders_and_add_up(predictor, examples, table, name):
    target = predictor.spec.targets[name]
    outputs = outputs_of_subsets(predictor, examples)
    decoded = {some: target.decode(each[name]) for some, each in outputs.items()}
    full = decoded[frozenset(FEATURES)]
    values = {some: value_of(target, each, full) for some, each in decoded.items()}
    phi = shapley(values, FEATURES)
    total = values[frozenset(FEATURES)] - values[frozenset()]
    np.testing.assert_allclose(sum(phi.values()), total, atol=1e-9)

    def through_the_table(seen: tuple[str, ...]) -> np.ndarray:
        rows = predictor.predict(hidden(table, tuple(set(FEATURES) - set(seen)))).to_pylist()
        whole = predictor.predict(table).to_pylist()
        told = []
        for row, all_seen in zip(rows, whole):
            if not all_seen["present"]:
                told.append(np.nan)
            elif row["error"]:
                told.append(prior(name, all_seen))
            elif name in ("score", "rating"):
                told.append(row[f"{name}_predicted"])
            else:
                told.append(row[f"{name}_probabilities"][best(name, all_seen)])
        return np.array(told, float)

    def best(name: str, row: dict) -> int:
        p = row[f"{name}_probabilities"]
        return int(np.argmax(p)) if name == "tags" else target.names.index(row[f"{name}_predicted"])

    def prior(name: str, row: dict) -> float:
        y = predictor.model.get_buffer(f"prior_{name}").numpy()[None]
        said = target.decode(y)
        if name in ("score", "rating"):
            return said.values[0]
        return said.probabilities[0, best(name, row)]

    worth = {}
    for order in permutations(FEATURES):
        for size in range(len(order) + 1):
            key = tuple(sorted(order[:size]))
            worth[key] = worth[key] if key in worth else through_the_table(key)
    orders = list(permutations(FEATURES))
    for modality in FEATURES:
        gains = [
            worth[tuple(sorted(order[: order.index(modality) + 1]))]
            - worth[tuple(sorted(order[: order.index(modality)]))]
            for order in orders
        ]
        mean = np.mean(gains, axis=0)
        some = ~np.isnan(mean)
        np.testing.assert_allclose(phi[modality][some], mean[some], rtol=1e-3, atol=2e-4)
        absent = examples.features[modality].lengths == 0
        assert not phi[modality][absent].any(), "what is not there adds nothing"


@pytest.mark.parametrize("name", ["mood", "tags", "grade", "rating", "score"])
def test_time_attributions_are_complete(predictor, examples, name):
    """They add up to the value minus that of the baseline, found here without Captum."""
    rows = np.flatnonzero(examples.present().all(1))[:6]
    some = examples.take(rows)
    found, missing = attributions(predictor, some, name)
    target, model = predictor.spec.targets[name], predictor.model
    batch = some.batch(np.arange(len(rows)))
    with torch.no_grad():
        zeros = {key: torch.zeros_like(model.inputs[key](value)) for key, value in batch.inputs.items()}
        full = target.decode(model(batch.inputs, batch.lengths, batch.times)[name].numpy())
        base = target.decode(model.fused(zeros, batch.lengths, batch.times)[name].numpy())
    change = value_of(target, full) - value_of(target, base, full)
    added = np.array([sum(each.added.sum() for each in row.values()) for row in found])
    scale = max(1.0, np.abs(change).max())
    np.testing.assert_allclose(added, change, atol=0.03 * scale)
    assert missing.max() < 0.03 * scale
    for row, place in zip(found, rows):
        assert {key: len(each.added) for key, each in row.items()} == {
            key: examples.features[key].lengths[place] for key in FEATURES
        }


def test_noise_is_measured_in_the_train_split_s_deviations(predictor, examples):
    same = noisy(predictor, examples, "audio", 0.0)
    np.testing.assert_array_equal(same.features["audio"].values, examples.features["audio"].values)
    changed = noisy(predictor, examples, "audio", 2.0).features["audio"].values
    std = predictor.model.inputs["audio"].std.numpy()
    drawn = (changed - examples.features["audio"].values) / std
    assert drawn.std(0) == pytest.approx([2.0] * 3, rel=0.15)
    words = noisy(predictor, examples, "words", 0.5).features["words"].values
    assert (words == 1).mean() == pytest.approx(0.5, abs=0.1)
    assert (noisy(predictor, examples, "words", 1.0).features["words"].values == 1).all()


def test_the_nearest_training_row_of_a_training_row_is_itself(predictor, examples):
    rows = np.flatnonzero(examples.present().all(1))[:8]
    train = examples.take(np.flatnonzero(examples.present().all(1)))
    places, distances = nearest(predictor, examples.take(rows), train, k=3)
    assert places[:, 0].tolist() == list(range(8))
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-4)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_a_surrogate_says_how_often_it_agrees(predictor, examples):
    target = predictor.spec.targets["mood"]
    outputs = outputs_of_subsets(predictor, examples)
    alone = {name: outputs[frozenset([name])]["mood"] for name in FEATURES}
    fit_on = np.arange(len(examples)) % 2 == 0
    told = surrogate(target, alone, outputs[frozenset(FEATURES)]["mood"], fit_on)
    said = target.decode(outputs[frozenset(FEATURES)]["mood"]).values[~fit_on]
    assert told["fidelity"] >= np.bincount(said).max() / len(said) - 0.05, "at least what a constant agrees"
    assert told["rules"].count("class:") <= 8
    assert any(f"{name}: " in told["rules"] for name in FEATURES)
