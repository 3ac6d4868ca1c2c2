"""Rows out are rows in, whatever is in the files; failed rows are done again, and nothing else is."""

import json
import random
import struct
from collections import Counter
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.io import wavfile

from mmray.assets.clips import write_clips
from mmray.config import Config, load_config
from mmray.errors import BudgetError, Reason
from mmray.stages.extract import extract
from mmray.tables.read import read

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = """
output: {output}
samples: {{manifest: {data}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  scene: {{kind: frames, source: image, size: 32}}
  voice: {{kind: mel, n_mels: 8, hop_ms: 40.0}}
  words: {{kind: tokens}}
extract: {{partition_samples: 16, actors: 2, max_failed_fraction: 1.0}}
"""
SOURCES = {"face": "video", "scene": "image", "voice": "audio", "words": "text"}
KINDS = {"video": ("mp4", "mkv"), "audio": ("mp3", "wav"), "image": ("jpg",)}
MUTATIONS = ("whole", "truncated", "flipped", "swapped", "zero", "random", "huge")


def table_of(config: Config) -> pa.Table:
    return read(config)


def files_of(config: Config) -> dict[str, tuple[int, int]]:
    """Name → inode and time of last change of every feature file."""
    stats = {str(path): path.stat() for path in Path(config.path("features")).glob("*/part-*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


# ------------------------------------------------------------------------------------ conservation


def originals(folder: Path) -> dict[str, bytes]:
    """Extension → a whole file of a second or two."""
    clip = folder / write_clips(str(folder), clips=4)[0]["video"]
    with av.open(str(clip)) as source, av.open(str(folder / "copy.mkv"), "w") as copy:
        streams = {stream: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                copy.mux(packet)
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32) / 2
    wavfile.write(folder / "tone.wav", 16_000, (tone * 32_000).astype(np.int16))
    with av.open(str(folder / "tone.mp3"), "w") as file:
        stream = file.add_stream("mp3", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / "noise.jpg")
    paths = (clip, folder / "copy.mkv", folder / "tone.mp3", folder / "tone.wav", folder / "noise.jpg")
    return {path.suffix[1:]: path.read_bytes() for path in paths}


def mutated(whole: dict[str, bytes], extension: str, mutation: str, rng: random.Random) -> bytes:
    data = bytearray(whole[extension])
    match mutation:
        case "truncated":
            return bytes(data[: rng.randrange(1, len(data))])
        case "flipped":
            for _ in range(rng.choice((1, 8, 64, 512))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "swapped":
            return whole[rng.choice([other for other in whole if other != extension])]
        case "zero":
            return b""
        case "random":
            return rng.randbytes(rng.randrange(1, 20_000))
        case "huge":
            # The size before a box or chunk name; the counts after it; a picture's height and width.
            names = {
                "mp4": (b"moov", b"mdat", b"stsz", b"stco", b"stsd", b"mdhd", b"avcC", b"stts"),
                "mkv": (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"),
                "mp3": (b"ID3", b"\xff\xf3", b"Info", b"Xing"),
                "wav": (b"data", b"fmt ", b"RIFF", b"WAVE"),
                "jpg": (b"\xff\xc0", b"\xff\xdb", b"\xff\xc4"),
            }
            at = max(0, data.find(rng.choice(names[extension])))
            at += rng.choice((-4, 4, 5, 8, 12))
            at = min(max(at, 0), len(data) - 4)
            data[at : at + 4] = struct.pack(">I", rng.choice((0x7FFFFFFF, 0xFFFFFFFF, 0x40000000)))
    return bytes(data)


@pytest.fixture(scope="module")
def mutations(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with 216 mutated files beside 36 whole ones; sample_id → what was done to it."""
    folder = tmp_path_factory.mktemp("mutations")
    whole, rng, rows, done = originals(folder), random.Random(7), [], {}
    for number in range(36):
        for mutation in MUTATIONS:
            source = rng.choice(list(KINDS))
            extension = rng.choice(KINDS[source])
            name = f"{mutation}-{number}.{extension}"
            (folder / name).write_bytes(mutated(whole, extension, mutation, rng))
            text = "so good" if mutation != "random" else rng.randbytes(40).decode("latin-1")
            row = {"video": None, "audio": None, "image": None, "text": text, source: name}
            rows.append({"sample_id": name, "emotion": "happy", "split": "train", **row})
            done[name] = mutation
    rng.shuffle(rows)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, done


def project(folder: Path, output: Path, *overrides: str) -> Config:
    path = output.with_suffix(".yaml")
    path.write_text(CONFIG.format(output=output, data=folder))
    return load_config(path, list(overrides))


def test_every_mutated_file_is_a_row_and_every_failure_has_a_reason(mutations, tmp_path):
    folder, mutation_of = mutations
    config = project(folder, tmp_path / "out")
    summary = extract(config)
    rows = table_of(config).to_pylist()
    assert len(rows) == len(mutation_of) == 252
    assert [row["sample_id"] for row in rows] == [
        json.loads(line)["sample_id"] for line in (folder / "manifest.jsonl").open()
    ]
    failures = Counter()
    for row in rows:
        errors = {name: row[f"{name}_error"] for name in SOURCES}
        reasons = {name: error["reason"] for name, error in errors.items() if error}
        for name in SOURCES:
            assert (row[name] is None) == (name in reasons), row["sample_id"]
            assert reasons.get(name, "absent") in get_args(Reason)
        failed = {(name, reason) for name, reason in reasons.items() if reason != "absent"}
        failures.update(failed)
        if mutation_of[row["sample_id"]] == "whole":
            assert not failed, row["sample_id"]
        if mutation_of[row["sample_id"]] in ("zero", "random"):
            assert failed, row["sample_id"]
    assert {(f["feature"], f["reason"]): f["count"] for f in summary["failures"]} == failures
    assert len({reason for _, reason in failures}) > 2


def test_too_many_failures_stop_it_with_the_top_reasons(mutations, tmp_path):
    folder, _ = mutations
    config = project(folder, tmp_path / "out", "extract.max_failed_fraction=0.05")
    with pytest.raises(BudgetError, match=r"\d+ × (face|voice|scene) unreadable.*--retry-failed"):
        extract(config)
    assert files_of(config)


# ------------------------------------------------------------------------------------ retry


def content(summary: dict, feature: str) -> str:
    return summary["features"][feature]["content"]


def attempts(table: pa.Table, row: int) -> dict[str, int]:
    errors = {name: table[f"{name}_error"][row].as_py() for name in SOURCES}
    return {name: error["attempts"] for name, error in errors.items() if error}


@pytest.mark.parametrize("placement", ["fused", "split"])
def test_only_failed_rows_are_done_again(clips, tmp_path, placement):
    """Three partitions of three; in the second, one file comes back and one stays broken."""
    media = clips.folder / "clips"
    whole = sorted(media.glob("clip_*.mp4"))
    late = tmp_path / "late.mp4"
    videos = [*whole[:3], late, media / "zero.mp4", whole[3], *whole[4:7]]
    empty = {"image": None, "audio": None, "split": "train"}
    rows = [
        {"sample_id": f"s{n}", "video": str(video), "text": "so good", "emotion": "sad", **empty}
        for n, video in enumerate(videos)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["extract.partition_samples=3", f"extract.placement={placement}"]
    config = project(tmp_path, tmp_path / "out", *settings)
    first = extract(config)
    assert (first["rows"], first["failed_rows"], first["retried"]) == (9, 2, 0)
    before, files = table_of(config), files_of(config)

    late.write_bytes(whole[0].read_bytes())
    second = extract(config, retry_failed=True)
    assert (second["retried"], second["recovered"], second["rows_this_run"]) == (2, 1, 2)
    assert (second["rows"], second["failed_rows"]) == (9, 1)
    changed = {name for name in SOURCES if content(second, name) != content(first, name)}
    assert changed == {"face", "voice"}
    after = table_of(config)
    assert after["sample_id"].to_pylist() == [f"s{n}" for n in range(9)]
    untouched = [0, 1, 2, 5, 6, 7, 8]
    assert after.take(untouched).equals(before.take(untouched)), "to the byte"
    one, twin = after.slice(3, 1).to_pylist()[0], after.slice(0, 1).to_pylist()[0]
    assert attempts(after, 3) == {"scene": 1}, "there is no image, then as now"
    np.testing.assert_allclose(one["voice"], twin["voice"])
    np.testing.assert_allclose(one["face"], twin["face"], rtol=1e-4, atol=1e-5)
    assert attempts(after, 4) == {"face": 2, "scene": 1, "voice": 2}
    changed = {name for name, stat in files_of(config).items() if files[name] != stat}
    assert {Path(name).name for name in changed} == {"part-000001.parquet"}
    assert len(changed) == 2, "of the face and the voice"

    # As a kill in the middle leaves it: the table counts as unfinished until the same rows are counted anew.
    for summary in Path(config.path("features")).glob("*/_summary.json"):
        summary.unlink()
    healed = extract(config)
    assert {key: healed[key] for key in ("rows", "failed_rows", "state", "rows_this_run")} == {
        **{key: second[key] for key in ("rows", "failed_rows", "state")},
        "rows_this_run": 0,
    }
