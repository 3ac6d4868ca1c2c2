import numpy as np
import pyarrow as pa
import pytest

from mmray.training.batches import FeatureSet, Ragged
from mmray.training.times import spread, step_numbers

LENGTHS = {"frames": [3, 0, 2, 1], "sound": [4, 4, 0, 0], "words": [2, 2, 2, 3]}


def feature_table() -> pa.Table:
    """`frames` with times of their own in row 0 only, `sound` with start and step, `words` with none."""
    columns: dict[str, list] = {"sample_id": ["a", "b", "c", "d"], "split": ["train"] * 4}
    for name, lengths in LENGTHS.items():
        word = name == "words"
        columns[name] = [[("w" if word else [1.0])] * n if n else None for n in lengths]
        columns[f"{name}_length"] = lengths
    columns |= {
        "frames_start_s": [0.5, None, 1.0, 7.0],
        "frames_step_s": [2.0, None, 0.25, None],
        "frames_times_s": [[0.5, 2.0, 4.5], None, None, None],
        "sound_start_s": [-1.0, 0.0, None, None],
        "sound_step_s": [0.5, 0.1, None, None],
    }
    vectors = pa.list_(pa.list_(pa.float32(), 1))
    types = {"frames": vectors, "sound": vectors, "frames_times_s": pa.list_(pa.float32())}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


EXPECTED = {
    "frames": [[0.5, 2.0, 4.5], [], [1.0, 1.25], [7.0]],
    "sound": [[-1.0, -0.5, 0.0, 0.5], [0.0, 0.1, 0.2, 0.3], [], []],
    # Evenly over what frames and sound cover: -1 to 4.5, 0 to 0.3, 1 to 1.25; after the one frame at 7.
    "words": [[0.375, 3.125], [0.075, 0.225], [1.0625, 1.1875], [7.0, 8.0, 9.0]],
}


@pytest.mark.parametrize("cuts", [[], [2], [1, 3]])
def test_steps_have_the_times_of_the_table_or_are_spread_over_those_of_the_row(cuts):
    table = feature_table()
    ends = [*cuts, len(table)]
    parts = [table.slice(a, b - a) for a, b in zip([0, *cuts], ends, strict=True)]
    if cuts == [2]:
        parts[1] = parts[1].drop_columns(["frames_times_s"])  # a table from before they were kept
    data = FeatureSet.load(parts, list(LENGTHS), {})
    for name, rows in EXPECTED.items():
        times = data.features[name].times()
        assert times.dtype == np.float32
        np.testing.assert_allclose(times, np.concatenate(rows), rtol=1e-6, atol=1e-6)
        picked = np.array([3, 0, 2])
        padded = data.features[name].padded_times(picked)
        for b, row in enumerate(picked):
            np.testing.assert_allclose(padded[b, : len(rows[row])], rows[row], rtol=1e-6, atol=1e-6)
            assert not padded[b, len(rows[row]) :].any()


def test_without_any_time_a_step_is_at_its_number():
    lengths = np.array([3, 0, 2])
    words = spread({"words": lengths}, {"words": np.full(5, np.nan, np.float32)})["words"]
    assert words.tolist() == [0, 1, 2, 0, 1] == step_numbers(lengths).tolist()
    bare = Ragged(np.zeros((5, 1)), np.array([0, 3, 3, 5]))
    assert bare.times().tolist() == words.tolist()
    both = Ragged.concatenate([bare.take(np.array([2])), Ragged(bare.values, bare.offsets, words + 9)])
    assert both.times().tolist() == [0, 1, 9, 10, 11, 9, 10]
