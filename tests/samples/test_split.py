"""Splits that do not leak: groups stay together, shares are kept, what stands in two splits is counted."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from mmray.config import SplitConfig
from mmray.errors import ConfigError, SamplesError
from mmray.samples.split import leaks, refuse_leaks, split_of, split_read
from tests.samples.conftest import WORDS, Found, Read


def manifest(folder: Path, rows: list[dict]) -> dict[str, str]:
    (folder / "m.jsonl").write_text(
        "".join(json.dumps({"text": "x", "label": "h", **row}) + "\n" for row in rows)
    )
    return {"manifest": str(folder / "m.jsonl")}


def torn(found: Found, key: dict[str, str]) -> set[str]:
    """The keys whose samples stand in several splits."""
    splits = defaultdict(set)
    for name, row in found.rows.items():
        splits[key[name]].add(row["split"])
    return {name for name, of in splits.items() if len(of) > 1}


CUTS = [
    {"sample_id": f"v{i // 5}_{i % 5}", "video": f"v{i // 5}.mp4", "start_s": i, "end_s": i + 1}
    for i in range(1000)
]
VIDEO = {row["sample_id"]: row["video"] for row in CUTS}


def test_cuts_of_one_recording_stay_together(tmp_path, read: Read):
    found = read(manifest(tmp_path, CUTS), WORDS)
    assert torn(found, VIDEO) == set()
    rows = Counter(row["split"] for row in found.rows.values())
    # 200 groups of 5: four standard deviations of a share of 0.1 are 0.085.
    assert rows["val"] / 1000 == pytest.approx(0.1, abs=0.085)
    assert rows["test"] / 1000 == pytest.approx(0.1, abs=0.085)
    assert {row["group"] for row in found.rows.values()} == {f"{tmp_path}/v{i}.mp4" for i in range(200)}


def test_splits_depend_neither_on_the_place_nor_on_the_others_nor_on_the_order(tmp_path, read: Read):
    first = {name: row["split"] for name, row in read(manifest(tmp_path, CUTS), WORDS).rows.items()}
    (tmp_path / "moved").mkdir()
    some = read(manifest(tmp_path / "moved", CUTS[::-3]), WORDS)
    assert {name: row["split"] for name, row in some.rows.items()} == {
        name: first[name] for name in some.rows
    }


@pytest.mark.parametrize("setting", ["speaker", {"regex": "^([a-z]+)_"}, {"regex": "^[a-z]+"}])
def test_groups_by_a_column_or_by_the_id(tmp_path, read: Read, setting):
    names = ("ada", "bob", "cy", "dee", "eve", "fay", "gil", "hal", "ivy", "jo")
    rows = [{"sample_id": f"{n}_{i}", "speaker": n, "video": f"{n}{i}.mp4"} for n in names for i in range(30)]
    samples = {**manifest(tmp_path, rows), "split": {"group": setting, "val": 0.3, "test": 0.3}}
    found = read(samples, WORDS)
    assert {row["group"] for row in found.rows.values()} == {*names}
    assert torn(found, {row["sample_id"]: row["speaker"] for row in rows}) == set()
    assert len({row["split"] for row in found.rows.values()}) == 3


def test_a_group_that_is_not_there_is_told(tmp_path, read: Read):
    rows = [{"sample_id": "a_1", "speaker": "a"}, {"sample_id": "b_1"}, {"sample_id": "_"}]
    samples = manifest(tmp_path, rows)
    found = read({**samples, "split": {"group": "speaker"}}, WORDS)
    assert {name: row["group"] for name, row in found.rows.items()} == {"a_1": "a", "b_1": "b_1", "_": "_"}
    assert "samples without a 'speaker', each a group of its own: 2 (b_1, _)" in found.said
    found = read({**samples, "split": {"group": {"regex": "[a-z]"}}}, WORDS)
    assert "line 3: samples.split.group: '[a-z]' finds nothing in '_'" in found.said
    assert (
        "no column 'voice', which samples.split.group names"
        in read({**samples, "split": {"group": "voice"}}, WORDS).said
    )


def test_every_group_is_tested_in_just_one_fold(tmp_path, read: Read):
    tested = Counter()
    for fold in range(5):
        samples = {**manifest(tmp_path, CUTS), "split": {"folds": 5, "fold": fold, "val": 0.2}}
        found = read(samples, WORDS)
        assert torn(found, VIDEO) == set()
        rows = Counter(row["split"] for row in found.rows.values())
        assert rows["test"] / 1000 == pytest.approx(0.2, abs=0.113)
        assert rows["val"] / (1000 - rows["test"]) == pytest.approx(0.2, abs=0.13)
        tested.update(name for name, row in found.rows.items() if row["split"] == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == 1000


def test_folds_take_the_place_of_a_given_split_and_say_so(tmp_path, read: Read):
    rows = [{**row, "split": "train"} for row in CUTS]
    found = read({**manifest(tmp_path, rows), "split": {"folds": 2}}, WORDS)
    assert {row["split"] for row in found.rows.values()} == {"train", "val", "test"}
    assert "the source's 'split' is not used: samples.split.folds draws the splits" in found.said


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"folds": 5, "fold": 5}, "fold 5 is none of 0 … 4"),
        ({"fold": 1}, "fold 1 is none of folds"),
        ({"folds": 1}, "samples.split.folds"),
        ({"folds": 5, "test": 0.2}, "test is one of the folds"),
        ({"group": {"regex": "("}}, "regex '(': missing )"),
    ],
)
def test_a_split_that_cannot_be(read: Read, split, said):
    with pytest.raises(ConfigError) as caught:
        read({"manifest": "m.csv", "split": split})
    assert said in str(caught.value)


def test_names_of_splits_in_use_are_known():
    assert [split_read(name) for name in ("train", "Training", " dev ", "VALID", "validation", "val")] == [
        "train", "train", "val", "val", "val", "val",
    ]  # fmt: skip
    assert {split_read(name) for name in ("test", "Test", "testing", "eval")} == {"test"}
    named = ("train_set", "Validation split", "test-data", "testset")
    assert [split_read(name) for name in named] == ["train", "val", "test", "test"]
    with pytest.raises(ValueError, match="'fold 1' is not one of train, val, test"):
        split_read("fold 1")


def samples_of(rows: list[tuple[str | None, str, str | None]]) -> pa.Table:
    splits, groups, videos = zip(*rows, strict=True)
    return pa.table(
        {"split": pa.array(splits), "group": pa.array(groups), "video": pa.array(videos, pa.string())}
    )


def test_eval_beside_test_may_be_validation_and_is_refused(tmp_path, read: Read):
    rows = [{"sample_id": name, "split": name} for name in ("train", "Eval", "test")]
    assert "is 'eval' beside 'test' validation or test?" in read(manifest(tmp_path, rows), WORDS).said
    assert read(manifest(tmp_path, rows[:2]), WORDS).rows["Eval"]["split"] == "test"


def test_groups_and_media_in_two_splits_are_counted():
    rows = [
        ("train", "ada", "1.mp4"), ("train", "ada", "1.mp4"), ("test", "ada", "2.mp4"),
        ("train", "bob", "3.mp4"), ("val", "cy", "3.mp4"), (None, "bob", "2.mp4"), ("test", "dee", None),
    ]  # fmt: skip
    group, video = leaks(samples_of(rows))
    assert (group.kind, group.count, group.rows) == ("group", 1, {"train": 2, "test": 1})
    assert str(group) == "1 group stands in several splits: 2 of 3 train rows, 1 of 2 test rows ('ada')"
    assert (video.kind, video.count, video.rows) == ("video", 1, {"train": 1, "val": 1})
    with pytest.raises(SamplesError, match="1 video file stands in several splits"):
        refuse_leaks([group, video], SplitConfig(strict=True))
    refuse_leaks([group, video], SplitConfig())
    refuse_leaks([], SplitConfig(strict=True))


def test_where_the_groups_are_the_media_it_is_said_once():
    rows = [(split, f"{i}.mp4", f"{i}.mp4") for i in range(3) for split in ("train", "test")]
    assert [leak.kind for leak in leaks(samples_of(rows))] == ["group"]  # pyright: ignore[reportArgumentType]
    apart = [(split_of(f"{i}", SplitConfig(val=0.3, test=0.3)), f"{i}", f"{i}.mp4") for i in range(50)]
    assert leaks(samples_of(apart)) == []  # pyright: ignore[reportArgumentType]


def test_no_test_utterance_is_beside_its_own_video_in_train(tmp_path, read: Read, shared_data):
    with (shared_data / "mosi/transcripts.csv").open() as file:
        rows = [{"sample_id": row[0], "text": row[1]} for row in csv.reader(file)]
    videos = {row["sample_id"]: row["sample_id"].rpartition("_")[0] for row in rows}
    assert len(set(videos.values())) == 93

    def beside(split: dict) -> tuple[int, int]:
        found = read({**manifest(tmp_path, rows), "split": split}, WORDS)
        train = {videos[name] for name, row in found.rows.items() if row["split"] == "train"}
        test = [videos[name] for name, row in found.rows.items() if row["split"] == "test"]
        return sum(video in train for video in test), len(test)

    by_id, all_of_it = beside({})
    assert by_id == all_of_it > 200
    by_video, all_of_it = beside({"group": {"regex": "^(.*)_[0-9]+$"}})
    assert by_video == 0 < all_of_it
