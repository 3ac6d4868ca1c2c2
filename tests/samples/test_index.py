"""A manifest becomes partitions once, whole and in order, or one error that lists all its faults."""

import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.config import Config, SplitConfig, load_config
from mmray.errors import SamplesError, TableError
from mmray.samples.index import Index, index_at, make_index
from mmray.samples.split import split_of
from mmray.storage.filesystem import Storage

ROWS = [
    {"sample_id": f"s{i}", "video": f"clips/{i}.mp4", "text": f"número {i}, 好", "emotion": "ab"[i % 2]}
    for i in range(11)
]


def project(folder: Path, manifest: str = "manifest.jsonl", *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(
        f"""
output: {folder}/out
samples: {{manifest: {folder}/{manifest}}}
targets: {{emotion: {{kind: classification}}}}
features: {{face: {{kind: frames}}, voice: {{kind: mel}}, words: {{kind: tokens}}}}
extract: {{partition_samples: 4}}
"""
    )
    return load_config(path, overrides)


def write_jsonl(folder: Path, rows: list[dict]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(folder: Path, rows: list[dict]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(folder: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")


def all_rows(config: Config) -> list[dict]:
    index = make_index(config, Storage())
    return [row for i in index.partitions.tolist() for row in index.read(Storage(), i).to_pylist()]


def faults_of(config: Config) -> str:
    with pytest.raises(SamplesError) as caught:
        make_index(config, Storage())
    return str(caught.value)


@pytest.mark.parametrize(
    ("extension", "write"), [("jsonl", write_jsonl), ("csv", write_csv), ("parquet", write_parquet)]
)
def test_every_format_gives_the_same_samples_in_order(tmp_path, extension, write):
    write(tmp_path, ROWS)
    rows = all_rows(project(tmp_path, f"manifest.{extension}"))
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in ROWS]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [row["video"] for row in rows] == [f"{tmp_path}/{row['video']}" for row in ROWS]


def test_partitions_cut_the_rows_without_rest(tmp_path):
    write_jsonl(tmp_path, ROWS)
    config = project(tmp_path)
    index = make_index(config, Storage())
    sizes = [index.read(Storage(), i).num_rows for i in index.partitions.tolist()]
    assert sizes == index.sizes.tolist() == [4, 4, 3]
    assert index.rows == sum(sizes) == sum(index.splits.values())


def test_many_partitions_lie_in_several_files(tmp_path):
    rows = [{**ROWS[0], "sample_id": f"r{i}"} for i in range(300)]
    write_jsonl(tmp_path, rows)
    config = project(tmp_path, "manifest.jsonl", "extract.partition_samples=1")
    assert [row["sample_id"] for row in all_rows(config)] == [f"r{i}" for i in range(300)]
    assert len(list((tmp_path / "out/samples").glob("samples-*.parquet"))) == 3


def test_columns_are_renamed_and_numbers_become_ids_and_labels(tmp_path):
    write_jsonl(tmp_path, [{"clip": 7, "file": "s3://bucket/a.mp4", "text": "x", "label": 1.0}])
    config = project(
        tmp_path, "manifest.jsonl", "samples.columns={sample_id: clip, video: file, emotion: label}"
    )
    (row,) = all_rows(config)
    assert (row["sample_id"], row["video"], row["emotion"]) == ("7", "s3://bucket/a.mp4", "1")


def test_absent_values_are_null_in_every_format(tmp_path):
    rows = [*ROWS[:3], {"sample_id": "none", "video": "", "text": "", "emotion": ""}]
    write_csv(tmp_path, rows)
    row = all_rows(project(tmp_path, "manifest.csv"))[-1]
    assert row.pop("media_key")
    assert row == {
        **dict.fromkeys(("video", "audio", "text", "emotion", "start_s", "end_s")),
        **dict.fromkeys(("video_version", "audio_version")),
        "sample_id": "none",
        "group": "none",
        "split": split_of("none", SplitConfig()),
    }


def test_a_given_split_is_kept_and_a_missing_column_is_drawn_by_id(tmp_path):
    write_jsonl(tmp_path, [{**row, "split": ("train", "val", "test")[i % 3]} for i, row in enumerate(ROWS)])
    assert [row["split"] for row in all_rows(project(tmp_path))[:4]] == ["train", "val", "test", "train"]


def test_a_split_on_some_rows_only_is_refused(tmp_path):
    write_jsonl(tmp_path, [{**ROWS[0], "split": "train"}, ROWS[1]])
    assert "some rows have a 'split' and some lack it" in faults_of(project(tmp_path))


def test_drawn_splits_have_the_asked_shares_and_do_not_depend_on_order():
    split = SplitConfig(val=0.2, test=0.3, seed=5)
    drawn = {f"id{i}": split_of(f"id{i}", split) for i in range(20_000)}
    shares = {name: list(drawn.values()).count(name) / 20_000 for name in ("train", "val", "test")}
    # Binomial: 4 standard deviations of a share of 20 000 draws are below 0.014.
    assert shares == pytest.approx({"train": 0.5, "val": 0.2, "test": 0.3}, abs=0.014)
    assert split_of("id7", split) == drawn["id7"]


def test_all_faults_come_at_once_with_their_lines(tmp_path):
    rows = [
        ROWS[0],
        {**ROWS[1], "sample_id": "s0"},
        {**ROWS[2], "sample_id": ""},
        {**ROWS[3], "video": "ftp://host/a.mp4"},
        {**ROWS[4], "split": "held back"},
        {**ROWS[5], "start_s": 3, "end_s": 2},
        {**ROWS[6], "start_s": "soon"},
        {**ROWS[7], "emotion": [1]},
    ]
    write_jsonl(tmp_path, rows)
    message = faults_of(project(tmp_path))
    assert "7 faults" in message
    for part in (
        "'s0' stands at line 1, line 2",
        "line 3: sample_id: is empty",
        "line 4: video: ftp://host/a.mp4: unknown scheme 'ftp'",
        "line 5: split: 'held back' is not one of train, val, test",
        "line 6: start_s 3.0 and end_s 2.0",
        "line 7: start_s: expected a number, got 'soon'",
        "line 8: emotion:",
    ):
        assert part in message
    assert not (tmp_path / "out/samples/_index.json").exists()


def test_many_faults_are_counted_and_the_first_shown(tmp_path):
    write_jsonl(tmp_path, [{**ROWS[0], "sample_id": f"x{i}", "split": "no"} for i in range(50)])
    message = faults_of(project(tmp_path))
    assert "50 faults" in message
    assert "and 30 more" in message


def test_missing_columns_name_the_feature_that_needs_them_and_the_columns_there_are(tmp_path):
    write_jsonl(tmp_path, [{"id": "a", "emotion": "x", "path": "a.mp4"}])
    message = faults_of(project(tmp_path))
    assert "no column 'sample_id'" in message
    assert "no column 'video', needed by features.face" in message
    assert "no column 'text', needed by features.words" in message
    assert "'audio'" not in message.replace("no column 'audio', needed by features.voice", "")
    assert "emotion, id, path" in message


def test_audio_may_be_the_videos_own(tmp_path):
    write_jsonl(tmp_path, ROWS)
    row = all_rows(project(tmp_path, "manifest.jsonl", "features={voice: {kind: mel}}"))[0]
    assert row["video"] == f"{tmp_path}/clips/0.mp4"
    assert row["audio"] is None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("manifest.jsonl", '{"sample_id": "a"}\nnot json\n', "line 2: not JSON"),
        ("manifest.jsonl", "[1]\n", "line 1: expected an object, got list"),
        ("manifest.jsonl", "", "has no rows"),
        ("manifest.csv", "sample_id,video,text,emotion\na,b,c\n", "line 2: 3 fields, not 4 as in the header"),
        ("manifest.parquet", "PAR1 no", "manifest.parquet"),
        ("manifest.xlsx", "x", "a manifest is a .jsonl, .csv, .tsv or .parquet file"),
    ],
)
def test_an_unreadable_manifest_is_one_clear_error(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    assert told in faults_of(project(tmp_path, name))


def test_a_manifest_that_is_not_there(tmp_path):
    assert "no such manifest" in faults_of(project(tmp_path))


def test_what_stands_in_two_splits_is_noted_or_refused(tmp_path):
    rows = [{**row, "video": "one.mp4", "split": ("train", "test")[i % 2]} for i, row in enumerate(ROWS)]
    write_jsonl(tmp_path, rows)
    (leak,) = make_index(project(tmp_path), Storage()).leaks
    assert leak.startswith("1 group stands in several splits: 6 of 6 train rows, 5 of 5 test rows")
    strict = project(tmp_path, "manifest.jsonl", "samples.split.strict=true", f"output={tmp_path}/strict")
    assert "the splits are not apart (samples.split.strict)" in faults_of(strict)
    assert not (tmp_path / "strict").exists()
    drawn = project(tmp_path, "manifest.jsonl", "samples.split.strict=true", "samples.split.folds=3")
    assert make_index(drawn, Storage()).leaks == []


# ------------------------------------------------------------------------------------ a source that changes


def ids_by_partition(index: Index) -> dict[int, list[str]]:
    parts = index.partitions.tolist()
    return {i: index.read(Storage(), i, ["sample_id"])["sample_id"].to_pylist() for i in parts}


def files_of(config: Config) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(config.path("samples")).glob("*.parquet")}


def test_an_unchanged_source_is_recognised_and_not_read(tmp_path, monkeypatch):
    write_jsonl(tmp_path, ROWS)
    config = project(tmp_path)
    first = make_index(config, Storage())
    monkeypatch.setattr("mmray.samples.index.CheckedRows", None)  # it cannot be read
    again = make_index(config, Storage())
    assert (again.digest, again.files, again.rows) == (first.digest, first.files, first.rows)
    assert again.media_digest("video") == first.media_digest("video")


def test_a_newer_file_of_the_same_rows_changes_nothing(tmp_path):
    write_jsonl(tmp_path, ROWS)
    config = project(tmp_path)
    first = make_index(config, Storage())
    written = files_of(config)
    (tmp_path / "manifest.jsonl").write_text((tmp_path / "manifest.jsonl").read_text() + "\n")
    assert make_index(config, Storage()).digest == first.digest
    assert files_of(config).keys() == written.keys()


def test_partitions_belong_to_ids_whatever_happens_to_the_source(tmp_path):
    write_jsonl(tmp_path, ROWS)
    config = project(tmp_path)
    assert ids_by_partition(make_index(config, Storage())) == {
        0: ["s0", "s1", "s2", "s3"],
        1: ["s4", "s5", "s6", "s7"],
        2: ["s8", "s9", "s10"],
    }
    # New ones in front, four removed, and the rest the other way round.
    new = [{**ROWS[0], "sample_id": f"n{i}"} for i in range(5)]
    kept = [row for i, row in enumerate(ROWS) if i not in (4, 5, 6, 7)]
    write_jsonl(tmp_path, [*new, *kept[::-1]])
    changed = make_index(config, Storage())
    assert ids_by_partition(changed) == {
        0: ["s0", "s1", "s2", "s3"],
        2: ["s8", "s9", "s10"],
        3: ["n0", "n1", "n2", "n3"],
        4: ["n4"],
    }
    assert changed.rows == 12
    # What comes back has its old place; another size of partitions is for new ids only.
    write_jsonl(tmp_path, [*ROWS, *new, *({**ROWS[0], "sample_id": f"m{i}"} for i in range(3))])
    wider = project(tmp_path, "manifest.jsonl", "extract.partition_samples=2")
    assert ids_by_partition(make_index(wider, Storage())) == {
        0: ["s0", "s1", "s2", "s3"],
        1: ["s4", "s5", "s6", "s7"],
        2: ["s8", "s9", "s10"],
        3: ["n0", "n1", "n2", "n3"],
        4: ["n4"],
        5: ["m0", "m1"],
        6: ["m2"],
    }


def test_the_digests_say_what_changed(tmp_path):
    def made(*rows: dict) -> Index:
        write_jsonl(tmp_path, [*rows, *ROWS[len(rows) :]])
        return make_index(project(tmp_path), Storage())

    first = made()
    sources = ("video", "audio", "text")
    assert first.partitions.tolist() == [0, 1, 2]

    relabelled = made({**ROWS[0], "emotion": "c"})
    assert relabelled.digest != first.digest
    assert {s: relabelled.media_digest(s) for s in sources} == {s: first.media_digest(s) for s in sources}

    moved = made({**ROWS[0], "video": "clips/new.mp4"})
    assert {s for s in sources if moved.media_digest(s) != first.media_digest(s)} == {"video", "audio"}
    assert (moved.media["video"] != first.media["video"]).tolist() == [True, False, False]

    said = made({**ROWS[0], "text": "other words"})
    assert {s for s in sources if said.media_digest(s) != first.media_digest(s)} == {"text"}


def test_many_rows_in_another_order_take_their_old_places(tmp_path):
    """More rows than a batch of the stream, in several files of partitions."""
    rows = [{**ROWS[0], "sample_id": f"r{i}", "text": f"text {i}"} for i in range(20_000)]
    write_jsonl(tmp_path, rows)
    config = project(tmp_path, "manifest.jsonl", "extract.partition_samples=50")
    before = make_index(config, Storage())
    random.Random(0).shuffle(rows)
    write_jsonl(tmp_path, rows)
    after = make_index(config, Storage())
    assert after.digest == before.digest
    assert after.files == before.files
    small = after.small(Storage(), ["sample_id", "text"])
    assert small["sample_id"].to_pylist() == [f"r{i}" for i in range(20_000)]
    assert small["text"].to_pylist() == [f"text {i}" for i in range(20_000)]
    assert after.at(Storage(), 12_345)["text"].to_pylist() == ["text 12345"]


def test_one_torn_group_among_many_is_found(tmp_path):
    rows = [{**ROWS[0], "sample_id": f"r{i}", "video": f"{i}.mp4", "split": "train"} for i in range(9000)]
    rows[1]["split"], rows[8999] = "test", {**rows[8999], "split": None, "video": "0.mp4"}  # pyright: ignore[reportArgumentType, reportCallIssue]
    write_jsonl(tmp_path, rows)
    assert make_index(project(tmp_path), Storage()).leaks == []
    rows[8998] |= {"split": "test", "video": "0.mp4"}
    write_jsonl(tmp_path, rows)
    (leak,) = make_index(project(tmp_path), Storage()).leaks
    assert leak.startswith("1 group stands in several splits: 1 of 8997 train rows, 1 of 2 test rows")


def test_a_source_with_faults_leaves_the_index_that_was(tmp_path):
    write_jsonl(tmp_path, ROWS)
    config = project(tmp_path)
    before = all_rows(config)
    files = files_of(config)
    write_jsonl(tmp_path, [*ROWS, {**ROWS[0], "split": "no"}])
    assert "no" in faults_of(config)
    assert files_of(config) == files
    write_jsonl(tmp_path, ROWS)
    assert all_rows(config) == before


def test_no_target_is_needed_and_a_label_column_may_be_absent(tmp_path):
    write_jsonl(tmp_path, [{key: row[key] for key in ("sample_id", "video", "text")} for row in ROWS])
    assert "emotion" not in all_rows(project(tmp_path, "manifest.jsonl", "targets={}"))[0]
    assert {row["emotion"] for row in all_rows(project(tmp_path))} == {None}
    write_jsonl(tmp_path, [*ROWS[:3], {**ROWS[3], "emotion": None}, *ROWS[4:]])
    labels = [row["emotion"] for row in all_rows(project(tmp_path))]
    assert labels == [None if i == 3 else row["emotion"] for i, row in enumerate(ROWS)]


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_sets_of_labels_are_lists_or_text(tmp_path, write):
    tags = [["b", "a", "b"], [], None, ["c"]]
    given = tags if write is not write_csv else ["b | a|b", "|", "", "c"]
    rows = [{**row, "tags": value} for row, value in zip(ROWS, given)]
    write(tmp_path, rows)
    name = write.__name__.replace("write_", "manifest.")
    config = project(tmp_path, name, "targets={tags: {kind: multilabel}}")
    assert [row["tags"] for row in all_rows(config)] == [["b", "a"], [], None, ["c"]]


def test_a_folder_without_a_sample_says_what_is_there(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.braw").write_bytes(b"x")
    told = faults_of(project(tmp_path, "x", f"samples={{folder: {tmp_path}/media}}"))
    assert "has no rows\n  files of a kind that is not known (.braw), left out: 1 (a.braw)" in told


def test_targets_of_another_type_are_faults(tmp_path):
    values = [
        {"tags": {"a": 1}, "rating": "1", "mood": 0.5},
        {"tags": ["a", 1.5], "rating": "x", "mood": "1"},
        {"tags": [0, 1, 0], "rating": 0, "mood": "1"},
    ]
    write_jsonl(tmp_path, [{**row, **value} for row, value in zip(ROWS, values)])
    ordinal = "rating: {kind: ordinal, scale: sentiment}, mood: {kind: ordinal, classes: ['0', '1', '2']}"
    targets = f"targets={{tags: {{kind: multilabel}}, {ordinal}}}"
    faults = faults_of(project(tmp_path, "manifest.jsonl", targets))
    assert "line 1: tags: expected a list of labels, or a|b, got {'a': 1}" in faults
    assert "line 1: mood: expected text or a whole number, got 0.5" in faults
    assert "line 2: tags: expected text or a whole number, got 1.5" in faults
    assert "line 2: rating: expected a number, got 'x'" in faults
    assert "line 3: tags: a number stands twice in [0, 1, 0]; of a row of 0 and 1, list the classes" in faults
    assert "has 5 faults" in faults


def test_an_index_of_an_earlier_version_is_told(tmp_path):
    (tmp_path / "_index.json").write_text('{"rows": 1, "files": {"0": "samples-00000-x.parquet"}}')
    with pytest.raises(TableError, match="of an earlier version of mmray; run `mmray extract` again"):
        index_at(Storage(), str(tmp_path))
