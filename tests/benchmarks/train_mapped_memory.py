"""Training on a table that is mapped from a disk, against the same in memory: time, and memory of the
process.

    python tests/benchmarks/train_mapped_memory.py [MB of features, default 400]

Each runs in a process of its own, in turn, twice; CPU seconds of an epoch, the faster of two. Memory is what
the process holds of its own (RssAnon) beyond what it held before the table was opened, at its highest; the
budget would be a fifth of the table. Also: what cutting a batch costs in a table of a million rows.
"""

import json
import multiprocessing
import sys
import threading
import time

import numpy as np
import torch

from mmray.config import ModelConfig, TrainConfig
from mmray.targets import ClassificationTarget
from mmray.training.batches import Examples, FeatureSet, Ragged
from mmray.training.loop import fit
from mmray.training.spilling import spilled

STEPS, DIM, PART = 20, 64, 640
TARGETS = {"emotion": ClassificationTarget(kind="classification")}
MODEL = ModelConfig.model_validate({"encoders": {"voice": {"kind": "gru", "hidden": 32}}})


def part(first: int, rows: int) -> FeatureSet:
    """Some rows of the table, always the same."""
    rng = np.random.default_rng(first)
    return FeatureSet(
        np.array([f"s{first + i}" for i in range(rows)], dtype=object),
        np.array(["val" if i % 50 == 0 else "train" for i in range(rows)], dtype=object),
        {
            "voice": Ragged(
                rng.normal(size=(rows * STEPS, DIM)).astype(np.float32), np.arange(rows + 1) * STEPS
            )
        },
        {"emotion": np.array([f"class{i % 4}" for i in range(rows)], dtype=object)},
    )


def anonymous() -> int:
    """Bytes of this process that no file holds."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def work(rows: int, mapped: bool, told) -> None:
    """Open the table, train two epochs, say what it took."""
    torch.set_num_threads(1)
    fit(MODEL, TrainConfig(epochs=1), part(0, 100), ["voice"], TARGETS)  # imports, allocators
    before, peak, ended = anonymous(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    parts = range(0, rows, PART)
    ids = np.array([f"s{i}" for i in range(rows)], dtype=object)
    split = np.concatenate([["val" if i % 50 == 0 else "train" for i in range(PART)] for _ in parts]).astype(
        object
    )
    labels = np.concatenate([[f"class{i % 4}" for i in range(PART)] for _ in parts]).astype(object)
    index = FeatureSet(ids, split, {}, {"emotion": labels})
    if mapped:
        data = spilled("benchmark", index, ["voice"], 1, lambda: (part(start, PART) for start in parts))
    else:
        whole = Ragged.concatenate([part(start, PART).features["voice"] for start in parts])
        data = FeatureSet(ids, split, {"voice": whole}, {"emotion": labels})
    cpu: list[float] = []
    last = [time.process_time()]

    def report(metrics, save) -> None:
        cpu.append(time.process_time() - last[0])
        last[0] = time.process_time()

    fit(MODEL, TrainConfig(epochs=3, batch_size=64, patience=9), data, ["voice"], TARGETS, report=report)
    ended.set()
    watcher.join()
    told.put({"cpu_s": min(cpu[1:]), "held_mb": (peak[0] - before) / 1e6})


def main() -> None:
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 400.0
    rows = int(megabytes * 1e6 / (STEPS * DIM * 4)) // PART * PART
    context = multiprocessing.get_context("spawn")
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(2):
        for mapped in (False, True):
            told = context.Queue()
            process = context.Process(target=work, args=(rows, mapped, told))
            process.start()
            found[mapped].append(told.get())
            process.join()
    memory, disk = (
        {key: min(one[key] for one in found[way]) for key in ("cpu_s", "held_mb")} for way in (False, True)
    )
    print(
        json.dumps(
            {"rows": rows, "in memory": memory, "mapped": disk, "ratio": disk["cpu_s"] / memory["cpu_s"]}
        )
    )
    million = Examples(
        {"x": Ragged(np.zeros((10**6, 8), np.float32), np.arange(10**6 + 1))},
        {"y": np.zeros(10**6, np.int64)},
    )
    million.batch(np.arange(32))
    chosen = [np.random.default_rng(i).integers(10**6, size=32) for i in range(200)]
    start = time.perf_counter()
    for one in chosen:
        million.batch(one)
    print(f"cutting a batch of 32 of a million rows: {(time.perf_counter() - start) / 200 * 1000:.3f} ms")


if __name__ == "__main__":
    main()
