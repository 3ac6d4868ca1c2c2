"""Files that hang, crash or blow up the decoder, on a real Ray: each costs its own sample."""

import json
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmray.config import load_config
from mmray.decode.isolation import Sandbox
from mmray.stages import extract_actors
from mmray.stages.extract import extract
from mmray.stages.extract_actors import Extract
from mmray.tables.read import read

CONFIG = """
output: {folder}/out
samples: {{manifest: {folder}/manifest.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features:
  face: {{kind: frames, frames: 2, size: 32}}
  scene: {{kind: frames, source: image, size: 32}}
extract: {{actors: 2, partition_samples: 4, decode_timeout_s: 5.0, decode_memory_mb: 150}}
"""

CRASH = '''
import ctypes
import threading


def read_nowhere(*_):
    """As a decoder may: a null pointer followed in C."""
    ctypes.string_at(0)


def wait_for_ever(*_):
    """As a decoder may on a file that never ends."""
    threading.Event().wait()
'''


class Fragile(Extract):
    """The stage with a decoder that crashes on one file and waits for ever on another; notes every child."""

    folder_of_crash = ""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        folder_of_crash = self.folder_of_crash
        sys.path.append(folder_of_crash)
        import crashing_decoder  # pyright: ignore[reportMissingImports]

        class Crashing(Sandbox):
            def call(self, function, *args):
                if any(str(arg).endswith("crash.mp4") for arg in args):
                    function = crashing_decoder.read_nowhere
                if any(str(arg).endswith("hang.mp4") for arg in args):
                    function = crashing_decoder.wait_for_ever
                try:
                    return super().call(function, *args)
                finally:
                    assert self._child is not None
                    Path(folder_of_crash, f"child-{self._child.process.pid}").touch()

        given = self.prepare.sandbox
        self.prepare.sandbox = Crashing(timeout_s=given.timeout_s, memory_mb=given.memory_mb)


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    from ray import cloudpickle

    (tmp_path / "crashing_decoder.py").write_text(CRASH)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # `extract` looks the class up when it starts, and the folder travels with it by value.
    fragile = type("FragileHere", (Fragile,), {"folder_of_crash": str(tmp_path)})
    monkeypatch.setattr(extract_actors, "Extract", fragile)
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_each_bad_file_costs_its_own_sample(ray_cluster, clips, fragile, tmp_path):
    good = [json.loads(line) for line in (clips.folder / "manifest.jsonl").read_text().splitlines()][:9]
    rows = [{**row, "video": str(clips.folder / row["video"])} for row in good]
    for name in ("crash.mp4", "hang.mp4"):
        (tmp_path / name).write_bytes(Path(rows[0]["video"]).read_bytes())
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")  # 20 kB that become 243 MB
    bad = {
        "crash": ({"video": "crash.mp4"}, ("face", "decoder_crashed", "killed by SIGSEGV")),
        "hang": ({"video": "hang.mp4"}, ("face", "decoder_timed_out", "no end after 5 s")),
        "huge": ({"image": "huge.png"}, ("scene", "decoder_out_of_memory", "more than 150 MiB")),
    }
    for place, (name, (change, _)) in enumerate(bad.items()):
        rows.insert(3 * place + 1, {**rows[0], "sample_id": name, **change})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    config = load_config(tmp_path / "config.yaml")

    summary = extract(config)
    table = read(config).to_pylist()
    assert [row["sample_id"] for row in table] == [row["sample_id"] for row in rows]
    for row in table:
        errors = {name: row[f"{name}_error"] for name in config.features}
        failed = {name: e for name, e in errors.items() if e and e["reason"] != "absent"}
        found = {(name, e["reason"], e["detail"]) for name, e in failed.items()}
        assert found == ({bad[row["sample_id"]][1]} if row["sample_id"] in bad else set())
        assert (row["face"] is None) == (row["sample_id"] in ("crash", "hang"))
    assert summary["failed_rows"] == len(bad)

    children = [path.name.removeprefix("child-") for path in tmp_path.glob("child-*")]
    assert len(children) >= 2 + len(bad) - 1  # one an actor, and one after each that was lost in mid-work
    deadline = time.monotonic() + 30
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"children left: {left}"
        time.sleep(0.05)
