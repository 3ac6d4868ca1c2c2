"""Configs, manifests, shards and models are data of strangers: whatever their bytes, they end in what they
say or in one of our errors.

Valid files are mutated (bytes flipped, cut out, doubled, replaced by what has hurt before) and read in a
process of its own, with bounded memory and time: a crash, a hang or memory without end is seen as such.
"""

import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

MEMORY_BYTES = 6 * 2**30
"""Of address space, of which pyarrow and its threads reserve most."""
SECONDS_EACH = 20.0
NASTY = (
    b"\0", b"\xff\xff\xff\xff", b"\x80" + b"\xff" * 11, b"1e999", b"1" + b"0" * 400, b"-1", b"NaN",
    b"[" * 3000, b'{"a":' * 2000, b"\\ud83d", b'"', b"\n", b",", b"\xed\xa0\x80", b"s3://k:secret@b/x",
    b"/dev/zero", b"../" * 50, b"x" * 140_000, b"\r", b"ustar\0", b"0" * 512, b"9" * 512, b"PAR1",
)  # fmt: skip


def jsonl() -> bytes:
    rows = [
        {
            "sample_id": f"s{i}",
            "audio": f"{i}.wav",
            "text": "é x",
            "start_s": i,
            "end_s": i + 1.5,
            "label": ["a"],
        }
        for i in range(5)
    ]
    return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()


def table() -> bytes:
    rows = [f'{i},{i}.wav,"so ""good"",\nreally",{i},{i + 1},a|b' for i in range(5)]
    return "\n".join(["sample_id,audio,text,start_s,end_s,label", *rows]).encode()


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "sample_id": [f"s{i}" for i in range(8)],
        "text": pa.array(["x"] * 8).dictionary_encode(),
        "label": [["a"]] * 8,
        "audio": [{"bytes": bytes(200), "path": "a.wav"}] * 7 + [None],
        "start_s": [0.5] * 8,
        "end_s": [1.5] * 8,
    }
    classes = {"info": {"features": {"audio": {"_type": "Audio"}}}}
    sink = io.BytesIO()
    whole = pa.table(columns).replace_schema_metadata({b"huggingface": json.dumps(classes).encode()})
    pq.write_table(whole, sink, row_group_size=3, compression="snappy")
    return sink.getvalue()


def shard() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (
            ("a.wav", b"x" * 700), ("a.txt", b"so good"), ("a.json", b'{"label": ["a"], "video": "v.mp4"}'),
            (f"{'long/' * 30}b.wav", b"y" * 90), (f"{'long/' * 30}b.txt", "é".encode()),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("c.wav")
        link.type, link.linkname = tarfile.LNKTYPE, "a.wav"
        archive.addfile(link)
    return sink.getvalue()


def config() -> bytes:
    return b"""
output: out
samples: {manifest: m.jsonl, columns: {video: path}, split: {val: 0.2, group: {regex: "([a-z]+)"}}}
targets: {mood: {kind: classification}, grade: {kind: ordinal, scale: sentiment}}
features: &features
  face: {kind: frames, sampling: fps, fps: 2.5, crop: [0.1, 0.1, 0.9, 1.0]}
  words: {kind: tokens, lowercase: true}
model: {encoders: {face: {kind: gru, hidden: 16}}, fusion: {kind: late}, modality_dropout: 0.1}
train: {epochs: 3, learning_rate: 1e-3, monitor: mood/accuracy, loss_weights: {mood: 2, grade: 0.5}}
tune: {trials: 4, space: {train.learning_rate: {log_uniform: [1e-4, 1e-2]}, train.epochs: {choice: [8, 9]}}}
compare: {models: {late: {model.fusion.kind: late}}, seeds: [0, 1]}
"""


def model() -> dict[str, bytes]:
    """The files of a trained model."""
    import numpy as np

    from mmray.config import ModelConfig, TrainConfig
    from mmray.targets import ClassificationTarget
    from mmray.training.batches import FeatureSet, Ragged
    from mmray.training.loop import fit

    names = np.array(["train", "train", "val", "test"] * 8, dtype=object)
    values = np.arange(64, dtype=np.float32).reshape(32, 2)
    words = np.array(["good", "bad"] * 16, dtype=object)
    data = FeatureSet(
        np.array([f"s{i}" for i in range(32)], dtype=object),
        names,
        {"x": Ragged(values, np.arange(33)), "words": Ragged(words, np.arange(33))},
        {"mood": np.array(["a", "b"] * 16, dtype=object)},
    )
    settings = ModelConfig.model_validate({"fusion": {"kind": "late"}})
    result = fit(settings, TrainConfig(epochs=1), data, ["x", "words"],
                 {"mood": ClassificationTarget(kind="classification")})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result.snapshot.save_model(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


SOURCES = {"m.jsonl": "manifest", "m.csv": "manifest", "m.parquet": "manifest", "s.tar": "shards"}
KINDS: dict[str, Callable[[], dict[str, bytes]]] = {
    "jsonl": lambda: {"m.jsonl": jsonl()},
    "csv": lambda: {"m.csv": table()},
    "parquet": lambda: {"m.parquet": parquet()},
    "shard": lambda: {"s.tar": shard()},
    "config": lambda: {"mmray.yaml": config()},
    "model": model,
}
"""Kind → {name: bytes} of its files, of which one is mutated."""


def mutated(data: bytes, seed: int) -> bytes:
    """The same bytes with one to four faults."""
    rng, found = random.Random(seed), bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 4, 30, 512, 1000)))
        match rng.randrange(6):
            case 0:
                found[at:end] = (
                    bytes(byte ^ (1 << rng.randrange(8)) for byte in found[at:end][:1]) + found[at + 1 : end]
                )
            case 1:
                del found[at:end]
            case 2:
                found[at:at] = found[at:end] * rng.choice((1, 3, 200))
            case 3:
                found[at : at + rng.choice((0, 1, 12))] = rng.choice(NASTY)
            case 4:
                found[at:end] = rng.randbytes(end - at)
            case 5:
                del found[at:]
    return bytes(found)


def read_one(name: str, folder: Path, *, whole: bool) -> None:
    """Read what was written; any error that is not ours goes up, and any of what is whole."""
    from mmray.config import load_config
    from mmray.errors import MmrayError

    if name in SOURCES:
        read_source(name, folder)
        return
    said = ""
    try:
        if name == "mmray.yaml":
            load_config(folder / name)
        else:
            from mmray.training.checkpoint import load_predictor

            load_predictor(folder)
    except MmrayError as error:
        if whole:
            raise
        said = str(error)
    assert len(said) < 20_000, "a flood"


def read_source(name: str, folder: Path) -> None:
    """Read a source to its last medium."""
    import pyarrow as pa

    from mmray.config import Config
    from mmray.errors import MediaError, SamplesError, StorageError
    from mmray.samples.checks import CheckedRows, plan_sources
    from mmray.samples.sources import find_source
    from mmray.storage.filesystem import Storage
    from mmray.tables.schemas import sample_schema

    config = Config.model_validate(
        {
            "output": f"{folder}/out",
            "samples": {SOURCES[name]: f"{folder}/{name}"},
            "targets": {"label": {"kind": "multilabel"}},
            "features": {"voice": {"kind": "mel"}, "words": {"kind": "tokens"}},
        }
    )
    said = None
    try:
        checked = CheckedRows(config, Storage(), find_source(config.samples, Storage(), config.output))
        rows = list(checked)
    except (SamplesError, StorageError) as error:
        said = str(error)
    if said is not None:
        assert len(said) < 20_000, "a flood"
        assert "secret" not in said.encode().decode()
        return
    "\n".join(checked.notes).encode()
    schema = sample_schema(plan_sources(config), config.targets)
    pa.Table.from_pylist([{"media_key": "", **row} for row in rows], schema=schema)
    for row in rows[:20]:
        try:
            with Storage().media(row["audio"] or row["video"] or "nowhere") as path:
                Path(path).stat()
        except MediaError as error:
            str(error).encode()


def main(kind: str, first: int, count: int) -> None:
    """Read so many mutations; print those that end in something else than rows or our errors."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    whole = KINDS[kind]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            print("seed", seed, flush=True)
            start = time.monotonic()
            try:
                chosen = sorted(whole)[seed % len(whole)]
                for name, data in whole.items():
                    torn = mutated(data, seed) if seed and name == chosen else data
                    Path(folder, name).write_bytes(torn)
                read_one(chosen, Path(folder), whole=not seed)
            except Exception:  # noqa: BLE001 (all of them are what is looked for)
                print("fault", seed, traceback.format_exc(limit=-3), flush=True)
            if time.monotonic() - start > SECONDS_EACH:
                print("fault", seed, f"took {time.monotonic() - start:.0f} s", flush=True)


def check(kind: str, first: int, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.samples.test_fuzz", kind, str(first), str(count)],
        capture_output=True,
        text=True,
        timeout=60 + count * SECONDS_EACH,
        cwd=Path(__file__).parents[2],
    )
    lines = done.stdout.splitlines()
    last = next((line for line in reversed(lines) if line.startswith("seed")), "no seed")
    assert done.returncode == 0, f"{kind}: ended with {done.returncode} at {last}: {done.stderr[-2000:]}"
    faults = done.stdout.split("fault ", 1)[1:]
    assert not faults, f"{kind}: fault {faults[0][:3000]}"
    assert last == f"seed {first + count - 1}"


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_mutations_of_each(kind):
    check(kind, 0, 50)


@pytest.mark.endurance
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_mutations_of_each(kind):
    check(kind, 1000, 1000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
