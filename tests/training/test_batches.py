import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray.errors import TableError
from mmray.targets import RegressionTarget
from mmray.training.batches import Examples, FeatureSet, Ragged, epoch_batches

FEATURES = ["audio", "video", "words"]


@pytest.fixture
def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 0, 5, 1, 0, 3)]


def ragged(rows: list[np.ndarray]) -> Ragged:
    return Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


def test_padding_holds_each_row_then_zeros(rows):
    picked = np.array([3, 1, 2, 2, 0])
    padded, lengths = ragged(rows).padded(picked)
    assert padded.shape == (5, 5, 3)
    for b, row in enumerate(picked):
        assert lengths[b] == len(rows[row])
        np.testing.assert_array_equal(padded[b, : lengths[b]], rows[row])
        assert not padded[b, lengths[b] :].any()


def test_rows_without_steps_are_one_step_of_padding(rows):
    padded, lengths = ragged(rows).padded(np.array([1, 4]))
    assert padded.shape == (2, 1, 3)
    assert lengths.tolist() == [0, 0]


def test_take_picks_rows_in_order(rows):
    picked = [5, 0, 1, 5]
    taken = ragged(rows).take(np.array(picked))
    expected = ragged([rows[i] for i in picked])
    np.testing.assert_array_equal(taken.values, expected.values)
    np.testing.assert_array_equal(taken.offsets, expected.offsets)


def test_load_keeps_what_the_table_holds(make_table, targets):
    table = make_table(60)
    data = FeatureSet.load(table, FEATURES, targets)
    assert data.sample_ids.tolist() == table["sample_id"].to_pylist()
    assert data.split.tolist() == table["split"].to_pylist()
    assert data.targets["mood"].tolist() == table["mood"].to_pylist()
    assert [None if np.isnan(v) else v for v in data.targets["score"]] == table["score"].to_pylist()
    for name in FEATURES:
        column = table[name].to_pylist()
        for i, value in enumerate(column):
            picked = data.features[name].take(np.array([i])).values
            np.testing.assert_array_equal(picked, np.array(value or []).reshape(picked.shape))


def test_several_tables_are_one(make_table, targets):
    table = make_table(50)
    whole = FeatureSet.load(table, FEATURES, targets)
    parts = FeatureSet.load([table.slice(0, 20), table.slice(20, 0), table.slice(20)], FEATURES, targets)
    assert parts.sample_ids.tolist() == whole.sample_ids.tolist()
    for name in FEATURES:
        np.testing.assert_array_equal(parts.features[name].values, whole.features[name].values)
        np.testing.assert_array_equal(parts.features[name].offsets, whole.features[name].offsets)


def test_subset_by_mask_and_by_index_agree_with_the_table(make_table, targets):
    table = make_table(50)
    data = FeatureSet.load(table, FEATURES, targets)
    mask = data.split == "val"
    expected = FeatureSet.load(table.filter(pa.array(mask)), FEATURES, targets)
    for subset in (data.subset(mask), data.subset(np.flatnonzero(mask))):
        assert subset.sample_ids.tolist() == expected.sample_ids.tolist()
        for name in FEATURES:
            np.testing.assert_array_equal(subset.features[name].values, expected.features[name].values)


def test_what_the_table_lacks_is_named(make_table, targets):
    table = make_table(5)
    with pytest.raises(TableError, match="no column smell, taste"):
        FeatureSet.load(table, ["audio", "smell", "taste"], targets)
    with pytest.raises(TableError, match="split is not a feature"):
        FeatureSet.load(table, ["split"], {})
    with pytest.raises(TableError, match=r"target mood \(regression\)"):
        FeatureSet.load(table, FEATURES, {"mood": RegressionTarget(kind="regression")})
    renamed = table.drop_columns(["video"]).append_column("video", table["audio"])
    with pytest.raises(TableError, match="feature video has several types"):
        FeatureSet.load([table, renamed], FEATURES, targets)
    with pytest.raises(TableError, match="no feature table"):
        FeatureSet.load([], FEATURES, targets)


def test_no_rows_make_a_batch_of_nothing(rows):
    words = Ragged(np.arange(11), ragged(rows).offsets)
    examples = Examples(
        {"audio": ragged(rows), "words": words},
        {"mood": np.zeros(6, dtype=np.int64), "score": np.zeros(6, dtype=np.float32)},
    )
    full, empty = examples.batch(np.arange(6)), examples.batch(np.zeros(0, dtype=np.int64))
    for part in ("inputs", "lengths", "times", "targets"):
        for name, tensor in getattr(empty, part).items():
            assert tensor.dtype == getattr(full, part)[name].dtype
            assert len(tensor) == 1
    assert full.inputs["audio"].shape == (6, 5, 3)
    assert full.inputs["words"].shape == full.times["words"].shape == full.times["audio"].shape == (6, 5)
    assert not any(steps.any() for steps in empty.lengths.values())
    assert empty.targets["mood"].tolist() == [-1]
    assert torch.isnan(empty.targets["score"]).all()


@pytest.mark.parametrize("n_rows", [1, 7, 64, 65, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_every_global_batch_without_loss_or_overlap(n_rows, world_size):
    alone = [rows for rows, _ in epoch_batches(n_rows, 16, epoch=3, seed=5)]
    assert sorted(np.concatenate(alone)) == list(range(n_rows))
    ranks = [list(epoch_batches(n_rows, 16, 3, 5, rank, world_size)) for rank in range(world_size)]
    assert {len(steps) for steps in ranks} == {-(-n_rows // 16)}
    for step, rows in enumerate(alone):
        assert all(np.array_equal(steps[step][0], rows) for steps in ranks)
        assert np.concatenate([steps[step][1] for steps in ranks]).tolist() == rows.tolist()
        sizes = [len(steps[step][1]) for steps in ranks]
        assert max(sizes) - min(sizes) <= 1


def test_order_changes_with_epoch_and_seed_only():
    def order(epoch: int, seed: int) -> list[int]:
        return np.concatenate([rows for rows, _ in epoch_batches(50, 8, epoch, seed)]).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(epoch, seed)) for epoch in (1, 2) for seed in (0, 1)}) == 4


def test_groups_are_numbers_that_are_equal_where_the_groups_are(make_table, targets):
    names = ["b", "a", None, "b", "", "a"]
    groups = pa.chunked_array([pa.array(names[:2]), pa.array(names[2:])])
    table = make_table(6).append_column("group", groups)
    data = FeatureSet.load([table.slice(0, 4), table.slice(4)], [], targets)
    assert data.group is not None
    same = [[i == j for j in data.group] for i in data.group]
    assert same == [[i == j for j in names] for i in names]
    assert (data.group == -1).tolist() == [name is None for name in names]
    assert FeatureSet.load(make_table(6), [], targets).group is None
    assert data.subset(np.array([3, 0])).group.tolist() == [data.group[3], data.group[0]]  # pyright: ignore[reportOptionalMemberAccess]
