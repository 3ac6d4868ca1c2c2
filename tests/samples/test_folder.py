"""Folders as people have them: which files are samples, and what is said of the others."""

import os
from pathlib import Path

import pytest

from tests.samples.conftest import VOICE, WORDS, Read

PICTURE = {"still": {"kind": "frames", "source": "image", "size": 64}}


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder / "media"


def samples(folder: Path, **more: object) -> dict[str, object]:
    return {"folder": str(folder / "media"), "label_from_folder": "label", **more}


def test_the_name_of_a_sample_ends_at_its_last_dot(tmp_path, read: Read):
    put(
        tmp_path,
        "h/john.doe.mp4",
        "h/john.smith.mp4",
        "h/talk 2.0.mp4",
        "h/a.2021-03-01.wav",
        "h/b.MP4",
        "s/x#1+2.mp4",
    )
    put(
        tmp_path,
        "s/[f].mp4",
        "s/c%20d.mp4",
        "s/e?x=1.mp4",
        "s/talk.tar#512+34.mp4",
        "s/t.parquet#row=1&column=a.mp4",
    )
    found = read(samples(tmp_path))
    ids = (
        "h/john.doe",
        "h/john.smith",
        "h/talk 2.0",
        "h/a.2021-03-01",
        "h/b",
        "s/x#1+2",
        "s/[f]",
        "s/c%20d",
        "s/e?x=1",
    )
    assert set(found.rows) == {*ids, "s/talk.tar#512+34", "s/t.parquet#row=1&column=a"}
    sound = found.rows.pop("h/a.2021-03-01")
    assert sound["audio"].endswith("media/h/a.2021-03-01.wav")
    assert found.media() == {
        name: f"{name}.{'MP4' if name == 'h/b' else 'mp4'}".encode() for name in found.rows
    }
    assert {row["label"] for row in found.rows.values()} == {"h", "s"}
    assert found.said == ""


def test_links_are_followed_and_loops_end(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4", "../blobs/1", "../elsewhere/b.mp4", "../elsewhere/deep/c.mp4")
    media = tmp_path / "media"
    (media / "h/linked.mp4").symlink_to(tmp_path / "blobs/1")
    os.link(tmp_path / "blobs/1", media / "h/hard.mp4")
    (media / "h/twice.mp4").symlink_to("linked.mp4")
    (media / "h/broken.mp4").symlink_to("nowhere.mp4")
    (media / "h/itself.mp4").symlink_to("itself.mp4")
    (media / "s").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere/deep/up").symlink_to("..", target_is_directory=True)
    (media / "again").symlink_to(".", target_is_directory=True)
    found = read(samples(tmp_path))
    assert set(found.rows) == {"h/a", "h/linked", "h/hard", "h/twice", "s/b", "s/deep/c"}
    assert "links that lead nowhere, or to a folder that is read already, left out: 4" in found.said
    for name in ("again", "h/broken.mp4", "h/itself.mp4"):
        assert name in found.said


def test_the_folder_may_be_a_link(tmp_path, read: Read):
    put(tmp_path, "../elsewhere/h/a.mp4")
    (tmp_path / "media").rmdir() if (tmp_path / "media").exists() else None
    (tmp_path / "media").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert set(read(samples(tmp_path)).rows) == {"h/a"}


def test_files_that_are_no_media_are_no_samples_and_named(tmp_path, read: Read):
    put(
        tmp_path,
        "h/a.mp4",
        "h/a.json",
        "README.txt",
        "README.md",
        "labels.csv",
        "@eaDir/e.mp4",
        "h/b.txt",
        "h/.c.mp4",
        "h/._a.mp4",
    )
    put(
        tmp_path,
        "Thumbs.db",
        "h/desktop.ini",
        "__MACOSX/h/a.mp4",
        ".git/x.mp4",
        "h/d.braw",
        "h/e.braw",
        "h/noextension",
    )
    (tmp_path / "media/h/a.json").write_text("{}")
    os.mkfifo(tmp_path / "media/h/pipe.mp4")
    found = read(samples(tmp_path))
    assert set(found.rows) == {"h/a"}
    assert "files of a kind that is not known (.braw), left out: 2 (h/d.braw, h/e.braw)" in found.said
    assert "(no extension), left out: 1 (h/noextension)" in found.said
    assert "to read one, name it as samples.manifest: 1 (labels.csv)" in found.said
    assert "(.txt) without a medium of their name, left out: 2 (README.txt, h/b.txt)" in found.said
    assert "pipes, devices and sockets, left out: 1 (h/pipe.mp4)" in found.said
    assert "h/b" in read(samples(tmp_path), WORDS).rows, "a text is one where texts are asked for"


@pytest.mark.parametrize(
    ("features", "endings"),
    [
        (VOICE, ["3gp", "wmv", "flv", "mts", "m2ts", "ogv", "mpg", "aiff", "wma", "mka", "au", "caf"]),
        (PICTURE, ["jfif", "avif", "heic", "ppm"]),
    ],
)
def test_less_common_media_are_media(tmp_path, read: Read, features, endings):
    put(tmp_path, *(f"h/a-{ending}.{ending}" for ending in endings))
    assert set(read(samples(tmp_path), features).rows) == {f"h/a-{ending}" for ending in endings}


def test_the_projects_own_output_is_not_read(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4", "out/report/b.png", "out/x.mp4", "output2/c.mp4")
    found = read(samples(tmp_path), output=str(tmp_path / "media/out"))
    assert set(found.rows) == {"h/a", "output2/c"}
    assert "out/" not in found.said


def test_two_files_of_one_kind_are_refused_where_that_kind_is_asked_for(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4", "h/a.mkv")
    found = read(samples(tmp_path))
    assert found.refused
    assert "h/a: has two files for 'video': a.mkv and a.mp4" in found.said
    assert "column" not in found.said
    put(tmp_path, "s/b.wav", "s/b.png", "s/b.jpg", "s/b.txt")
    (tmp_path / "media/h/a.mkv").unlink()
    assert set(read(samples(tmp_path)).rows) == {"h/a", "s/b"}


def test_a_file_wins_over_a_key_of_its_json(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4", "h/b.mp4", "h/c.wav")
    (tmp_path / "media/h/a.json").write_text(
        '{"video": "https://example.org/x", "likes": 3, "label": "liked"}'
    )
    (tmp_path / "media/h/c.json").write_text('{"video": "https://example.org/x"}')
    found = read(samples(tmp_path))
    assert found.refused, "of c it is the only video"
    assert "h/c: video: https://example.org/x: unknown scheme 'https'" in found.said
    (tmp_path / "media/h/c.json").unlink()
    found = read(samples(tmp_path))
    assert found.rows["h/a"]["video"].endswith("a.mp4")
    assert found.rows["h/a"]["label"] == "liked"
    assert "a key 'video' in their JSON and a file for it: the file is taken: 1 (h/a)" in found.said


def test_names_that_are_no_text_are_refused_by_name(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/media/h/caf\xe9.mp4")).write_bytes(b"x")
    found = read(samples(tmp_path))
    assert found.refused
    assert r"h/caf\udce9: its name is not UTF-8; rename it" in found.said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "a.json: not JSON"),
        (b"[1]", "a.json: expected an object, got list"),
        (b"\xff\xfe", "a.json: not UTF-8 (byte 1)"),
        (b'{"label": "\\ud83d"}', "label: letter 1 is half a character"),
        (b'{"x": ' + b"[" * 9000 + b"]" * 9000 + b"}", "a.json: nested too deep"),
        (b'{"x": "' + b"y" * (17 * 2**20) + b'"}', "a.json: 17825801 bytes are too long for a text"),
    ],
)
def test_a_file_beside_a_medium_that_makes_no_sense_is_refused(tmp_path, read: Read, content, said):
    put(tmp_path, "h/a.mp4", "h/b.mp4")
    (tmp_path / "media/h/a.json").write_bytes(content)
    found = read(samples(tmp_path))
    assert found.refused
    assert f"h/a: {said}" in found.said


def test_a_modality_that_the_source_lacks_is_refused_unless_it_is_optional(tmp_path, read: Read):
    put(tmp_path, "h/a.mp4", "h/b.mp4")
    refused = read(samples(tmp_path), VOICE | WORDS)
    assert "no column 'text', needed by features.words" in refused.said
    assert "or set samples.optional: [text] if there is none" in refused.said
    found = read({**samples(tmp_path), "optional": ["text"]}, VOICE | WORDS)
    assert [row["text"] for row in found.rows.values()] == [None, None]
    assert "no column 'text': words absent in all samples" in found.said
