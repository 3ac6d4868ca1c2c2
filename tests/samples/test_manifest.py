"""Manifests as people have them: each odd line is a row, or a fault with its line."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from mmray.config import load_config
from mmray.samples.of_arrays import project_index
from mmray.storage.filesystem import Storage
from tests.samples.conftest import WORDS, Read

HEADER = "sample_id,text,label\n"


def manifest(folder: Path, name: str, content: str | bytes) -> dict[str, str]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return {"manifest": str(path)}


def lines(*rows: str) -> str:
    return "".join(row + "\n" for row in rows)


def row(name: str, **more: object) -> str:
    return json.dumps({"sample_id": name, "text": "x", "label": "h", **more})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"sample_id": "b", "text": "fun \\ud83d", "label": "h"}',
            r"text: letter 5 is half a character (\ud83d",
        ),
        ('{"sample_id": "b\\udc00", "text": "x", "label": "h"}', "sample_id: letter 2 is half a character"),
        ('{"sample_id": "b", "text": "x", "label": "\\udfff"}', "label: letter 1 is half a character"),
        ('{"sample_id": "b", "text": "x", "m": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
        ('{"sample_id": "b", "m": ' + '{"a":' * 5000 + "1" + "}" * 5001, "nested too deep"),
        ('{"sample_id": ' + "1" * 5000 + ', "text": "x", "label": "h"}', "a number of 5000 digits"),
        ('{"sample_id": "b", "text": "x", "text": "y", "label": "h"}', "two values for the key 'text'"),
        ('{"sample_id": "b", "text": "x", "start_s": 1e999}', "start_s: expected a finite number, got inf"),
        (
            '{"sample_id": "b", "text": "x", "start_s": 1' + "0" * 250 + "}",
            "start_s 1e+250 and end_s None are no segment",
        ),
        (
            '{"sample_id": "b", "text": "x", "start_s": NaN, "end_s": -Infinity}',
            "end_s: expected a finite number",
        ),
        ('{"sample_id": "b", "text": "x", "end_s": true}', "end_s: expected a number, got True"),
        ('{"sample_id": "  ", "text": "x"}', "sample_id: is empty"),
        ('{"sample_id": {"a": 1}, "text": "x"}', "sample_id: expected text or a whole number, got {'a': 1}"),
        ('{"sample_id": "b", "text": ["x"]}', "text: expected text, got ['x']"),
        ('"sample_id"', "expected an object, got str"),
        ('{"sample_id": "b", "text": "x"', "not JSON"),
    ],
)
def test_a_line_that_makes_no_sense_is_a_fault_with_its_number(tmp_path, read: Read, line, said):
    content = lines(row("a"), line, row("c"), "{")
    found = read(manifest(tmp_path, "m.jsonl", content), WORDS)
    start, *faults = found.said.split("\n")
    assert found.refused
    assert "2 faults" in start, "those after it are found too"
    assert f"line 2: {said}" in faults[0]
    assert faults[1].startswith("  line 4: not JSON")
    assert len(found.said) < 1000


def test_where_every_row_is_a_fault_that_is_said(tmp_path, read: Read):
    found = read(manifest(tmp_path, "m.jsonl", lines("[1]", "nothing")), WORDS)
    assert "2 faults" in found.said
    assert "line 1: expected an object, got list" in found.said
    assert "column" not in found.said.replace("column 1", "")


def test_a_line_without_end_is_a_fault_and_the_next_is_read(tmp_path, read: Read):
    content = lines(row("a"), row("b", text="x" * (20 * 2**20)), row("c", split="nope"))
    found = read(manifest(tmp_path, "m.jsonl", content), WORDS)
    assert "line 2: longer than 16 MiB" in found.said
    assert "line 3: split: 'nope'" in found.said


def test_long_values_do_not_flood_a_message(tmp_path, read: Read):
    odd = [{"x": list(range(100_000))}, list(range(200_000)), [["y" * 10_000] * 100]]
    content = lines(*(row(f"s{i}", text=value) for i, value in enumerate(odd)))
    found = read(manifest(tmp_path, "m.jsonl", content), WORDS)
    assert found.refused
    assert "3 faults" in found.said
    assert len(found.said) < 1500


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", "sample_id,text,text,label\na,1,2,h\n", "line 1: two columns are called 'text'"),
        ("m.csv", "sample_id;text;label\na;x;h\n", 'parted by semicolons (;): set samples.delimiter: ";"'),
        ("m.csv", "sample_id\ttext\tlabel\na\tx\th\n", r'parted by tabs: set samples.delimiter: "\t"'),
        ("m.tsv", "sample_id,text,label\na,x,h\n", 'parted by commas: set samples.delimiter: ","'),
        (
            "m.csv",
            (HEADER + "a,é,h\n").encode("utf-16"),
            "is UTF-16, not UTF-8: set samples.encoding: utf-16",
        ),
        ("m.csv", (HEADER + "a,é,h\n").encode("utf-16-le"), "set samples.encoding: utf-16"),
        ("m.jsonl", row("a").encode("utf-16"), "set samples.encoding: utf-16"),
        (
            "m.csv",
            (HEADER + "a,é,h\n").encode("latin-1"),
            "line 2: not UTF-8 (letter 3); is it Latin-1 (set samples.enc",
        ),
        ("m.jsonl", b'{"sample_id": "\xe9"}\n', "line 1: not UTF-8 (letter 16)"),
        ("m.csv", HEADER + 'a,"x,h\nb,y,h\n', "no CSV (unexpected end of data)"),
        ("m.csv", HEADER + "a,x\nb,y,h,more\n", "line 2: 2 fields, not 3 as in the header"),
        ("m.csv", HEADER, ""),
        (
            "m.csv",
            "sample_id,text,label,start_s\na,x,h,1_000\n",
            "line 2: start_s: expected a number, got '1_000'",
        ),
        ("m.csv", "sample_id,text,label,start_s\na,x,h,nan\n", "start_s: expected"),
        (
            "m.csv",
            "sample_id,text,label,start_s,end_s\na,x,h,2,2\nb,x,h,0,1\nc,x,h,5,4\n",
            "line 4: start_s 5.0",
        ),
    ],
)
def test_a_table_that_is_read_wrongly_is_told(tmp_path, read: Read, name, content, said):
    found = read(manifest(tmp_path, name, content), WORDS)
    assert said in found.said
    assert found.refused or not found.rows


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("m.csv", "sample_id;text;label\na;x;h\nb;é;h\n", {"delimiter": ";"}),
        ("m.csv", "sample_id\ttext\tlabel\na\tx\th\nb\té\th\n", {"delimiter": "\t"}),
        ("m.tsv", "sample_id\ttext\tlabel\na\tx\th\nb\té\th\n", {}),
        ("m.csv", (HEADER + "a,x,h\nb,é,h\n").encode("utf-16"), {"encoding": "utf-16"}),
        ("m.csv", (HEADER + "a,x,h\nb,é,h\n").encode("latin-1"), {"encoding": "latin-1"}),
        ("m.csv", (HEADER + "a,x,h\nb,é,h\n").encode("cp1252"), {"encoding": "Windows-1252"}),
        ("m.jsonl", lines(row("a"), row("b", text="é")).encode("utf-16"), {"encoding": "utf-16"}),
        ("m.csv", (HEADER + "a,x,h\n\nb,é,h\n").replace("\n", "\r"), {}),
        ("m.csv", "\ufeff" + (HEADER + "a,x,h\nb,é,h\n").replace("\n", "\r\n"), {}),
        ("m.csv", "sample_id, text , label, ,\na,x,h,1,2\nb,é,h,,\n", {}),
        ("m.jsonl", "\ufeff" + lines(row("a"), "", row("b", text="é")), {}),
        ("m.csv", "sep=;\nsample_id;text;label\na;x;h\nb;é;h\n", {"delimiter": ";"}),
        ("m.csv", "notes,sample_id,text,notes,label\n1,a,x,2,h\n1,b,é,2,h\n", {}),
    ],
)
def test_a_setting_reads_it(tmp_path, read: Read, name, content, settings):
    found = read(manifest(tmp_path, name, content) | settings, WORDS)
    assert {name: row["text"] for name, row in found.rows.items()} == {"a": "x", "b": "é"}, found.said


def test_another_encoding_in_the_middle_is_told_with_its_line(tmp_path, read: Read):
    content = (HEADER + "a,x,h\n").encode("utf-16") + b"\x00"
    found = read(manifest(tmp_path, "m.csv", content) | {"encoding": "utf-16"}, WORDS)
    assert found.refused
    assert "not utf-16 (truncated data)" in found.said


@pytest.mark.parametrize("encoding", ["klingon", "base64", "utf-8\0"])
def test_an_encoding_that_is_none_is_a_fault_of_the_config(tmp_path, read: Read, encoding):
    with pytest.raises(Exception, match="is no encoding that Python knows"):
        read({"manifest": "m.csv", "encoding": encoding})


def test_a_long_transcript_and_forms_of_unicode_are_rows(tmp_path, read: Read):
    long, forms = "word " * 40_000, ("\u00e9", "e\u0301", "x\u2028y")
    content = lines(*(json.dumps({"sample_id": name, "text": long}, ensure_ascii=False) for name in forms))
    assert set(read(manifest(tmp_path, "m.jsonl", content), WORDS).rows) == {*forms}
    found = read(manifest(tmp_path, "m.csv", f"{HEADER}a,x,h\nb,{long},h\n"), WORDS)
    assert found.rows["b"]["text"] == long


def test_uris_with_a_password_are_refused_and_not_printed(tmp_path, read: Read):
    uris = ("s3://AKIA:sesame@bucket/a.wav", "https://me:sesame@host/a.wav", "https://host/a.wav?sig=sesame")
    content = lines(*(row(f"s{i}", audio=uri) for i, uri in enumerate(uris)))
    found = read(manifest(tmp_path, "m.jsonl", content))
    assert found.refused
    assert "3 faults" in found.said
    assert "s3://…@bucket/a.wav: keys do not belong in a URI" in found.said
    assert "sesame" not in found.said
    assert "AKIA" not in found.said


def test_file_name_is_the_medium_and_the_id_as_in_datasets(tmp_path, read: Read):
    content = lines(
        '{"file_name": "train/a.wav", "label": "h"}', '{"file_name": "train/b.mp4", "label": "h"}'
    )
    found = read(manifest(tmp_path, "metadata.jsonl", content))
    assert found.rows["train/a.wav"]["audio"] == f"{tmp_path}/train/a.wav"
    assert found.rows["train/b.mp4"]["video"] == f"{tmp_path}/train/b.mp4"
    assert "rows without 'sample_id': file_name is their id: 2" in found.said


def test_a_medium_may_be_an_object_with_its_path(tmp_path, read: Read):
    content = lines(row("a", audio={"path": "x.wav", "bytes": None}), row("b", audio={"path": "y.wav"}))
    rows = read(manifest(tmp_path, "m.jsonl", content)).rows
    assert [row["audio"] for row in rows.values()] == [f"{tmp_path}/x.wav", f"{tmp_path}/y.wav"]


def test_samples_without_any_source_are_counted_and_named(tmp_path, read: Read):
    content = lines(row("a", audio="a.wav"), row("b"), row("c", image="c.png"))
    found = read(manifest(tmp_path, "m.jsonl", content))
    assert set(found.rows) == {"a", "b", "c"}
    assert "samples without any of video, audio: 2 (b, c)" in found.said


def test_further_columns_are_kept_as_text(tmp_path, read: Read):
    content = lines(
        row("a", age=31, sex="f", tags=["x", "é"]), row("b", age=2.5), row("c", age=None, sex=True)
    )
    samples = manifest(tmp_path, "m.jsonl", content) | {"keep": ["age", "sex", "tags"]}
    rows = read(samples, WORDS).rows
    assert [row["age"] for row in rows.values()] == ["31", "2.5", None]
    assert [row["sex"] for row in rows.values()] == ["f", None, "true"]
    assert rows["a"]["tags"] == '["x", "é"]'
    found = read({**samples, "keep": ["height"]}, WORDS)
    assert "no column 'height', which samples.keep names" in found.said


def test_ids_that_differ_in_the_spaces_around_them_are_one_id(tmp_path, read: Read):
    found = read(manifest(tmp_path, "m.jsonl", lines(row("a "), row("b"), row("a"))), WORDS)
    assert "sample_id 'a' stands at line 1, line 3" in found.said


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (gzip.compress(b"x"), "gzip"),
        (bz2.compress(b"x"), "bzip2"),
        (lzma.compress(b"x"), "xz"),
        (b"PK\x03\x04" + bytes(60), "spreadsheet"),
        (b"PAR1" + bytes(60), "name it .parquet"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'{"sample_id": "a", "text": "x"}\n{"sample_id": "b", "text": "x"}\n', "is JSON: name it .jsonl"),
    ],
)
def test_a_manifest_that_is_another_kind_of_file_is_named(tmp_path, read: Read, start, said):
    assert said in read(manifest(tmp_path, "m.csv", start), WORDS).said


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"sample_id": "a", "text": "x y", "video": "v/a.mp4"}, {"sample_id": "b", "text": "z"}]),
        json.dumps({"a": {"text": "x y", "video": "v/a.mp4"}, "b": {"text": "z"}}),
        lines('{"sample_id": "a", "text": "x y", "video": "v/a.mp4"}', '{"sample_id": "b", "text": "z"}'),
    ],
    ids=["rows", "by id", "lines"],
)
def test_json_of_rows_is_a_manifest(tmp_path, content):
    source = manifest(tmp_path, "m.json", content)
    features = WORDS | {"face": {"kind": "frames", "size": 32}}
    project: dict[str, Any] = {"output": str(tmp_path / "out"), "samples": source, "features": features}
    config = load_config(project)
    storage = Storage(config.storage)
    found = project_index(config, storage).small(storage, ["sample_id", "text", "video"]).to_pylist()
    assert found == [
        {"sample_id": "a", "text": "x y", "video": str(tmp_path / "v/a.mp4")},
        {"sample_id": "b", "text": "z", "video": None},
    ]
