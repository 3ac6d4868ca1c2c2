import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.compute as pc
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.config.running import ScoreConfig
from mmray.errors import ConfigError, TableError
from mmray.tables.schemas import FeatureShape, prediction_schema, vectors_to_column
from mmray.targets import CLASSES_METADATA, ClassificationTarget
from mmray.training.batches import FeatureSet
from mmray.training.checkpoint import load_predictor
from mmray.training.loop import fit
from mmray.training.operating import threshold_for
from mmray.training.predict import Predictor

FEATURES = ["audio", "video", "words"]


@pytest.fixture
def predictor(make_table, targets, tmp_path) -> Predictor:
    data = FeatureSet.load(make_table(150), FEATURES, targets)
    fit(ModelConfig(), TrainConfig(epochs=5, learning_rate=1e-2), data, FEATURES, targets).save(tmp_path)
    return load_predictor(tmp_path)


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def test_row_in_is_row_out(predictor, make_table, targets):
    table = make_table(70, seed=9, missing=0.4)
    out = predictor.predict(table)
    assert out.schema.equals(prediction_schema(targets))
    for name in ("sample_id", "split", "mood", "score"):
        assert out[name].to_pylist() == table[name].to_pylist()
    present = [[m for m in FEATURES if row[f"{m}_length"]] for row in table.to_pylist()]
    assert out["present"].to_pylist() == present
    assert set(out["model"].to_pylist()) == {predictor.fingerprint}


def test_a_row_with_nothing_to_see_is_null_with_a_reason(predictor, make_table):
    out = predictor.predict(make_table(70, seed=9, missing=0.6)).to_pylist()
    empty = [row for row in out if not row["present"]]
    assert 0 < len(empty) < len(out)
    for row in out:
        for column in ("mood_predicted", "mood_probabilities", "score_predicted"):
            assert (row[column] is None) == (not row["present"])
        assert bool(row["error"]) == (not row["present"])
    assert empty[0]["error"] == {
        "stage": "score",
        "reason": "absent",
        "detail": "no modality is present",
        "attempts": 1,
    }


def test_predictions_are_the_outputs_in_the_tables_units(predictor, make_table):
    """Against each row alone through the bare model."""
    table = make_table(25, seed=9)
    out = predictor.predict(table)
    classes = json.loads(out.schema.metadata[CLASSES_METADATA])["mood"]
    data = FeatureSet.load(table, FEATURES, {})
    examples = predictor.spec.examples(data)
    score = predictor.spec.targets["score"]
    for i, row in enumerate(out.to_pylist()):
        if not row["present"]:
            continue
        batch = examples.batch(np.array([i]))
        with torch.no_grad():
            y = predictor.model(batch.inputs, batch.lengths, batch.times)
        odds = np.exp(y["mood"][0].numpy() / predictor.spec.targets["mood"].temperature)
        assert row["mood_probabilities"] == pytest.approx(odds / odds.sum(), rel=1e-4)
        assert row["mood_predicted"] == classes[int(odds.argmax())]
        assert row["score_predicted"] == pytest.approx(y["score"].item() * score.std + score.mean, rel=1e-4)


def test_it_predicts_better_than_chance(predictor, make_table):
    out = predictor.predict(make_table(200, seed=9)).to_pylist()
    right = [row["mood"] == row["mood_predicted"] for row in out if row["mood"] and row["present"]]
    assert np.mean(right) > 0.75
    errors = [abs(row["score"] - row["score_predicted"]) for row in out if row["score"] and row["present"]]
    constant = [abs(row["score"] - 10) for row in out if row["score"] and row["present"]]
    assert np.mean(errors) < np.mean(constant)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(predictor, make_table, batch_size):
    table = make_table(30, seed=9)
    a, b = predictor.predict(table), predictor.predict(table, batch_size)
    assert a["mood_predicted"] == b["mood_predicted"]
    np.testing.assert_allclose(_numbers(a), _numbers(b), rtol=1e-4, atol=1e-5)


def _numbers(table: pa.Table) -> np.ndarray:
    return table["score_predicted"].to_numpy()


def test_no_rows_give_no_rows(predictor, make_table, targets):
    out = predictor.predict(make_table(10).slice(0, 0))
    assert out.num_rows == 0
    assert out.schema.equals(prediction_schema(targets))


def test_truths_are_null_where_the_table_has_none(predictor, make_table, targets):
    table = make_table(10)
    out = predictor.predict(table.drop_columns(["mood", "score"]))
    assert out.schema.equals(prediction_schema(targets))
    assert out["mood"].null_count == out["score"].null_count == 10
    assert out["mood_predicted"] == predictor.predict(table)["mood_predicted"]


def test_words_and_labels_never_seen_are_fine(predictor, make_table):
    table = make_table(10, missing=0)
    table = replaced(table, "words", pa.array([["never", "seen"]] * 10))
    table = replaced(table, "mood", pa.array(["bored"] * 10))
    out = predictor.predict(table)
    assert out["mood"].to_pylist() == ["bored"] * 10
    assert out["mood_predicted"].null_count == 0


def test_features_that_are_not_finite_cost_their_row_only(predictor, make_table):
    table = make_table(10, missing=0)
    vectors = [np.ones((2, 3), dtype=np.float32)] * 10
    vectors[4] = np.full((2, 3), np.inf, dtype=np.float32)
    out = predictor.predict(replaced(table, "audio", vectors_to_column(vectors, FeatureShape(3))))
    assert [i for i, row in enumerate(out["mood_predicted"].to_pylist()) if row is None] == [4]
    assert out["error"].to_pylist()[4]["reason"] == "corrupt"


def test_another_table_is_refused_by_name(predictor, make_table):
    table = make_table(4, missing=0)
    with pytest.raises(TableError, match="no column video"):
        predictor.predict(table.drop_columns(["video"]))
    wider = vectors_to_column([np.ones((2, 5))] * 4, FeatureShape(5))
    with pytest.raises(TableError, match=r"feature audio holds vectors of 5 numbers.* vectors of 3 numbers"):
        predictor.predict(replaced(table, "audio", wider))
    with pytest.raises(TableError, match=r"feature words holds vectors of 5 numbers.* trained on words"):
        predictor.predict(replaced(table, "words", wider))


def test_named_classes_keep_their_order(make_table, tmp_path):
    target = {"mood": ClassificationTarget(kind="classification", classes=["low", "never", "high"])}
    table = make_table(60)
    data = FeatureSet.load(table, ["audio"], target)
    fit(ModelConfig(), TrainConfig(epochs=1), data, ["audio"], target).save(tmp_path)
    out = load_predictor(tmp_path).predict(table)
    assert json.loads(out.schema.metadata[CLASSES_METADATA]) == {"mood": ["low", "never", "high"]}
    for row in out.to_pylist():
        if row["mood_probabilities"]:
            best = ["low", "never", "high"][int(np.argmax(row["mood_probabilities"]))]
            assert row["mood_predicted"] == best


def test_predictions_of_every_kind_of_target(make_table, every_target, with_every_target, tmp_path):
    table = with_every_target(make_table(60, missing=0.1))
    data = FeatureSet.load(table, FEATURES, every_target)
    model = ModelConfig(unimodal_heads=0.5)
    fit(model, TrainConfig(epochs=2), data, FEATURES, every_target).save(tmp_path)
    predictor = load_predictor(tmp_path)
    out = predictor.predict(table)
    assert out.schema.equals(prediction_schema(every_target))
    for name in every_target:
        assert out[name].to_pylist() == table[name].to_pylist()
    classes = json.loads((out.schema.metadata or {})[CLASSES_METADATA])
    assert classes == {
        "mood": ["high", "low"],
        "tags": ["odd", "up"],
        "grade": ["poor", "fair", "good"],
        "rating": ["-3", "-2", "-1", "0", "1", "2", "3"],
    }
    assert [name for name in every_target if f"{name}_probabilities" not in out.schema.names] == [
        "score",
        "sentiment",
    ]
    rows = [row for row in out.to_pylist() if row["present"]]
    for row in rows:
        p = {name: np.array(row[f"{name}_probabilities"]) for name in ("mood", "tags", "grade", "rating")}
        assert row["tags_predicted"] == [name for name, q in zip(classes["tags"], p["tags"]) if q >= 0.5]
        assert row["grade_predicted"] == classes["grade"][int((p["grade"].cumsum() < 0.5).sum())]
        assert row["rating_predicted"] == pytest.approx(p["rating"] @ np.arange(-3, 4), abs=1e-5)
        for name in ("mood", "grade", "rating"):
            assert p[name].sum() == pytest.approx(1, abs=1e-5)
    without = predictor.predict(table.drop_columns(list(every_target)))
    assert without["tags"].null_count == len(without)
    assert without["tags_predicted"] == out["tags_predicted"]
    unseen = [row for row in out.to_pylist() if not row["present"]]
    assert all(row[f"{name}_predicted"] is None for row in unseen for name in every_target)


# ------------------------------------------------------------------------------------ options of score


def test_options_add_columns_and_change_no_other(predictor, make_table):
    table = make_table(40, seed=9)
    plain = predictor.predict(table)
    more = predictor.predict(table, options=ScoreConfig(top_k=1, embeddings=True))
    assert more.select(plain.column_names).equals(plain)
    assert {*more.column_names} - {*plain.column_names} == {"mood_top", "embedding"}
    classes = json.loads(plain.schema.metadata[CLASSES_METADATA])["mood"]
    for row in more.to_pylist():
        if row["mood_probabilities"] is None:
            assert row["mood_top"] is row["embedding"] is None
            continue
        best = max(zip(row["mood_probabilities"], classes))
        assert row["mood_top"] == [{"label": best[1], "probability": best[0]}]
    # The heads are linear: of the embedding they give the scores, here found again by least squares.
    known = [row for row in more.to_pylist() if row["embedding"]]
    x = np.column_stack([np.array([row["embedding"] for row in known]), np.ones(len(known))])
    y = np.array([row["score_predicted"] for row in known])
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    np.testing.assert_allclose(x @ solution, y, atol=1e-2)


def test_a_late_fusion_has_an_embedding_too(make_table, targets, tmp_path):
    data = FeatureSet.load(make_table(60), FEATURES, targets)
    model = ModelConfig.model_validate({"fusion": {"kind": "late"}})
    fit(model, TrainConfig(epochs=1), data, FEATURES, targets).save(tmp_path)
    out = load_predictor(tmp_path).predict(make_table(9), options=ScoreConfig(embeddings=True))
    assert len({len(row) for row in out["embedding"].to_pylist() if row}) == 1


def test_what_is_not_sure_enough_is_null_and_keeps_its_probabilities(predictor, make_table):
    table = make_table(60, seed=9)
    plain = predictor.predict(table).to_pylist()
    out = predictor.predict(table, options=ScoreConfig(abstain_below={"mood": 0.8})).to_pylist()
    for before, after in zip(plain, out):
        sure = before["mood_probabilities"] and max(before["mood_probabilities"]) >= 0.8
        assert after["mood_predicted"] == (before["mood_predicted"] if sure else None)
        assert after["mood_probabilities"] == before["mood_probabilities"]
        assert after["score_predicted"] == before["score_predicted"]
    assert 0 < sum(row["mood_predicted"] is None for row in out) < 60


def test_a_class_must_reach_its_threshold(predictor, make_table):
    table = make_table(60, seed=9)
    plain = predictor.predict(table).to_pylist()
    out = predictor.predict(table, options=ScoreConfig(thresholds={"mood": {"high": 0.9}})).to_pylist()
    for before, after in zip(plain, out):
        if not before["present"]:
            continue
        high, low = before["mood_probabilities"]
        assert after["mood_predicted"] == ("high" if high >= 0.9 and high >= low else "low")
    with pytest.raises(ConfigError, match=r"hi: no such class; there are high, low"):
        predictor.predict(table, options=ScoreConfig(thresholds={"mood": {"hi": 0.9}}))
    with pytest.raises(ConfigError, match="no probability to hold back by"):
        predictor.predict(table, options=ScoreConfig(thresholds={"score": {"hi": 0.9}}))


def test_a_wanted_precision_is_met_on_validation(predictor, make_table, targets):
    """The curves are of the validation rows that the model was chosen by; they are looked up by hand here."""
    table = make_table(150)
    val = table.filter(pc.equal(table["split"], "val"))  # pyright: ignore[reportAttributeAccessIssue]
    plain = [row for row in predictor.predict(val).to_pylist() if row["mood_predicted"] and row["mood"]]
    wanted = 0.95
    out = predictor.predict(val, options=ScoreConfig(precision={"mood": wanted})).to_pylist()
    said = [row for row in out if row["mood_predicted"] and row["mood"]]
    for label in ("high", "low"):
        right = [row["mood"] == label for row in said if row["mood_predicted"] == label]
        assert np.mean(right) >= wanted
        # One row less sure would fall short: the next threshold that curve knows is below the wanted share.
        curve = predictor.operating["mood"][label]
        lower = [share for threshold, share, _ in curve if threshold < threshold_for(curve, wanted)]
        assert all(share < wanted for share in lower)
    assert len(said) <= len(plain)
    bare = dataclasses.replace(predictor, operating={})
    with pytest.raises(TableError, match="train again"):
        bare.predict(val, options=ScoreConfig(precision={"mood": wanted}))


def test_uncalibrated_probabilities_are_the_models_own(predictor, make_table):
    table = make_table(20, seed=9, missing=0)
    fitted = predictor.spec.targets["mood"].temperature
    calm, raw = (predictor.predict(table, options=ScoreConfig(calibrated=on)) for on in (True, False))
    p, q = (np.array(each["mood_probabilities"].to_pylist(), float) for each in (calm, raw))
    odds = np.log(p[:, 0] / p[:, 1]) * fitted
    np.testing.assert_allclose(odds, np.log(q[:, 0] / q[:, 1]), rtol=1e-3, atol=1e-4)
