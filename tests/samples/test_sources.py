"""Tar shards and folders give the same samples as a manifest of the same files; damage is noticed."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mmray.config import Config, load_config
from mmray.errors import ConfigError, MediaError, SamplesError
from mmray.samples.index import Index, make_index
from mmray.storage.filesystem import Storage

CLIPS = {
    f"talks/clip{i}": {
        "mp4": np.random.default_rng(i).bytes(3000 + 700 * i),
        "txt": f"número {i}, 好".encode(),
        "json": json.dumps({"emotion": "ab"[i % 2], "split": "train"}).encode(),
    }
    for i in range(7)
}


def project(folder: Path, samples: str, *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(
        f"""
output: {folder}/out
samples: {samples}
targets: {{emotion: {{kind: classification}}}}
features: {{face: {{kind: frames}}, words: {{kind: tokens}}}}
extract: {{partition_samples: 4}}
"""
    )
    return load_config(path, overrides)


def index_of(config: Config) -> Index:
    return make_index(config, Storage())


def all_rows(config: Config) -> list[dict]:
    index = index_of(config)
    return [row for i in index.partitions.tolist() for row in index.read(Storage(), i).to_pylist()]


def faults_of(config: Config) -> str:
    with pytest.raises(SamplesError) as caught:
        index_of(config)
    assert not Path(config.path("samples/_index.json")).exists()
    return str(caught.value)


def tar_of(clips: dict[str, dict[str, bytes]], **options) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **options) as archive:
        for key, files in clips.items():
            for extension, content in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def write_shards(folder: Path, **options) -> None:
    items = list(CLIPS.items())
    for number, part in enumerate((items[:3], items[3:])):
        (folder / f"shard-{number:03d}.tar").write_bytes(tar_of(dict(part), **options))


def contents(rows: list[dict], column: str = "video") -> list[bytes]:
    found = []
    for row in rows:
        with Storage().media(row[column]) as path:
            found.append(Path(path).read_bytes())
    return found


def check_all_clips(rows: list[dict]) -> None:
    assert [row["sample_id"] for row in rows] == list(CLIPS)
    assert [row["text"] for row in rows] == [files["txt"].decode() for files in CLIPS.values()]
    assert [row["emotion"] for row in rows] == ["ab"[i % 2] for i in range(7)]
    assert {row["split"] for row in rows} == {"train"}
    assert contents(rows) == [files["mp4"] for files in CLIPS.values()]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("shards", ["shard-*.tar", "shard-{{000..001}}.tar", "[a list]"])
def test_members_of_one_name_are_one_sample(tmp_path, tar_format, shards):
    write_shards(tmp_path, format=tar_format)
    paths = (
        [f"{tmp_path}/shard-{i:03d}.tar" for i in (0, 1)]
        if shards == "[a list]"
        else f"{tmp_path}/{shards.format()}"
    )
    config = project(tmp_path, json.dumps({"shards": paths}))
    rows = all_rows(config)
    check_all_clips(rows)
    with Storage().media(rows[0]["video"]) as path:
        assert path.endswith(".mp4"), "decoders look at it"
    assert not Path(path).exists()


def test_shards_on_s3(s3, tmp_path):
    items = list(CLIPS.items())
    for number, part in enumerate((items[:3], items[3:])):
        Storage().write(s3.uri("sources", f"shard-{number}.tar"), tar_of(dict(part)))
    check_all_clips(all_rows(project(tmp_path, f"{{shards: {s3.uri('sources', 'shard-*.tar')}}}")))
    for key, files in CLIPS.items():
        for extension, content in files.items():
            Storage().write(s3.uri("folder", f"{key}.{extension}"), content)
    rows = all_rows(project(tmp_path, f"{{folder: {s3.uri('folder')}}}", f"output={tmp_path}/out2"))
    check_all_clips(rows)


def test_a_folder_is_samples_by_file_name(tmp_path):
    for key, files in CLIPS.items():
        for extension, content in files.items():
            path = tmp_path / "media" / f"{key}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (tmp_path / "media" / ".DS_Store").write_bytes(b"x")
    check_all_clips(all_rows(project(tmp_path, f"{{folder: {tmp_path}/media}}")))
    project(tmp_path, f"{{folder: {tmp_path}/media, label_from_folder: group}}")
    named = load_config(tmp_path / "config.yaml", ["samples.columns.emotion=group", f"output={tmp_path}/b"])
    assert {row["emotion"] for row in all_rows(named)} == {"talks"}


def test_labels_and_second_pictures_have_their_extension_as_column(tmp_path):
    clips = {
        "a": {"left.jpg": b"left", "right.jpg": b"right", "cls": b"7\n", "txt": b"x"},
        "b": {"left.jpg": b"L", "cls": b"8", "txt": b"y"},
    }
    (tmp_path / "s.tar").write_bytes(tar_of(clips))
    config = project(
        tmp_path,
        f"{{shards: {tmp_path}/s.tar, columns: {{image: left.jpg, emotion: cls}}}}",
        "features={still: {kind: frames, source: image}}",
    )
    rows = all_rows(config)
    assert [row["emotion"] for row in rows] == ["7", "8"]
    assert contents(rows, "image") == [b"left", b"L"]


def cut_inside_data(tar: bytes) -> tuple[bytes, str]:
    return tar[: tar.index(CLIPS["talks/clip2"]["mp4"]) + 100], "cut inside talks/clip2.mp4"


def cut_in_a_header(tar: bytes) -> tuple[bytes, str]:
    return tar[: tar.index(b"talks/clip2.mp4") + 200], "damaged after talks/clip1.json"


def cut_between_members(tar: bytes) -> tuple[bytes, str]:
    return tar[: tar.index(b"talks/clip2.mp4")], "cut after talks/clip1.json"


def overwritten_header(tar: bytes) -> tuple[bytes, str]:
    at = tar.index(b"talks/clip2.mp4")
    return tar[:at] + b"\xff" * 512 + tar[at + 512 :], "damaged after talks/clip1.json"


@pytest.mark.parametrize(
    "damage", [cut_inside_data, cut_in_a_header, cut_between_members, overwritten_header]
)
def test_a_damaged_shard_is_named_and_can_be_let_pass(tmp_path, damage):
    write_shards(tmp_path)
    first = tmp_path / "shard-000.tar"
    content, said = damage(first.read_bytes())
    first.write_bytes(content)
    message = faults_of(project(tmp_path, f"{{shards: {tmp_path}/shard-*.tar}}"))
    assert f"shard-000.tar: {said}" in message.replace("the shard is ", "")
    assert "shard-001" not in message

    config = project(tmp_path, f"{{shards: {tmp_path}/shard-*.tar, allow_damaged_shards: true}}")
    index = index_of(config)
    ids = [row["sample_id"] for row in all_rows(config)]
    assert ids == [key for key in CLIPS if key != "talks/clip2"]
    (told,) = index.notes
    assert told.startswith("shard-000.tar: ")


def test_other_files_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "b.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    with tarfile.open(tmp_path / "c.tar", "w:gz") as archive:
        archive.add(tmp_path / "b.tar", "x.mp4")
    message = faults_of(project(tmp_path, f"{{shards: {tmp_path}/*.tar}}"))
    for name in "abc":
        assert f"{name}.tar: not an uncompressed tar archive" in message


def test_one_key_in_two_shards_or_two_files_of_one_kind_are_faults(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({"x": {"txt": b"1", "cls": b"1"}}))
    (tmp_path / "b.tar").write_bytes(tar_of({"x": {"txt": b"1", "cls": b"1"}}))
    (tmp_path / "c.tar").write_bytes(tar_of({"y": {"mp4": b"1", "mkv": b"1"}, "z": {"json": b"[1]"}}))
    message = faults_of(
        project(
            tmp_path,
            f"{{shards: {tmp_path}/*.tar, columns: {{emotion: cls}}}}",
            "features={words: {kind: tokens}, face: {kind: frames}}",
        )
    )
    assert "'x' stands at a.tar: x, b.tar: x" in message
    assert "c.tar: y: has two files for 'video'" in message
    assert "c.tar: z: z.json: expected an object" in message


def test_a_member_that_is_no_longer_there_is_a_failure_of_its_sample(tmp_path):
    write_shards(tmp_path)
    row = all_rows(project(tmp_path, f"{{shards: {tmp_path}/shard-*.tar}}"))[2]
    shard = tmp_path / "shard-000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(CLIPS["talks/clip2"]["mp4"]) + 100])
    with pytest.raises(MediaError) as cut, Storage().media(row["video"]):
        pass
    assert cut.value.reason == "fetch_failed"
    shard.unlink()
    with pytest.raises(MediaError) as gone, Storage().media(row["video"]):
        pass
    assert gone.value.reason == "missing_file"


def test_many_manifests_are_read_in_order_with_paths_from_their_own_folder(tmp_path):
    for name, ids in (("a", "12"), ("b", "34")):
        (tmp_path / name).mkdir()
        rows = [{"sample_id": i, "video": f"{i}.mp4", "text": "x", "emotion": "e"} for i in ids]
        (tmp_path / name / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = all_rows(project(tmp_path, f"{{manifest: {tmp_path}/*/m.jsonl}}"))
    assert [row["video"] for row in rows] == [
        f"{tmp_path}/{where}.mp4" for where in ("a/1", "a/2", "b/3", "b/4")
    ]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("{}", "exactly one of manifest, shards and folder, got none"),
        ("{manifest: a.csv, folder: b}", "got manifest and folder"),
        ("{manifest: a.csv, label_from_folder: x}", "needs folder"),
        ("{manifest: 3}", "samples.manifest"),
    ],
)
def test_a_config_names_one_source(tmp_path, samples, said):
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, samples)
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["manifest", "shards", "folder"])
def test_a_source_that_is_not_there(tmp_path, key):
    assert f"samples.{key}" in faults_of(project(tmp_path, f"{{{key}: {tmp_path}/none-*.x}}"))
