"""Padding, reasons and context of imported features, against closed forms."""

import numpy as np
import pytest

from mmray.errors import MediaError, SamplesError
from mmray.features.imported import ImportedFeature
from mmray.samples.context import in_context
from mmray.samples.imported import Found, ImportedStep, feature_columns, ids_of, samples, steps
from mmray.samples.trees import Arrays


def feature(**settings) -> ImportedFeature:
    return ImportedFeature(kind="imported", **settings)


def found_in(name: str, settings: ImportedFeature, columns: dict) -> Found:
    taken, notes = feature_columns(name, settings, Arrays("x.npz", columns))
    found = steps(name, settings, taken)
    return Found(found.steps, [*notes, *found.notes])


def lengths_of(found: Found) -> list:
    return [step.reason if isinstance(step, MediaError) else len(step.value) for step in found.steps]


def test_padding_is_cut_by_lengths_and_else_by_zeros_on_either_side():
    x_NTD = np.ones((4, 5, 2), np.float32)
    x_NTD[0, 3:], x_NTD[1, 1:], x_NTD[1, 0] = 0, 0, (0, 1)  # a step with one number is no padding
    x_NTD[2, :2], x_NTD[2, 3] = 0, 0  # in front and between: the latter are data
    x_NTD[3] = 0
    assert lengths_of(found_in("a", feature(), {"a": x_NTD})) == [3, 1, 3, "empty"]
    assert lengths_of(found_in("a", feature(trim_zeros=False), {"a": x_NTD})) == [5, 5, 5, 5]
    given = {"a": x_NTD, "a_lengths": [2, 4, 0, 5], "other": np.array([1, 1, 1, 1])}
    assert lengths_of(found_in("a", feature(), given)) == [2, 4, "empty", 5]
    assert lengths_of(found_in("b", feature(array="a", lengths="other"), given)) == [1, 1, 1, 1]
    cut = found_in("a", feature(), given).steps[0]
    assert isinstance(cut, ImportedStep)
    np.testing.assert_array_equal(cut.value, x_NTD[0, :2])


def test_zeros_in_front_are_padding_beside_lengths_too():
    x_NTD = np.ones((2, 5, 2), np.float32)
    x_NTD[:, :3] = 0
    x_NTD[:, 4] = 7
    found = found_in("a", feature(), {"a": x_NTD, "a_lengths": [2, 2]})
    for step in found.steps:
        assert isinstance(step, ImportedStep)
        np.testing.assert_array_equal(step.value, [[1, 1], [7, 7]])
    assert found.notes == ["features.a: 2 of 2 rows have zeros in front of the data: padding, cut off"]


def test_a_last_step_again_and_again_is_kept_and_told():
    x_NTD = np.ones((2, 6, 2), np.float32)
    x_NTD[0, :3] = np.arange(6).reshape(3, 2)
    found = found_in("a", feature(), {"a": x_NTD})
    assert lengths_of(found) == [6, 6]
    assert "1 of 2 rows end in one step again and again" in found.notes[0]


@pytest.mark.parametrize("length", [6, -1, 2.5, float("nan"), "three", 10**30])
def test_lengths_that_cannot_be_right_are_refused_with_a_count(length):
    columns = {"a": np.ones((3, 5, 2)), "a_lengths": [5, length, 1]}
    with pytest.raises(
        SamplesError, match=r"features.a: 1 of 3 lengths in 'a_lengths' cannot be right \(row 1"
    ):
        found_in("a", feature(), columns)
    assert lengths_of(found_in("a", feature(lengths=False), columns)) == [5, 5, 5]


def test_steps_after_the_length_that_are_no_padding_are_counted():
    x_NTD = np.random.default_rng(0).normal(size=(3, 5, 2))
    x_NTD[0, 3:], x_NTD[1, 2:] = 0, x_NTD[1, 1]
    (told,) = found_in("a", feature(), {"a": x_NTD, "a_lengths": [3, 2, 4]}).notes
    assert told == (
        "features.a: 1 of 3 rows have steps after their length that are not padding "
        "(neither zeros nor one step repeated)"
    )
    assert found_in("a", feature(), {"a": x_NTD[:2], "a_lengths": [3, 2]}).notes == []


def test_numbers_that_are_texts_are_read_as_numbers_and_told():
    texts = [["0.5", "1e3"], ["-2", " 3 "]]
    for given in (texts, np.array(texts), [str([0.5, 1000.0]), "[-2, 3]"], [[row] * 2 for row in texts]):
        found = found_in("a", feature(), {"a": given})
        assert all(isinstance(step, ImportedStep) for step in found.steps)
        np.testing.assert_array_equal(found.steps[1].value[0], [-2, 3])  # pyright: ignore
        assert "written as texts: read as numbers" in found.notes[0]
    words = found_in("a", feature(), {"a": [["so", "good"], ["2", "bad"]]})
    assert [step.value for step in words.steps] == [["so", "good"], ["2", "bad"]]  # pyright: ignore
    digits = found_in("a", feature(), {"a": [["1", "2", "3"], ["4"]]})
    assert [step.value for step in digits.steps] == [["1", "2", "3"], ["4"]]  # pyright: ignore
    assert "taken as words" in digits.notes[0]
    with pytest.raises(
        SamplesError, match=r"2 of 3 rows of texts are numbers, others are not \(row 2: \['x', '1'\]"
    ):
        found_in("a", feature(), {"a": [*texts, ["x", "1"]]})
    with pytest.raises(SamplesError, match="expected a vector, got the text 'so good'"):
        found_in("a", feature(), {"a": ["so good"]})


def test_numbers_too_large_for_float16_are_a_failure_of_their_row():
    found = found_in("a", feature(dtype="float16"), {"a": np.array([[65504.0], [70000.0], [-1e9]])})
    assert lengths_of(found) == [1, "corrupt", "corrupt"]
    assert "1 of 1 values are too large for float16 (70000)" in found.steps[1].detail  # pyright: ignore
    assert lengths_of(found_in("a", feature(), {"a": np.array([[70000.0], [1e300]])})) == [1, "corrupt"]
    with pytest.raises(SamplesError, match="expected real numbers, got complex64"):
        found_in("a", feature(), {"a": np.ones((1, 2), "c8")})


def test_an_array_without_a_name_of_its_own_is_the_feature_and_another_is_not():
    assert "'data' is taken" in found_in("a", feature(), {"id": ["x"], "data": np.ones((1, 2))}).notes[0]
    with pytest.raises(SamplesError, match="no array 'a'"):
        found_in("a", feature(), {"id": ["x"], "voice": np.ones((1, 2))})


def test_vectors_are_one_step_and_zeros_among_them_are_data():
    found = found_in("a", feature(), {"a": np.array([[0.0, 0.0], [1.0, 2.0]])})
    assert lengths_of(found) == [1, 1]
    numbered = {"a_0": ["1", "", ""], "a_1": ["2.5", "", "4"], "a_b": ["x", "x", "x"]}
    one, absent, half = found_in("a", feature(), numbered).steps
    assert isinstance(one, ImportedStep)
    np.testing.assert_array_equal(one.value, [[1, 2.5]])
    assert [absent.reason, half.reason] == ["absent", "corrupt"]  # pyright: ignore


def test_values_that_are_no_features_are_told():
    nan = found_in("a", feature(), {"a": np.array([[1.0, np.nan], [1.0, -np.inf]])})
    assert lengths_of(nan) == ["corrupt", "corrupt"]
    with pytest.raises(SamplesError, match=r"got shape \[2, 2, 2\]"):
        found_in("a", feature(), {"a": np.ones((1, 2, 2, 2))})
    with pytest.raises(SamplesError, match=r"no array 'b'.*there are: a"):
        found_in("b", feature(), {"a": np.ones((1, 2))})


def test_ids_are_given_or_joined_or_the_rows_places():
    assert ids_of({"id": np.array([["v", "0.5", "2"]], dtype=object)}, {}) == ["v_0.5_2"]
    assert ids_of({"name": [b"a", 7, 8.0]}, {"sample_id": "name"}) == ["a", "7", "8"]
    assert ids_of({"x": np.zeros((2, 3))}, {}) is None
    placed = samples(Arrays("x", {"x": np.zeros((2, 3)), "y": [1, 2]}), {}, ["y"])
    assert [row["sample_id"] for row in placed] == ["row_000000", "row_000001"]
    with pytest.raises(SamplesError, match="row 1 has no id"):
        ids_of({"id": [1.0, np.nan]}, {})
    rows = samples(
        Arrays("x", {"id": ["a"], "y": np.array([2.0]), "raw_text": ["hi"]}), {"score": "y"}, ["score"]
    )
    assert rows == [{"sample_id": "a", "score": 2.0, "text": "hi"}]
    with pytest.raises(SamplesError, match="no array 'score'"):
        samples(Arrays("x", {"id": ["a"]}), {}, ["score"])


def test_a_row_in_context_holds_its_recording_in_order_with_itself_at_time_zero():
    # Two recordings, places out of order and past 9; one row without the feature; one in another split.
    ids = ["v_10", "v_2", "w_1", "v_1", "v_3", "v_4"]
    splits = ["train", "train", "train", "train", "train", "test"]
    own: list = [ImportedStep(np.array([[row, 0.0], [row, 2.0]])) for row in range(6)]
    own[4] = MediaError("corrupt", "noise")
    v_10, v_2, w_1, v_1, v_3, v_4 = list(in_context("(.+)_([0-9]+)", ids, splits, own))
    assert v_3 is own[4]
    for step, order, place in [(v_10, [3, 1, 0], 2), (v_2, [3, 1, 0], 1), (v_1, [3, 1, 0], 0),
                               (w_1, [2], 0), (v_4, [5], 0)]:  # fmt: skip
        assert isinstance(step, ImportedStep)
        np.testing.assert_array_equal(step.value, [[row, 1.0] for row in order])
        assert step.start_s is not None
        times = step.start_s + np.arange(len(order))
        assert step.step_s == 1
        assert times[place] == 0
    with pytest.raises(SamplesError, match="1 ids do not match, for example x"):
        list(in_context("(.+)_([0-9]+)", ["v_1", "x"], [None, None], own[:2]))
