"""Which row of a file of features is about which sample: by id, by place only where nothing contradicts."""

from dataclasses import replace

import numpy as np
import pytest

from mmray.errors import MediaError, SamplesError
from mmray.features.imported import ImportedFeature
from mmray.samples.imported import ImportedStep
from mmray.samples.matching import Wanted, feature_of
from mmray.samples.trees import INTERVALS, Arrays

FEATURE = ImportedFeature(kind="imported")
IDS = [f"{row:03d}" for row in range(1, 6)]


def wanted(ids=IDS, source: Arrays | None = None) -> Wanted:
    blank = [None] * len(ids)
    return Wanted(ids, blank, blank, blank, source, {})


def file(ids=None, rows: int = 5, **columns) -> Arrays:
    """Row i holds i."""
    given = {} if ids is None else {"id": ids}
    return Arrays("sound.npz", {**given, "x": np.arange(float(rows))[:, None], **columns})


def values(found) -> list:
    return [step.reason if isinstance(step, MediaError) else float(step.value[0, 0]) for step in found.steps]


def test_rows_are_found_by_id_in_any_order_and_what_is_left_is_counted():
    found = feature_of("x", FEATURE, file([IDS[3], "zz", IDS[0], "yy", IDS[1]]), wanted())
    assert values(found) == [2, 4, "absent", 0, "absent"]
    told = "\n".join(found.notes)
    assert "features.x: 2 of 5 samples are not in sound.npz (003, 005)" in told
    assert "2 of 5 rows of sound.npz are of no sample (zz, yy)" in told
    assert feature_of("x", FEATURE, file(IDS), wanted()).notes == []


@pytest.mark.parametrize(
    "theirs",
    [["1", "2", "3", "4", "5"], np.arange(1, 6), np.arange(1.0, 6.0), [f"{i}.mp4" for i in IDS]],
)
def test_ids_that_only_differ_in_how_they_are_written_are_refused(theirs):
    with pytest.raises(
        SamplesError, match=r"5 of 5 samples are not in sound.npz, but 5 of them would be"
    ) as error:
        feature_of("x", FEATURE, file(theirs), wanted())
    assert "'001' there is '" in str(error.value)
    half = [f"{row:03d}" if row < 3 else str(row) for row in range(1, 6)]
    with pytest.raises(SamplesError, match="3 of 5 samples"):
        feature_of("x", FEATURE, file(half), wanted())


def test_whole_numbers_are_one_id_in_every_type():
    for theirs in ([7, 8], [7.0, 8.0], ["7", "8"], np.array([7, 8], ">i2")):
        assert values(feature_of("x", FEATURE, file(theirs, rows=2), wanted(["7", "8"]))) == [0, 1]


def test_ids_that_are_not_unique_or_match_nowhere_are_refused():
    with pytest.raises(SamplesError, match="several rows of the same id, for example '001'"):
        feature_of("x", FEATURE, file([IDS[0], *IDS[:4]]), wanted())
    with pytest.raises(SamplesError, match="none of the 5 ids"):
        feature_of("x", FEATURE, file(list("abcde")), wanted())


def test_rows_without_ids_are_matched_by_place_only_between_files_without_ids():
    places = [f"row_{row:06d}" for row in range(5)]
    data = Arrays("data.npz", {"y": np.arange(5), "split": ["train"] * 4 + ["test"]})
    found = feature_of("x", FEATURE, file(), wanted(places[::-1], data))
    assert values(found) == [4, 3, 2, 1, 0]
    assert "row i of the one is taken for row i of the other" in found.notes[0]
    with pytest.raises(SamplesError, match=r"sound.npz has 4 rows, data.npz 5, and there are no ids"):
        feature_of("x", FEATURE, file(rows=4), wanted(places, data))
    with pytest.raises(SamplesError, match=r"2 of 5 rows of sound.npz are in another split"):
        feature_of("x", FEATURE, file(split=["test"] + ["train"] * 4), wanted(places, data))
    for own in (None, Arrays("data.npz", {"id": IDS, "y": np.arange(5)})):
        with pytest.raises(
            SamplesError, match="no ids, so which of the 5 samples each is about is not known"
        ):
            feature_of("x", FEATURE, file(), wanted(IDS, own))


def test_a_recording_is_cut_to_the_time_of_each_sample():
    steps = np.arange(10.0)[:, None]
    intervals = np.stack([np.arange(10), np.arange(10) + 1], axis=1) * 0.5  # ten steps of half a second
    steps_with_nan = np.where(np.arange(10)[:, None] == 9, np.nan, steps)
    source = Arrays("v.csd", {"id": ["v"], "x": [steps_with_nan], "x" + INTERVALS: [intervals]})
    asked = replace(
        wanted(["v[0]", "v[1]", "v[2]", "v"]), start_s=[0, 1.0, 9.0, None], end_s=[1.0, 3.0, 9.5, None]
    )
    first, second, none, whole = feature_of("x", FEATURE, source, asked).steps
    assert isinstance(first, ImportedStep)
    assert isinstance(second, ImportedStep)
    np.testing.assert_array_equal(first.value, [[0], [1]])  # a zero in front is data there: it has its time
    np.testing.assert_array_equal(second.value, [[2], [3], [4], [5]])
    assert (second.start_s, second.step_s) == (0.0, 0.5)
    assert [none.reason, whole.reason] == ["empty", "corrupt"]  # pyright: ignore
