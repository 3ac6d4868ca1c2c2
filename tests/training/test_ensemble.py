"""`mmray.results.ensemble` on predictions of small models; the yardstick: numpy on the members' columns."""

import numpy as np
import pyarrow as pa
import pytest

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import TableError
from mmray.results.ensemble import ensemble
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_predictor
from mmray.training.loop import fit
from mmray.training.operating import Decision

FEATURES = ["audio", "video", "words"]


@pytest.fixture(scope="module")
def members(make_table, with_every_target, every_target, tmp_path_factory) -> list[pa.Table]:
    """Predictions for 40 rows by three models, the last of which sees the words alone."""
    table = with_every_target(make_table(120))
    found = []
    for seed, features in ((0, FEATURES), (1, FEATURES), (2, ["words"])):
        folder = tmp_path_factory.mktemp("member")
        data = FeatureSet.load(table, features, every_target)
        settings = TrainConfig(epochs=2, seed=seed, learning_rate=1e-2)
        fit(ModelConfig(), settings, data, features, every_target).save(folder)
        found.append(load_predictor(folder).predict(with_every_target(make_table(40, seed=9, missing=0.5))))
    return found


def test_it_is_the_mean_of_what_its_models_say(members):
    together = ensemble(members, "ensemble-x").to_pylist()
    for row, own in zip(together, zip(*(member.to_pylist() for member in members)), strict=True):
        able = [each for each in own if each["error"] is None]
        assert row["sample_id"] == own[0]["sample_id"]
        assert bool(row["error"]) == (not able)
        assert row["present"] == list(dict.fromkeys(name for each in own for name in each["present"]))
        if not able:
            assert row["mood_predicted"] is row["mood_spread"] is row["score_predicted"] is None
            continue
        p = np.mean([each["mood_probabilities"] for each in able], axis=0)
        best = int(p.argmax())
        assert row["mood_probabilities"] == pytest.approx(p, rel=1e-5)
        assert row["mood_predicted"] == ["high", "low"][best]
        spread = np.std([each["mood_probabilities"][best] for each in able])
        assert row["mood_spread"] == pytest.approx(spread, abs=1e-6)
        numbers = [each["score_predicted"] for each in able]
        assert row["score_predicted"] == pytest.approx(np.mean(numbers))
        assert row["score_spread"] == pytest.approx(np.std(numbers), rel=1e-5, abs=1e-5)
        tags = np.mean([each["tags_probabilities"] for each in able], axis=0)
        assert row["tags_predicted"] == [name for name, share in zip(["odd", "up"], tags) if share >= 0.5]
        grades = np.mean([each["grade_probabilities"] for each in able], axis=0)
        median = next(i for i, below in enumerate(np.cumsum(grades)) if below >= 0.5)
        assert row["grade_predicted"] == ["poor", "fair", "good"][median]
        assert row["rating_predicted"] == pytest.approx(np.mean([each["rating_predicted"] for each in able]))


def test_one_model_alone_is_itself(members):
    alone = ensemble(members[:1], "x")
    for name in ("mood", "grade", "tags"):
        assert alone[f"{name}_predicted"] == members[0][f"{name}_predicted"]
    assert alone["score_predicted"].to_pylist() == members[0]["score_predicted"].to_pylist()
    assert {value for value in alone["mood_spread"].to_pylist() if value is not None} == {0.0}


def test_it_can_hold_back(members):
    sure = ensemble(members, "x", {"mood": Decision(least=0.9)}).to_pylist()
    said = [row for row in sure if row["mood_predicted"]]
    assert all(max(row["mood_probabilities"]) >= 0.9 for row in said)
    assert len(said) < sum(row["error"] is None for row in sure)


def test_what_does_not_belong_together_is_refused(members):
    with pytest.raises(TableError, match="not of the same samples"):
        ensemble([members[0], members[1].slice(1)], "x")
