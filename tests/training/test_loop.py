import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import MmrayError, SamplesError, TableError
from mmray.targets import FittedRegression, lower_is_better
from mmray.training.batches import FeatureSet, Ragged
from mmray.training.checkpoint import load_snapshot
from mmray.training.loop import FitResult, fit
from mmray.training.predict import model_outputs

FEATURES = ["audio", "video", "words"]


def model_config(fusion: str = "concat", dropout: float = 0.1, **settings) -> ModelConfig:
    encoders = {
        "audio": {"kind": "gru", "hidden": 8, "dropout": dropout},
        "video": {"kind": "mlp", "hidden": 8, "dropout": dropout},
        "words": {"kind": "transformer", "hidden": 8, "dropout": dropout},
    }
    top = {"kind": "late"} if fusion == "late" else {"kind": "concat", "hidden": 8, "dropout": dropout}
    return ModelConfig.model_validate({"encoders": encoders, "fusion": top, "embedding": 8, **settings})


def train_config(**settings) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 5e-3, "batch_size": 16, "epochs": 3, **settings})


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(result: FitResult) -> list[dict[str, float]]:
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result.history]


@pytest.fixture
def data(make_table, targets) -> FeatureSet:
    return FeatureSet.load(make_table(150), FEATURES, targets)


# ------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("fusion", ["concat", "late"])
def test_it_learns_what_the_features_hold(make_table, targets, fusion):
    data = FeatureSet.load(make_table(400), FEATURES, targets)
    result = fit(model_config(fusion), train_config(epochs=10), data, FEATURES, targets)
    mood, score = result.test["mood"], result.test["score"]
    assert mood["metrics"]["accuracy"] > mood["majority"]["accuracy"] + 0.25
    assert score["metrics"]["mae"] < 0.8 * score["majority"]["mae"]
    assert mood["interval"][0] <= mood["metrics"]["accuracy"] <= mood["interval"][1]
    assert np.sum(mood["confusion"]) == mood["rows"]
    assert np.trace(mood["confusion"]) / mood["rows"] == pytest.approx(mood["metrics"]["accuracy"])


def test_xor_of_two_modalities_needs_feature_level_fusion(targets):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (400, 2))
    vectors = (bits + rng.normal(0, 0.1, bits.shape)).astype(np.float32)
    offsets = np.arange(401)
    data = FeatureSet(
        sample_ids=np.array([f"s{i}" for i in range(400)], dtype=object),
        split=np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 40, dtype=object),
        features={"a": Ragged(vectors[:, :1], offsets), "b": Ragged(vectors[:, 1:], offsets)},
        targets={"mood": np.where(bits[:, 0] ^ bits[:, 1], "odd", "even").astype(object)},
    )
    accuracy = {}
    for fusion in ("concat", "late"):
        config = ModelConfig.model_validate({"fusion": {"kind": fusion}})
        train = train_config(epochs=25, learning_rate=1e-2, monitor="mood/accuracy", patience=25)
        result = fit(config, train, data, ["a", "b"], {"mood": targets["mood"]})
        accuracy[fusion] = result.test["mood"]["metrics"]["accuracy"]
    assert accuracy["concat"] > 0.95
    assert accuracy["late"] < 0.8  # a sum of two one-bit functions is right on at most 3 of the 4 cases


def test_rows_of_every_kind_are_counted(targets, data):
    result = fit(model_config(), train_config(), data, FEATURES, targets)
    nothing = ~np.asarray(np.stack([data.features[name].lengths > 0 for name in FEATURES]).any(0))
    no_truth = (data.targets["mood"] == None) & np.isnan(data.targets["score"])  # noqa: E711
    for split in ("train", "val", "test"):
        inside = data.split == split
        assert result.rows[split] == {
            "rows": inside.sum(),
            "no_modality": (inside & nothing).sum(),
            "no_target": (inside & no_truth).sum(),
            "used": (inside & ~no_truth & ~nothing).sum(),
        }
    assert sum(counts["no_target"] for counts in result.rows.values()) > 0
    assert result.test["mood"]["rows"] == sum(
        s == "test" and label is not None and not none
        for s, label, none in zip(data.split, data.targets["mood"], nothing, strict=True)
    )


def test_a_row_without_what_a_model_reads_is_judged_by_the_prior(data, targets):
    empty = Ragged(np.zeros((0, 3), dtype=np.float32), np.zeros(len(data) + 1, dtype=np.int64))
    audio = data.features["audio"]
    in_train = np.flatnonzero(data.split == "train")
    only_train = Ragged(
        audio.take(in_train).values, np.cumsum(np.r_[0, np.where(data.split == "train", audio.lengths, 0)])
    )
    always = Ragged(np.ones((len(data), 1), np.float32), np.arange(len(data) + 1))
    both = {"audio": only_train, "other": always}  # each row has something for some model
    blind = FeatureSet(data.sample_ids, data.split, both, data.targets)
    result = fit(model_config(), train_config(), blind, ["audio"], targets)
    for target in targets:
        metrics, majority = result.test[target]["metrics"], result.test[target]["majority"]
        main = result.test[target]["main"]
        assert metrics[main] == pytest.approx(majority[main], rel=1e-5)
    hidden = FeatureSet(data.sample_ids, data.split, {"audio": empty}, data.targets)
    with pytest.raises(SamplesError, match="the train split has no usable sample"):
        fit(model_config(), train_config(), hidden, ["audio"], targets)


def test_without_validation_rows_it_refuses(data, targets):
    with pytest.raises(SamplesError, match="the val split has no usable sample"):
        fit(model_config(), train_config(), data.subset(data.split != "val"), FEATURES, targets)


def test_without_test_rows_there_is_no_test_report(data, targets):
    result = fit(model_config(), train_config(), data.subset(data.split != "test"), FEATURES, targets)
    assert result.test == {}


# ------------------------------------------------------------------------------------ the loss


def test_reported_losses_are_those_of_the_weights(data, targets, tmp_path):
    """One batch and no dropout: the epoch's training loss is that of the weights before it."""
    config = train_config(epochs=2, batch_size=1000)

    def keep(metrics, save):
        save(tmp_path / str(metrics["epoch"]))

    result = fit(model_config(dropout=0), config, data, FEATURES, targets, report=keep)
    first, second = (load_snapshot(tmp_path / epoch).current for epoch in "12")
    spec = result.snapshot.spec
    examples = spec.examples(data)
    present = examples.present().any(1)
    score = spec.targets["score"]
    assert isinstance(score, FittedRegression)

    def loss(weights: dict[str, torch.Tensor], rows: np.ndarray) -> float:
        model = spec.build()
        model.load_state_dict(weights)
        outputs = model_outputs(model, examples, rows, 7, "cpu")
        labels, numbers = examples.targets["mood"][rows], examples.targets["score"][rows]
        p = torch.from_numpy(outputs["mood"]).softmax(1).numpy()
        nll = -np.log(p[labels >= 0, labels[labels >= 0]]).mean()
        return nll + np.nanmean((outputs["score"][:, 0] - (numbers - score.mean) / score.std) ** 2)

    train = np.flatnonzero((data.split == "train") & present)
    val = np.flatnonzero(data.split == "val")
    assert result.history[1]["train_loss"] == pytest.approx(loss(first, train), rel=1e-4)
    assert result.history[0]["val_loss"] == pytest.approx(loss(first, val), rel=1e-4)
    assert result.history[1]["val_loss"] == pytest.approx(loss(second, val), rel=1e-4)


def test_a_loss_that_is_not_finite_ends_with_what_to_do(data, targets):
    with pytest.raises(MmrayError, match=r"epoch 1, step \d+: .*train.learning_rate \(now 1e\+30\)"):
        fit(model_config(), train_config(learning_rate=1e30, clip_norm=None), data, FEATURES, targets)


def test_features_that_are_not_finite_are_named(data, targets):
    row = int(np.flatnonzero((data.split == "train") & (data.features["video"].lengths > 0))[5])
    data.features["video"].values[data.features["video"].offsets[row]] = np.inf
    with pytest.raises(TableError, match="feature video holds values that are not finite"):
        fit(model_config(), train_config(), data, FEATURES, targets)


def test_losses_that_are_reported_do_not_depend_on_their_weights(data, targets):
    """One batch, no dropout: the first epoch's training loss is that of the same fresh weights."""
    losses = {
        str(weights): fit(
            model_config(dropout=0),
            train_config(epochs=1, batch_size=1000, loss_weights=weights),
            data,
            FEATURES,
            targets,
        ).history[0]["train_loss"]
        for weights in ({}, {"mood": 1e-3}, {"mood": 7.0, "score": 1e-3}, "uncertainty")
    }
    assert len({round(loss, 5) for loss in losses.values()}) == 1, losses


def test_a_validation_loss_that_is_not_finite_names_a_row(data, targets):
    in_val = (data.split == "val") & (data.features["video"].lengths > 0)
    in_val &= data.targets["mood"] != None  # noqa: E711
    row = int(np.flatnonzero(in_val)[0])
    data.features["video"].values[data.features["video"].offsets[row]] = np.inf
    with pytest.raises(MmrayError, match=f"validation loss is not finite.*{data.sample_ids[row]}"):
        fit(model_config(), train_config(), data, FEATURES, targets)


def test_a_feature_that_no_train_row_has_is_refused_by_name(data, targets):
    audio = data.features["audio"]
    lengths = np.where(data.split == "train", 0, audio.lengths)
    rest = Ragged(audio.take(np.flatnonzero(data.split != "train")).values, np.cumsum(np.r_[0, lengths]))
    data = FeatureSet(data.sample_ids, data.split, {**data.features, "audio": rest}, data.targets)
    with pytest.raises(SamplesError, match="feature audio: no labelled row of the train split"):
        fit(model_config(), train_config(), data, FEATURES, targets)


def test_a_target_unknown_in_test_is_told_and_the_other_judged(data, targets):
    score = np.where(data.split == "test", np.nan, data.targets["score"])
    data = FeatureSet(data.sample_ids, data.split, data.features, {**data.targets, "score": score})
    result = fit(model_config(), train_config(), data, FEATURES, targets)
    (told,) = result.warnings
    assert told.startswith("target score is unknown in all")
    assert result.test["score"]["rows"] == 0
    assert result.test["mood"]["metrics"]["accuracy"] >= 0


def test_what_nothing_can_be_said_about_is_told(data, targets):
    audio = data.features["audio"]
    train = np.flatnonzero(data.split == "train")
    lengths = np.where(data.split == "train", audio.lengths, 0)
    kept = Ragged(audio.take(train).values, np.cumsum(np.r_[0, lengths]))
    moods = np.full(len(data), data.targets["mood"][train[0]], object)
    split = np.where(data.split == "test", "val", data.split)
    data = FeatureSet(
        data.sample_ids, split, {**data.features, "audio": kept}, {**data.targets, "mood": moods}
    )
    told = "\n".join(fit(model_config(), train_config(epochs=1), data, FEATURES, targets).warnings)
    assert "the test split has no samples" in told
    assert "target mood has one value in all train rows" in told
    assert f"audio: absent in all {((split == 'val') & data.seen).sum()} val rows" in told


# ------------------------------------------------------------------------------------ early stopping


def test_training_stops_after_patience_and_keeps_the_best_weights(data, targets, tmp_path):
    def keep(metrics, save):
        save(tmp_path / str(metrics["epoch"]))

    config = train_config(epochs=60, patience=2, learning_rate=3e-2)
    result = fit(model_config(), config, data, FEATURES, targets, report=keep)
    losses = [epoch["val_loss"] for epoch in result.history]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 2 < 60
    assert result.best["epoch"] == best
    expected = load_snapshot(tmp_path / str(best)).current
    assert equal(result.snapshot.weights, expected)
    assert equal(result.model.state_dict(), expected)
    assert equal(load_snapshot(tmp_path / str(best + 1)).weights, expected)
    assert not equal(load_snapshot(tmp_path / str(best + 1)).current, expected)


# ------------------------------------------------------------------------------------ sameness


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data, targets):
    config = model_config(modality_dropout=0.2)
    a, b = (fit(config, train_config(), data, FEATURES, targets) for _ in range(2))
    assert equal(a.snapshot.weights, b.snapshot.weights)
    assert without_seconds(a) == without_seconds(b)
    assert a.test == b.test
    other = fit(config, train_config(seed=1), data, FEATURES, targets)
    assert not equal(a.snapshot.weights, other.snapshot.weights)


def test_resuming_gives_the_same_bits_as_never_stopping(data, targets, tmp_path):
    config = model_config(modality_dropout=0.2)
    settings = {"monitor": "mood/accuracy", "patience": 6}
    straight = fit(config, train_config(epochs=6, **settings), data, FEATURES, targets)

    def die_after_the_third(metrics, save):
        if metrics["epoch"] == 3:
            save(tmp_path / "third")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, train_config(epochs=6, **settings), data, FEATURES, targets, report=die_after_the_third)
    resumed = fit(
        config, train_config(epochs=6, **settings), data, FEATURES, targets, resume=tmp_path / "third"
    )
    assert equal(straight.snapshot.current, resumed.snapshot.current)
    assert equal(straight.snapshot.weights, resumed.snapshot.weights)
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2, 3, 4, 5, 6]
    assert without_seconds(straight) == without_seconds(resumed)
    assert straight.test == resumed.test


def test_a_finished_run_resumes_to_itself(data, targets, tmp_path):
    done = fit(model_config(), train_config(), data, FEATURES, targets)
    done.save(tmp_path)
    reports = []
    again = fit(
        model_config(),
        train_config(),
        data,
        FEATURES,
        targets,
        resume=tmp_path,
        report=lambda metrics, save: reports.append(metrics),
    )
    assert reports == []
    assert again.test == done.test
    assert equal(again.snapshot.weights, done.snapshot.weights)


def test_another_runs_checkpoint_is_refused_by_name(data, targets, tmp_path):
    fit(model_config(), train_config(), data, FEATURES, targets, features_fingerprint="f1").save(tmp_path)
    cases = {
        "train.learning_rate": ((model_config(), train_config(learning_rate=1e-4), FEATURES), "f1"),
        "model.fusion": ((model_config("late"), train_config(), FEATURES), "f1"),
        "features.video": ((model_config(), train_config(), ["audio", "words"]), "f1"),
        "features_fingerprint": ((model_config(), train_config(), FEATURES), "f2"),
    }
    for field, ((model, train, features), fingerprint) in cases.items():
        with pytest.raises(TableError, match=f"another run, these differ: {field} "):
            fit(model, train, data, features, targets, resume=tmp_path, features_fingerprint=fingerprint)


# ------------------------------------------------------------------------------------ every kind of target


@pytest.fixture(scope="module")
def of_every_kind(make_table, every_target, with_every_target) -> tuple[FeatureSet, FitResult]:
    data = FeatureSet.load(with_every_target(make_table(400, seed=1)), FEATURES, every_target)
    model = model_config(unimodal_heads=0.3)
    train = train_config(epochs=12, learning_rate=1e-2, patience=12, loss_weights="uncertainty")
    return data, fit(model, train, data, FEATURES, every_target)


def test_every_kind_of_target_is_learned(of_every_kind, every_target):
    _, result = of_every_kind
    for name, target in every_target.items():
        report = result.test[name]
        main = target.metric_names[0]
        sign = -1 if lower_is_better(main) else 1
        assert report["main"] == main
        assert sign * report["metrics"][main] > sign * report["majority"][main], name
        assert report["interval"][0] <= report["metrics"][main] <= report["interval"][1]
        assert set(report["metrics"]) == set(report["majority"]) == set(target.metric_names)
        assert set(report["heads"]) == set(FEATURES)
        assert any(head[main] != report["metrics"][main] for head in report["heads"].values())
        assert all(f"val/{name}/{metric}" in result.best for metric in target.metric_names)


def test_patterns_share_out_the_test_rows(of_every_kind):
    """Weighted by their rows, the patterns' accuracies are the whole's; each is that of its own rows."""
    data, result = of_every_kind
    report = result.test["mood"]
    patterns = report["patterns"]
    assert sum(pattern["rows"] for pattern in patterns) == report["rows"]
    assert sum(p["rows"] * p["metrics"]["accuracy"] for p in patterns) / report["rows"] == pytest.approx(
        report["metrics"]["accuracy"]
    )
    rows = (data.split == "test") & (data.targets["mood"] != None)  # noqa: E711
    present = {name: data.features[name].lengths > 0 for name in FEATURES}
    for pattern in patterns:
        same = np.all([present[name] == (name in pattern["present"]) for name in FEATURES], axis=0)
        assert pattern["rows"] == (rows & same).sum()
    counts = [pattern["rows"] for pattern in patterns]
    assert counts == sorted(counts, reverse=True)
    assert len(patterns) == 2 ** len(FEATURES) - 1, "every one but none at all"


def test_the_largest_class_is_the_majority(of_every_kind):
    data, result = of_every_kind
    labels = data.targets["mood"]
    known = labels != None  # noqa: E711
    names, counts = np.unique(labels[known & (data.split == "train")].astype(str), return_counts=True)
    most = names[counts.argmax()]
    share = (labels[known & data.seen & (data.split == "test")] == most).mean()
    assert result.test["mood"]["majority"]["accuracy"] == pytest.approx(share)
    assert result.test["mood"]["majority"]["auroc"] == 0.5
    numbers = data.targets["score"]
    error = np.abs(numbers[data.split == "test"] - np.nanmean(numbers[data.split == "train"]))
    assert result.test["score"]["majority"]["mae"] == pytest.approx(np.nanmean(error), rel=1e-5)
