"""What a partition costs in memory, and how much of its time an encoder waits.

    python tests/benchmarks/slices.py [--partition 64] [--hours 1.0] [--cost-ms 20]

A split extraction (one decoding actor, one encoder) with a stub encoder of known cost a picture, once in
partitions of 4 samples and once of `--partition`, 32 frames of 224² each: the peak of the decoding actor (its
child included) and of the object store must not grow with the partition. Then sounds of an hour each through
a small wav2vec2. The encoder's idle share is what it waited between two slices.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray
from scipy.io import wavfile

from mmray.assets.clips import write_clips
from mmray.config import load_config
from mmray.stages.extract import extract

STUB = """
import time
from torch import nn


class Stub(nn.Module):
    def __init__(self, cost_s):
        super().__init__()
        self.cost_s = cost_s

    def forward(self, x):
        time.sleep(self.cost_s * len(x))
        return x.mean((2, 3))


def network(cost_ms):
    return Stub(float(cost_ms) / 1000)
"""


@contextmanager
def store_peak() -> Iterator[list[float]]:
    """The most MB that the object stores held meanwhile, looked at ten times a second."""
    from ray._private.internal_api import memory_summary

    peak, ended, address = [0.0], threading.Event(), ray.get_runtime_context().gcs_address

    def look() -> None:
        while not ended.wait(0.1):
            found = re.search(r"Plasma memory usage (\d+) MiB", memory_summary(address, stats_only=True))
            peak[0] = max(peak[0], float(found[1]) * 2**20 / 1e6 if found else 0.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def run(folder: Path, name: str, features: str, samples: list[dict], partition: int) -> dict:
    """One extraction, and what it took."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"output: {folder}/{name}\nsamples: {{manifest: {folder}/{name}.jsonl}}\ntargets: {{}}\n"
        f"features: {features}\n"
        f"extract: {{placement: split, actors: 1, encoders: 1, partition_samples: {partition}}}\n"
    )
    with store_peak() as peak:
        summary = extract(load_config(path))
    seconds = summary["stage_seconds"]
    idle = seconds.get("encoder_idle", 0.0)
    return {
        "run": name,
        "rows": summary["rows"],
        "failed": summary["failed_rows"],
        "wall_s": summary["seconds"],
        "peak_rss_mb": summary["peak_rss_mb"],
        "object_store_peak_mb": round(peak[0]),
        "encoder_idle_share": round(idle / (idle + seconds["encode"]), 3),
        **{f"{stage}_s": value for stage, value in seconds.items()},
    }


def hour(path: Path, seconds: float) -> None:
    """A tone that rises, 16 kHz, 16 bits."""
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    wavfile.write(path, 16_000, (8000 * np.sin(2 * np.pi * (200 + time_s) * time_s)).astype(np.int16))


def small_wav2vec2(folder: Path) -> None:
    """Random weights, one layer of 16."""
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def main() -> None:
    """Print a JSON object a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--partition", type=int, default=64)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--sounds", type=int, default=2)
    parser.add_argument("--cost-ms", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmray-slices-") as name:
        folder = Path(name)
        (folder / "stub_encoder.py").write_text(STUB)
        os.environ["PYTHONPATH"] = os.pathsep.join([name, *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, name)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")  # pyright: ignore[reportArgumentType]
        clips = write_clips(str(folder / "data"), clips=options.partition)
        samples = [
            {"sample_id": clip["sample_id"], "video": str(folder / "data" / clip["video"])} for clip in clips
        ]
        encoder = f"stub_encoder:network:{options.cost_ms}"
        features = f"{{face: {{kind: frames, frames: 32, encoder: '{encoder}', size: 224}}}}"
        for partition in (4, options.partition):
            print(json.dumps(run(folder, f"clips_{partition}", features, samples, partition)), flush=True)
        small_wav2vec2(folder / "wav2vec2")
        hour(folder / "hour.wav", options.hours * 3600)
        sounds = [{"sample_id": f"s{i}", "audio": str(folder / "hour.wav")} for i in range(options.sounds)]
        features = f"{{speech: {{kind: transformer_audio, model: {folder}/wav2vec2, pooling: mean}}}}"
        print(json.dumps(run(folder, "hours", features, sounds, options.sounds)), flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
