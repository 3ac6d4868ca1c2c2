"""A table read part by part gives what the same table in memory gives: order, numbers, metrics."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.training.batches import FeatureSet, epoch_batches
from mmray.training.loop import fit
from mmray.training.ranks import Worker
from mmray.training.spec import make_spec
from mmray.training.statistics import Moments, combined, summarise
from mmray.training.streaming import StreamedTable, epoch_windows, open_feed, summaries

FEATURES = ["audio", "video", "words"]
SIZES = np.array([30, 7, 1, 52, 40, 20])
MODEL = ModelConfig.model_validate({"encoders": {"audio": {"kind": "gru", "dropout": 0.0}}})


@pytest.fixture(scope="module")
def table(make_table, targets) -> FeatureSet:
    return FeatureSet.load(make_table(150, seed=5, missing=0.3), FEATURES, targets)


def streamed(data: FeatureSet, window: int, reads: Counter | None = None) -> StreamedTable:
    """The same table in parts; `reads` counts how often each is read."""
    starts = np.concatenate([[0], np.cumsum(SIZES)])

    def read(parts):
        for part in parts:
            if reads is not None:
                reads[part] += 1
            yield data.subset(starts[part] + np.arange(int(SIZES[part])))

    return StreamedTable(
        index=replace(data, features={}),
        lengths={name: feature.lengths for name, feature in data.features.items()},
        dims={name: feature.dim for name, feature in data.features.items()},
        sizes=SIZES,
        window=window,
        read=read,
    )


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
@pytest.mark.parametrize("epoch", [1, 2])
def test_windows_hold_every_row_once_and_few_parts_at_a_time(window, epoch):
    parts = np.repeat(np.arange(6), SIZES)
    windows = epoch_windows(parts, window, epoch, seed=3)
    assert sorted(np.concatenate([rows for _, rows in windows])) == list(range(len(parts)))
    assert sorted(np.concatenate([chosen for chosen, _ in windows])) == list(range(6))
    for chosen, rows in windows:
        assert len(chosen) <= window
        assert set(parts[rows]) == set(chosen)
    if window >= 6:
        in_memory = [rows for rows, _ in epoch_batches(len(parts), 32, epoch, seed=3)]
        np.testing.assert_array_equal(windows[0][1], np.concatenate(in_memory))


@pytest.mark.parametrize("window", [1, 2, 6])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_every_batch_and_read_each_part_once(table, targets, window, world_size):
    spec = make_spec(MODEL, TrainConfig(), table, summarise(table.features, np.arange(150)), targets)
    examples = spec.examples(table)
    rows = np.flatnonzero(table.split == "train")
    reads: Counter = Counter()
    feed = open_feed(spec, streamed(table, window, reads))
    ranks = [list(feed.steps(rows, 16, 1, 0, Worker(rank, world_size))) for rank in range(world_size)]
    assert {len(steps) for steps in ranks} == {-(-len(rows) // 16)}
    assert set(reads.values()) == {1}
    seen = []
    for step, (everyone, _, _) in enumerate(ranks[0]):
        assert all(np.array_equal(steps[step][0], everyone) for steps in ranks)
        shares = [steps[step][1] for steps in ranks]
        assert sorted(np.concatenate(shares)) == sorted(everyone)
        seen += everyone.tolist()
    assert sorted(seen) == rows.tolist()
    for everyone, own, cut in feed.steps(rows, 16, 2, 0, Worker()):
        np.testing.assert_array_equal(everyone, own)
        batch, expected = cut(own), examples.batch(own)
        for part in ("inputs", "lengths", "targets"):
            for name, tensor in getattr(expected, part).items():
                torch.testing.assert_close(getattr(batch, part)[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n_rows", range(1, 51))
def test_steps_are_equal_for_any_rows_and_workers(table, targets, n_rows):
    spec = make_spec(MODEL, TrainConfig(), table, summarise(table.features, np.arange(150)), targets)
    rows = np.random.default_rng(n_rows).permutation(150)[:n_rows]
    rows.sort()
    for data in (table, streamed(table, 2)):
        feed = open_feed(spec, data)
        for world_size in (1, 2, 3, 4, 5):
            workers = [Worker(rank, world_size) for rank in range(world_size)]
            ranks = [list(feed.steps(rows, 8, 1, 0, worker)) for worker in workers]
            assert {len(steps) for steps in ranks} == {-(-n_rows // 8)}
            trained = np.concatenate([own for steps in ranks for _, own, _ in steps])
            assert sorted(trained) == rows.tolist()
            judged = [rows[where] for worker in workers for where, _, _ in feed.pieces(rows, worker)]
            assert sorted(np.concatenate(judged)) == rows.tolist()


def test_statistics_of_parts_are_those_of_the_whole(table):
    rows = np.flatnonzero(table.split == "train")
    found = summaries(streamed(table, 1), FEATURES, rows, Worker())
    for name in ("audio", "video"):
        values = table.features[name].take(rows).values.astype(np.float64)
        moments = found[name]
        assert isinstance(moments, Moments)
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
        mean, std = moments.scale(name)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(std, values.std(0), rtol=1e-6)
    words = [word for row in rows for word in table.features["words"].take(np.array([row])).values]
    assert found["words"] == Counter(words)


def test_moments_hold_for_values_far_from_zero():
    x = np.random.default_rng(0).normal(1e6, 1e-1, (5000, 2))
    parts = [{"x": Moments.of(part)} for part in np.split(x, [3, 4, 4, 3000])]
    moments = combined(parts, ["x"])["x"]
    assert isinstance(moments, Moments)
    np.testing.assert_allclose(np.sqrt(moments.squares / moments.n), x.std(0), rtol=1e-6)


def test_a_window_over_all_parts_trains_the_same_model(table, targets):
    train = TrainConfig(epochs=3, batch_size=16, learning_rate=5e-3)
    a = fit(MODEL, train, table, FEATURES, targets)
    b = fit(MODEL, train, streamed(table, 6), FEATURES, targets)
    assert a.snapshot.spec == b.snapshot.spec
    assert a.rows == b.rows
    for name, weights in a.snapshot.weights.items():
        torch.testing.assert_close(weights, b.snapshot.weights[name], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(a.history, b.history, strict=True):
        same = {key: value for key, value in theirs.items() if key != "seconds"}
        assert {key: ours[key] for key in same} == pytest.approx(same, rel=1e-4)
    for target in targets:
        assert a.test[target]["metrics"] == pytest.approx(b.test[target]["metrics"], rel=1e-4)


def test_small_windows_learn_as_well(make_table, targets):
    data = FeatureSet.load(make_table(150, seed=1), FEATURES, targets)
    train = TrainConfig(epochs=8, batch_size=16, learning_rate=5e-3)
    result = fit(MODEL, train, streamed(data, 2), FEATURES, targets)
    mood = result.test["mood"]
    assert mood["metrics"]["accuracy"] > mood["majority"]["accuracy"] + 0.15
