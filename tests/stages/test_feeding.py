"""A feature table over its budget is streamed by Ray Data, and trains as one in memory does."""

from pathlib import Path

import numpy as np
import pytest

from mmray.distributed.feeding import load_features, open_table, streaming_window
from mmray.errors import StorageError
from mmray.stages.train import train
from mmray.storage.filesystem import Storage
from mmray.training.streaming import StreamedTable

pytestmark = pytest.mark.usefixtures("ray_cluster")

STREAMED = "train.memory_budget_mb=0.02"


def test_the_budget_decides_and_the_window_follows_it(table_project):
    config = table_project()
    data = load_features(config, Storage(), ["voice", "words"])
    whole = 4 * data.features["voice"].values.size + 80 * data.features["words"].values.size
    assert streaming_window(config, Storage(), whole) is None
    assert streaming_window(config, Storage(), whole - 1) == 1
    assert streaming_window(config, Storage(), 1) == 1


def test_streamed_partitions_are_the_tables_and_a_lost_one_is_a_fault(table_project):
    config = table_project()
    features = ["voice", "words"]
    whole = load_features(config, Storage(), features)
    table = open_table(config, Storage(), features, 2)
    assert isinstance(table, StreamedTable)
    assert table.sizes.tolist() == [64, 64, 64, 11]
    assert table.dims == {"voice": 4, "words": None}
    for name in features:
        np.testing.assert_array_equal(table.lengths[name], whole.features[name].lengths)
    for part, data in zip((2, 0, 3), table.read([2, 0, 3]), strict=True):
        expected = whole.subset(np.arange(table.starts[part], table.starts[part + 1]))
        assert data.sample_ids.tolist() == expected.sample_ids.tolist()
        for name in features:
            np.testing.assert_array_equal(data.features[name].values, expected.features[name].values)
            np.testing.assert_array_equal(data.features[name].offsets, expected.features[name].offsets)
    (lost,) = Path(config.path("features")).glob("voice-*/part-000001.parquet")
    lost.unlink()
    with pytest.raises(StorageError, match="part-000001"):
        list(table.read([0, 1]))


def test_streamed_training_is_the_same_on_any_number_of_workers(table_project):
    one = train(table_project(STREAMED, "train.epochs=3", "train.workers=1", name="one"))
    two = train(
        table_project(STREAMED, "train.epochs=3", "train.workers=2", "train.min_workers=1", name="two")
    )
    assert [one["workers"], two["workers"]] == [1, 2]
    assert one["streamed"]
    assert two["streamed"]
    assert one["splits"] == two["splits"]
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)
    assert one["history"][-1]["train_loss"] < 0.8 * one["history"][0]["train_loss"]
