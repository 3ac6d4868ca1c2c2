"""A medium that is another one under the same name is seen; one that was copied or touched is the same."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.config import load_config
from mmray.samples.index import make_index
from mmray.storage.filesystem import Storage


def keys(folder: Path, samples: dict) -> dict[str, str]:
    """{sample: its media_key}, in a project with a feature of sounds."""
    project = {"output": f"{folder}/out", "samples": samples, "features": {"voice": {"kind": "mel"}}}
    index = make_index(load_config(project), Storage())
    table = index.small(Storage(), ["sample_id", "media_key"])
    return dict(zip(table["sample_id"].to_pylist(), table["media_key"].to_pylist()))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def noise(seed: int, size: int = 60_000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def write_shard(path: Path, seeds: dict[str, int]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, seed in seeds.items():
            member = tarfile.TarInfo(f"{name}.wav")
            member.size = 60_000
            archive.addfile(member, io.BytesIO(noise(seed)))


def write_table(path: Path, seeds: dict[str, int]) -> None:
    rows = [
        {"sample_id": name, "audio": {"bytes": noise(seed), "path": None}} for name, seed in seeds.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_file_of_a_folder_that_is_another_one_of_the_same_size_is_seen(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    for seed, name in enumerate("abc"):
        (media / f"{name}.wav").write_bytes(noise(seed))
    samples = {"folder": str(media)}
    before = keys(tmp_path, samples)
    (media / "b.wav").write_bytes(noise(9))
    after = keys(tmp_path, samples)
    assert changed(before, after) == {"b"}

    shutil.copy(media / "a.wav", media / "new.wav")
    os.replace(media / "new.wav", media / "a.wav")  # another file, time and inode, the same sound
    os.utime(media / "c.wav")
    assert changed(after, keys(tmp_path, samples)) == set()
    (media / "b.wav").unlink()
    assert changed({k: v for k, v in after.items() if k != "b"}, keys(tmp_path, samples)) == set()


def test_a_member_of_a_shard_that_is_another_one_at_the_same_place_is_seen(tmp_path):
    write_shard(tmp_path / "s.tar", {"a": 0, "b": 1, "c": 2})
    samples = {"shards": str(tmp_path / "s.tar")}
    before = keys(tmp_path, samples)
    write_shard(tmp_path / "s.tar", {"a": 0, "b": 7, "c": 2})
    os.utime(tmp_path / "s.tar", (1, 1))
    assert changed(before, keys(tmp_path, samples)) == {"b"}


def test_a_table_with_media_inside_that_is_another_one_is_seen_as_a_whole(tmp_path):
    write_table(tmp_path / "m.parquet", {"a": 0, "b": 1})
    samples = {"manifest": str(tmp_path / "m.parquet")}
    before = keys(tmp_path, samples)
    write_table(tmp_path / "m.parquet", {"a": 0, "b": 7})
    os.utime(tmp_path / "m.parquet", (1, 1))
    assert changed(before, keys(tmp_path, samples)) == {"a", "b"}


def test_media_that_a_manifest_names_are_looked_at_where_asked(tmp_path):
    rows = [{"sample_id": name, "audio": f"{name}.wav"} for name in ("a", "b", "gone")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.wav").write_bytes(noise(0))
    (tmp_path / "b.wav").write_bytes(noise(1))
    samples = {"manifest": str(tmp_path / "m.jsonl")}
    plain, looked = keys(tmp_path, samples), keys(tmp_path, {**samples, "check_versions": True})
    assert changed(plain, looked) == {"a", "b"}
    (tmp_path / "b.wav").write_bytes(noise(2))
    assert keys(tmp_path, samples) == plain
    assert changed(looked, keys(tmp_path, {**samples, "check_versions": True})) == {"b"}


@pytest.mark.s3
def test_on_s3_the_etag_says_it(s3, tmp_path):
    storage, root = Storage(), f"s3://{s3.bucket}/versions"
    for name in "ab":
        storage.write(f"{root}/media/{name}.wav", noise(ord(name)))
        write_shard(tmp_path / f"{name}.tar", {name: ord(name)})
        storage.write(f"{root}/{name}.tar", (tmp_path / f"{name}.tar").read_bytes())
    manifest = "".join(json.dumps({"sample_id": n, "audio": f"media/{n}.wav"}) + "\n" for n in "ab")
    storage.write(f"{root}/m.jsonl", manifest.encode())
    sources = [
        {"folder": f"{root}/media"},
        {"shards": f"{root}/{{a,b}}.tar"},
        {"manifest": f"{root}/m.jsonl", "check_versions": True},
    ]
    before = [keys(tmp_path, samples) for samples in sources]
    storage.write(f"{root}/media/b.wav", noise(7))
    write_shard(tmp_path / "b.tar", {"b": 7})
    storage.write(f"{root}/b.tar", (tmp_path / "b.tar").read_bytes())
    after = [keys(tmp_path, samples) for samples in sources]
    assert [changed(one, other) for one, other in zip(before, after)] == [{"b"}] * 3
    storage.write(f"{root}/media/b.wav", noise(7))  # again: another time, the same content
    assert keys(tmp_path, sources[0]) == after[0]
