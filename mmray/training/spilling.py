"""A feature table larger than memory: put once on a local disk, mapped, and gathered from by row.

    partitions of a table ─▶ FEATURE.values  FEATURE.times   steps of all rows, end to end, as they are in
    memory
                             table.json                      lengths' files, dtypes; written last

What comes back is the same `FeatureSet`, whose numbers lie in files that are mapped: training shuffles all
rows, and what it does not read is not in memory; what it reads often is, in the system's page cache, which
is given back where others need it. One copy serves all processes of a machine, for as long as one of them
lives: it is made under a lock, and swept away like the scratch of processes that are gone.
"""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from mmray.errors import StorageError
from mmray.storage.scratch import shared_scratch
from mmray.training.batches import FeatureSet, Ragged

__all__ = ["spilled"]

TABLE = "table.json"
LOOK_S = 0.05


def spilled(
    key: str, index: FeatureSet, features: Sequence[str], size: int, read: Callable[[], Iterable[FeatureSet]]
) -> FeatureSet:
    """`index` with these features, mapped from files of this machine, which are made where they are not
    there.

    `key` says what the table holds; `read` gives its rows, partition by partition, in the order of the index;
    `size` is how many bytes they are about.

    Raises:
        StorageError: where the disk is too small for them.
    """
    folder, lock = _held(key)
    while not (folder / TABLE).exists():
        # Who gets the lock alone writes. To wait for it alone would be for ever: those who read hold it, too.
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
        else:
            if not (folder / TABLE).exists():
                _write(folder, features, size, read())
        finally:
            fcntl.flock(lock, fcntl.LOCK_SH)
    return _opened(folder, index, features)


@functools.lru_cache(maxsize=1)
def _held(key: str) -> tuple[Path, IO[bytes]]:
    """The folder of this key, and its lock, shared for as long as this process lives."""
    folder = Path(shared_scratch(key))
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = open(folder / ".lock", "ab")  # noqa: SIM115  # open as long as the process is
        fcntl.flock(lock, fcntl.LOCK_SH)
        there = folder / ".lock"
        if there.exists() and os.fstat(lock.fileno()).st_ino == there.stat().st_ino:
            return folder, lock
        lock.close()  # it was swept away meanwhile


def _write(folder: Path, features: Sequence[str], size: int, parts: Iterable[FeatureSet]) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"{folder}: {size / 1e6:,.0f} MB of features are more than train.memory_budget_mb and than this "
            f"disk, which has {free / 1e6:,.0f} MB; set TMPDIR to a larger one where Ray's workers start, or "
            "give workers more memory"
        )
    lengths: dict[str, list[np.ndarray]] = {name: [] for name in features}
    kinds: dict[str, tuple[str, int | None]] = {}
    words: dict[str, pd.Index] = {name: pd.Index([], dtype=object) for name in features}
    try:
        with contextlib.ExitStack() as files:
            values_of, times_of = (
                {name: files.enter_context(open(folder / f"{name}.{part}", "wb")) for name in features}
                for part in ("values", "times")
            )
            for part in parts:
                for name in features:
                    ragged = part.features[name]
                    values = ragged.values
                    if ragged.dim is None:
                        new = pd.Index(pd.unique(values)).difference(words[name])
                        words[name] = words[name].append(new)
                        values = words[name].get_indexer(pd.Index(values)).astype(np.int32)
                    kinds[name] = values.dtype.str, ragged.dim
                    lengths[name].append(ragged.lengths)
                    values_of[name].write(np.ascontiguousarray(values).data)
                    times_of[name].write(np.ascontiguousarray(ragged.times()).data)
    except OSError as error:
        raise StorageError(f"{folder}: {(error.strerror or str(error)).lower()}") from error
    for name in features:
        np.save(folder / f"{name}.lengths.npy", np.concatenate(lengths[name]))
    table = {
        name: {"dtype": kinds[name][0], "dim": kinds[name][1], "words": words[name].tolist()}
        for name in features
    }
    (folder / f"{TABLE}.partial").write_text(json.dumps(table))
    os.replace(folder / f"{TABLE}.partial", folder / TABLE)


def _opened(folder: Path, index: FeatureSet, features: Sequence[str]) -> FeatureSet:
    table = json.loads((folder / TABLE).read_text())
    found = {}
    for name in features:
        kind = table[name]
        lengths = np.load(folder / f"{name}.lengths.npy")
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        values = _mapped(folder / f"{name}.values", kind["dtype"])
        if kind["dim"] is None:
            values = np.array([*kind["words"], None], dtype=object)[values]
        else:
            values = values.reshape(-1, kind["dim"])
        found[name] = Ragged(values, offsets, _mapped(folder / f"{name}.times", "<f4"))
    return replace(index, features=found)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    if not path.stat().st_size:  # cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
