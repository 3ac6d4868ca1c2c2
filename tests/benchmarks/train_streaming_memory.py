"""Peak memory and seconds an epoch of a worker: a table of some 1.5 GB in memory, and streamed.

    python tests/benchmarks/train_streaming_memory.py [GB]

Each mode trains in a Ray actor of its own, as a Train worker would; memory is the peak of its private pages
and of all its pages (what Ray shares with it included), above what it had before the table was opened.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray

from mmray.config import Config, load_config
from mmray.distributed.feeding import open_table, streaming_window
from mmray.storage.filesystem import Storage
from mmray.tables.identity import feature_spec, hash_of
from mmray.tables.parts import write_partition
from mmray.tables.schemas import FeatureShape, feature_schema, vectors_to_column

ROWS, STEPS, DIM = 256, 24, 1024
"""Of a partition, 25 MB."""
BUDGET_MB = 300
CONFIG = """
output: {output}
samples: {{manifest: none.jsonl}}
targets: {{emotion: {{kind: classification}}}}
features: {{voice: {{kind: mel, n_mels: 1024}}}}
train: {{epochs: 2, batch_size: 64}}
"""


def write_table(config: Config, gigabytes: float) -> None:
    """Partitions of noise."""
    rng = np.random.default_rng(0)
    storage, folder, shape = Storage(), config.path("features"), FeatureShape(DIM)
    schema = feature_schema({"voice": shape}, config.targets)
    noise = rng.normal(size=(ROWS, STEPS, DIM)).astype(np.float32)
    for partition in range(int(gigabytes * 1e9 / noise.nbytes)):
        columns = {
            "sample_id": [f"{partition}-{row}" for row in range(ROWS)],
            "split": ["val" if row % 16 == 0 else "train" for row in range(ROWS)],
            "emotion": [f"class{row % 4}" for row in range(ROWS)],
            "voice": vectors_to_column(list(noise + partition), shape),
            "voice_length": [STEPS] * ROWS,
            "errors": [[] for _ in range(ROWS)],
        }
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field in schema
            for column in [columns.get(field.name, [None] * ROWS)]
        ]
        write_partition(storage, folder, partition, pa.table(arrays, schema=schema))
    storage.write_json(
        f"{folder}/_spec.json", {**feature_spec(config), "fingerprint": hash_of(feature_spec(config))}
    )


@ray.remote(num_cpus=1)
def measure(config: Config, window: int | None) -> dict[str, Any]:
    """Train; the peaks and the seconds."""
    import torch

    from mmray.training.loop import fit

    torch.set_num_threads(1)
    process, ended = psutil.Process(), threading.Event()
    before, peaks = process.memory_info(), [0, 0]

    def watch() -> None:
        while not ended.wait(0.01):
            now = process.memory_info()
            peaks[0] = max(peaks[0], now.rss - now.shared - before.rss + before.shared)
            peaks[1] = max(peaks[1], now.rss - before.rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    data = open_table(config, Storage(), ["voice"], window)
    result = fit(config.model, config.train, data, ["voice"], config.targets)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    return {
        "private_mb": round(peaks[0] / 1e6),
        "all_mb": round(peaks[1] / 1e6),
        "seconds": round(seconds, 1),
        "epochs_s": [round(epoch["seconds"], 1) for epoch in result.history],
        "val_loss": [round(epoch["val_loss"], 4) for epoch in result.history],
    }


def main(gigabytes: float) -> None:
    """Print a line a mode."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(CONFIG.format(output=f"{folder}/out"))
        config = load_config(Path(folder, "config.yaml"))
        write_table(config, gigabytes)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        window = streaming_window(config, Storage(), BUDGET_MB * 1e6)
        print(f"table {gigabytes:g} GB, budget {BUDGET_MB} MB: window of {window} partitions of 25 MB")
        for name, mode in {"streamed": window, "in memory": None}.items():
            print(f"{name:<10}", ray.get(measure.remote(config, mode)), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
