"""Shards whose members are links, odd, or lies; tar archives that are cut anywhere end in one line."""

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.samples.conftest import WORDS, Read

CLS = {"cls": {"kind": "classification"}}
Member = tuple[str, bytes | dict[str, Any]]


def tar(path: Path, members: Sequence[Member], **options: Any) -> Path:
    """An archive; a member's content is bytes, or the attributes of its header."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def link(target: str, *, hard: bool = False) -> dict[str, Any]:
    return {"type": tarfile.LNKTYPE if hard else tarfile.SYMTYPE, "linkname": target}


def test_links_are_what_they_lead_to(tmp_path, read: Read):
    members: list[Member] = [
        ("d/a.mp4", b"video of a"),
        ("d/a.cls", b"1"),
        ("d/b.mp4", link("d/a.mp4", hard=True)),
        ("d/b.cls", link("a.cls")),
        ("c.mp4", link("./d/b.mp4")),
        ("e/f.mp4", link("../c.mp4")),
        ("later.mp4", link("z.mp4")),
        ("z.mp4", b"video of z"),
    ]
    found = read({"shards": str(tar(tmp_path / "s.tar", members))}, targets=CLS)
    wanted = dict.fromkeys(("d/a", "d/b", "c", "e/f"), b"video of a") | dict.fromkeys(
        ("later", "z"), b"video of z"
    )
    assert found.media() == wanted
    assert found.rows["d/b"]["cls"] == "1"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (link("nowhere.mp4"), "b.mp4: is a link to nowhere.mp4, which is no file of this shard"),
        (link("../../etc/passwd"), "is a link to ../../etc/passwd, which is no file of this shard"),
        (link("/etc/passwd"), "is a link to /etc/passwd"),
        (link("nowhere.mp4", hard=True), "is a link to nowhere.mp4"),
        (link("b.mp4"), "is a link to b.mp4"),
        ({"type": tarfile.FIFOTYPE}, "b.mp4: is a named pipe, no file"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, "b.mp4: is a device, no file"),
        ({"type": b"V"}, "b.mp4: is a member of type b'V', no file"),
    ],
)
def test_what_is_no_file_is_refused_by_name(tmp_path, read: Read, header, said):
    path = tar(tmp_path / "s.tar", [("a.mp4", b"x"), ("b.mp4", header), ("b.cls", b"2")])
    found = read({"shards": str(path)}, targets=CLS)
    assert found.refused
    assert f"s.tar: b: {said}" in found.said or said in found.said


def test_sparse_members_are_refused_by_name(tmp_path, read: Read):
    sparse = {
        "type": tarfile.REGTYPE,
        "pax_headers": {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": "9",
            "GNU.sparse.map": "0,1",
        },
    }
    path = tar(tmp_path / "s.tar", [("a.mp4", b"x"), ("b.mp4", sparse)], format=tarfile.PAX_FORMAT)
    found = read({"shards": str(path)}, targets=CLS)
    assert found.refused
    assert "b.mp4: is stored without its holes" in found.said


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_member_larger_than_its_shard_is_not_taken_for_a_cut(tmp_path, read: Read, form):
    (tmp_path / "a.mp4").write_bytes(b"x")
    os.truncate(tmp_path / "a.mp4", 50_000_000)
    (tmp_path / "b.mp4").write_bytes(b"y")
    made = ["tar", "--sparse", f"--format={form}", "-cf", "s.tar", "a.mp4", "b.mp4"]
    subprocess.run(made, cwd=tmp_path, check=True)
    found = read({"shards": str(tmp_path / "s.tar")}, targets=CLS)
    assert "a.mp4: is stored without its holes" in found.said
    assert "cut" not in found.said


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_another_encoding_are_refused_by_name(tmp_path, read: Read, tar_format):
    members: list[Member] = [("a.mp4", b"x"), ("caf\xe9.mp4", b"x")]
    path = tar(tmp_path / "s.tar", members, format=tar_format, encoding="latin-1")
    found = read({"shards": str(path)}, targets=CLS)
    assert found.refused
    assert r"its name (caf\udce9.mp4) is not UTF-8" in found.said


def test_a_member_wins_over_a_json_key_in_either_order(tmp_path, read: Read):
    told = b'{"video": "x", "cls": 1}'
    for number, order in enumerate((["a.json", "a.mp4"], ["a.mp4", "a.json"])):
        content = {"a.json": told, "a.mp4": b"video"}
        path = tar(tmp_path / f"{number}.tar", [(name, content[name]) for name in order])
        found = read({"shards": str(path)}, targets=CLS)
        assert found.media() == {"a": b"video"}
        assert found.rows["a"]["cls"] == "1"
        assert found.said.count("a key 'video' in their JSON and a file for it: the file is taken: 1") == 1


def test_members_of_a_sample_may_lie_apart(tmp_path, read: Read):
    members = [("a.mp4", b"1"), ("b.mp4", b"2"), ("a.cls", b"x"), ("b.cls", b"y")]
    found = read({"shards": str(tar(tmp_path / "s.tar", members))}, targets=CLS)
    assert {name: row["cls"] for name, row in found.rows.items()} == {"a": "x", "b": "y"}


def test_names_with_more_dots_are_refused_unless_they_are_asked_for(tmp_path, read: Read):
    members = [(f"v1.5_00{i}.{end}", b"1") for i in (1, 2) for end in ("mp4", "cls")]
    path = tar(tmp_path / "s.tar", members)
    found = read({"shards": str(path)}, targets=CLS)
    assert found.refused
    assert (
        "v1: has no video, but v1.5_001.mp4: in a shard the name of a sample ends at its first dot"
        in found.said
    )
    named = read({"shards": str(path), "columns": {"video": "5_001.mp4", "cls": "5_001.cls"}}, targets=CLS)
    assert named.media() == {"v1": b"1"}


def test_hidden_files_folders_and_long_names(tmp_path, read: Read):
    long = f"./{'d' * 120}/{'n' * 120}"
    members: list[Member] = [
        ("./", {"type": tarfile.DIRTYPE}),
        ("./._x.mp4", b"junk"),
        ("./.DS_Store", b"junk"),
    ]
    members += [("__MACOSX/x.mp4", b"junk"), (f"{long}.mp4", b"1"), ("./x.MP4", b"2"), ("./x.cls", b"007\n")]
    found = read({"shards": str(tar(tmp_path / "s.tar", members, format=tarfile.PAX_FORMAT))}, targets=CLS)
    assert set(found.rows) == {long.removeprefix("./"), "x"}
    assert found.rows["x"]["cls"] == "007"


def header_of(size: bytes, kind: bytes = b"0", name: bytes = b"b.mp4") -> bytes:
    """A header whose checksum holds, with any bytes as its size."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136], block[156:157] = b"0000644\0", size.ljust(12, b"\0"), kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


NEGATIVE = (-512).to_bytes(12, "big", signed=True)
HUGE = b"\x80" + (2**80).to_bytes(11, "big")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (header_of(NEGATIVE), "b.mp4 has an impossible size (-512 bytes)"),
        (header_of(HUGE), "the shard is cut inside b.mp4"),
        (header_of(b"77777777777"), "the shard is cut inside b.mp4"),
        (header_of(NEGATIVE, b"x"), "a header claims -512 bytes"),
        (header_of(b"77777777777", b"x"), "a header claims 8589934592 bytes"),
        (header_of(b"77777777777", b"L"), "a header claims 8589934592 bytes"),
        (header_of(b"0", b"L") * 3000, "damaged after a.mp4"),
        (header_of(b"0", b"x") * 3000, "damaged after a.mp4"),
    ],
)
def test_sizes_that_cannot_be_end_the_reading(tmp_path, read: Read, header, said):
    whole = tar(tmp_path / "s.tar", [("a.mp4", b"1"), ("a.cls", b"x")]).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:1024] + header + whole[1024:])
    found = read({"shards": str(tmp_path / "s.tar")}, targets=CLS)
    assert found.refused
    assert said in found.said
    kept = read({"shards": str(tmp_path / "s.tar"), "allow_damaged_shards": True}, targets=CLS)
    assert set(kept.rows) == {"a"}
    assert said in kept.said


def test_archives_joined_with_cat_are_told(tmp_path, read: Read):
    one = tar(tmp_path / "1.tar", [("a.mp4", b"1")]).read_bytes()
    two = tar(tmp_path / "2.tar", [("b.mp4", b"1")]).read_bytes()
    (tmp_path / "s.tar").write_bytes(one + two)
    found = read({"shards": str(tmp_path / "s.tar")}, targets=CLS)
    assert found.refused
    assert "were archives joined with cat?" in found.said


def test_an_archive_cut_anywhere_is_told(tmp_path, read: Read):
    members = [(f"s{i}.{end}", bytes([65 + i]) * 700) for i in range(2) for end in ("mp4", "txt")]
    whole = tar(tmp_path / "whole.tar", members).read_bytes()
    end = 4 * (512 + 1024)  # after it the end mark, which one block of zeros makes too
    for size in [*range(1, end, 171), *(512 * i for i in range(1, end // 512 + 1))]:
        (tmp_path / "s.tar").write_bytes(whole[:size])
        found = read({"shards": str(tmp_path / "s.tar"), "allow_damaged_shards": True}, WORDS, CLS)
        assert len(found.said.splitlines()) >= 1, f"cut at {size}"
        assert "s.tar" in found.said
        for name, row in found.rows.items():
            assert row["text"] in (None, "AB"[int(name[1])] * 700)


def test_other_names_than_tar_are_refused(tmp_path, read: Read):
    tar(tmp_path / "s.zip", [("a.mp4", b"1")])
    assert (
        "a shard is an uncompressed .tar file" in read({"shards": str(tmp_path / "s.zip")}, targets=CLS).said
    )
