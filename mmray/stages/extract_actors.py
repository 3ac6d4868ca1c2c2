"""What runs inside the actors of extraction: a partition's number → its part files, and a report on it.

    DecodeAndEncode    number → report                        fused
    Decode, Encode     number → decoded rows → report         split

What is missing of a partition is looked up where the work is done: of each feature the rows that its part
file lacks, or holds of other media (and, with `retry_failed`, those that failed). So several features that
are missing share one fetch and decode, and what was written before a kill is not done again.

A report travels as JSON in a column: {rows, notes: {feature: notes}, made: {feature: rows}, rows_now,
retried, recovered, fetched_bytes, cpu_seconds, seconds: {stage: s}, peak_rss_mb: {pool: MB}}.
"""

import contextlib
import json
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.config import Config
from mmray.samples.index import Index
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import add_seconds, failed_rows, notes_of
from mmray.tables.features import FeatureTable, PartState, places_of, state_of
from mmray.tables.identity import media_digest
from mmray.tables.parts import file_name, read_partition, write_partition

__all__ = ["Decode", "DecodeAndEncode", "Encode", "Work", "merged", "preparation"]


@dataclass(frozen=True)
class Work:
    """What every actor of an extraction is told."""

    config: Config
    storage: Storage
    index: Index
    tables: dict[str, FeatureTable]
    """Of all features of the config."""
    missing: tuple[str, ...]
    """The features of which any partition is still to be made."""
    retry_failed: bool
    decoder: str

    def states(self, partition: int, samples: pa.Table) -> dict[str, PartState]:
        """{feature: what is there of the partition}."""
        found = {}
        for name, table in self.tables.items():
            if self.storage.exists(f"{table.folder}/{file_name(partition)}"):
                retry = self.retry_failed and name in self.missing
                found[name] = state_of(self.storage, table, partition, samples, retry=retry)
            else:
                found[name] = PartState(None, np.ones(samples.num_rows, bool))
        return found

    def write(
        self,
        partition: int,
        samples: pa.Table,
        states: Mapping[str, PartState],
        made: Mapping[str, pa.Table],
        spent: "_Spent",
    ) -> pa.Table:
        """Write the rows just made, among those made earlier; returns the report."""
        notes = {name: state.notes for name, state in states.items()}
        retried, recovered = np.zeros(samples.num_rows, bool), np.ones(samples.num_rows, bool)
        with spent.stage("write"):
            for name, rows in made.items():
                if states[name].done:
                    continue
                table, todo = self.tables[name], states[name].todo
                earlier = None
                if not todo.all() or self.retry_failed:
                    earlier = self._earlier(table, partition)
                whole, again = merged(samples["sample_id"], todo, rows, earlier)
                retried |= again
                recovered &= ~failed_rows(whole)
                digest = media_digest(whole["sample_id"], whole["media_key"].to_pylist())
                more = {**notes_of(whole, name), "media": digest}
                notes[name] = write_partition(self.storage, table.folder, partition, whole, more)
        done = [state.todo for state in states.values() if not state.done]
        report = {
            "rows": samples.num_rows,
            "notes": notes,
            "made": {name: rows.num_rows for name, rows in made.items()},
            "rows_now": int(np.logical_or.reduce(done).sum()) if done else 0,
            "retried": int(retried.sum()),
            "recovered": int((retried & recovered).sum()),
            **spent.told(),
        }
        return pa.table({"partition": [partition], "report": [json.dumps(report)]})

    def _earlier(self, table: FeatureTable, partition: int) -> pa.Table | None:
        if not self.storage.exists(f"{table.folder}/{file_name(partition)}"):
            return None
        return read_partition(self.storage, table.folder, partition)

    def wanted(self, samples: pa.Table, states: Mapping[str, PartState]) -> tuple[pa.Table, dict[str, list]]:
        """The samples of which any feature is to be made, and for each feature which of them."""
        todo = {name: states[name].todo & (not states[name].done) for name in self.missing}
        rows = np.logical_or.reduce(list(todo.values()))
        rows[0] |= not rows.any()  # a table without rows gets lost between two pools
        return samples.filter(pa.array(rows)), {name: mask[rows].tolist() for name, mask in todo.items()}

    @property
    def features(self) -> dict[str, Any]:
        """The features to be made."""
        return {name: self.config.features[name] for name in self.missing}


class DecodeAndEncode:
    """[partition number] → its part files, written, and a report.

    Takes a partition in slices that fill the encoder once, so that a few clips' frames are held, not
    a partition's.
    """

    def __init__(self, work: Work):
        self.work = work
        self.prepare = preparation(work.config, work.storage, work.decoder, work.features)
        self.encode = _encoding(work)
        frames = [getattr(feature, "frames", 1) for feature in work.features.values()]
        self.slice_samples = max(1, work.config.extract.encode_batch // max(frames, default=1))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Do the partition from end to end."""
        (partition,) = block["partition"].to_pylist()
        spent = _Spent("actors", sandbox=self.prepare.sandbox)
        samples = self.work.index.read(self.work.storage, partition)
        states = self.work.states(partition, samples)
        parts: dict[str, list[pa.Table]] = {name: [] for name in self.work.missing}
        rows, masks = self.work.wanted(samples, states)
        for prepared in self.prepare.slices(rows, self.slice_samples, masks):
            for name, rows in self.encode(prepared).items():
                parts[name].append(rows)
            spent.add(prepared)
        made = {name: pa.concat_tables(tables) for name, tables in parts.items()}
        return self.work.write(partition, samples, states, made, spent)


class Decode:
    """[partition number] → the partition's samples, decoded, and what that took."""

    def __init__(self, work: Work):
        from mmray.distributed.pools import use_own_cpus

        use_own_cpus()
        self.work = work
        self.prepare = preparation(work.config, work.storage, work.decoder, work.features)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Decode the partition."""
        from mmray.features.exchange import to_arrow

        (partition,) = block["partition"].to_pylist()
        spent = _Spent("actors", sandbox=self.prepare.sandbox)
        samples = self.work.index.read(self.work.storage, partition)
        prepared = self.prepare(*self.work.wanted(samples, self.work.states(partition, samples)))
        spent.add(prepared)
        decoded = to_arrow(prepared)
        told = {"partition": partition, "spent": json.dumps(spent.told())}
        for name, value in told.items():
            decoded = decoded.append_column(name, pa.array([value] * decoded.num_rows))
        return decoded


class Encode:
    """A decoded partition → its part files, written, and a report."""

    def __init__(self, work: Work):
        self.work = work
        self.encode = _encoding(work)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encode and write the partition."""
        from mmray.features.exchange import from_arrow

        partition = block["partition"][0].as_py()
        spent = _Spent("encoders", json.loads(block["spent"][0].as_py()))
        prepared = from_arrow(block.drop_columns(["partition", "spent"]))
        prepared.seconds.clear()  # those of decoding are told already
        made = self.encode(prepared)
        spent.add(prepared)
        samples = self.work.index.read(self.work.storage, partition)
        return self.work.write(partition, samples, self.work.states(partition, samples), made, spent)


def merged(
    ids: pa.ChunkedArray, todo: np.ndarray, made: pa.Table, earlier: pa.Table | None
) -> tuple[pa.Table, np.ndarray]:
    """A partition's rows in the order of `ids`: those `made` where `todo` says so, the others `earlier`.

    A row that failed before from the same media adds its attempts up. Returns the rows, and which of them
    are such rows, [N] bool.
    """
    again = np.zeros(len(todo), bool)
    if earlier is None:
        return made, again
    places = places_of(ids, earlier["sample_id"])
    before = earlier.take(pa.array(np.maximum(places[todo], 0)))
    same = (places[todo] >= 0) & pc.equal(before["media_key"], made["media_key"]).to_numpy()
    retried = same & failed_rows(before)
    errors = [
        {**new, "attempts": new["attempts"] + old["attempts"]} if new and old and twice else new
        for old, new, twice in zip(before["error"].to_pylist(), made["error"].to_pylist(), retried)
    ]
    at = made.schema.get_field_index("error")
    made = made.set_column(at, made.schema.field(at), pa.array(errors, made.schema.field(at).type))
    order = places.copy()
    order[todo] = earlier.num_rows + np.arange(made.num_rows)
    again[todo] = retried
    return pa.concat_tables([earlier, made]).take(pa.array(order)), again


class _Spent:
    """What an actor spends on a partition; `before` is what the actor before it in the line told."""

    def __init__(self, pool: str, before: dict[str, Any] | None = None, sandbox: Any = None):
        self.pool = pool
        self.sandbox = sandbox
        self.before = before or {"seconds": {}, "fetched_bytes": 0, "cpu_seconds": 0.0, "peak_rss_mb": {}}
        self.seconds: dict[str, float] = dict(self.before["seconds"])
        self.fetched_bytes: int = self.before["fetched_bytes"]
        self.cpu_start = self._used()[0]

    def add(self, prepared: Any) -> None:
        """Add what preparing and encoding some samples took."""
        add_seconds(self.seconds, prepared.seconds)
        self.fetched_bytes += prepared.fetched_bytes

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds inside as this stage's."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {name: time.perf_counter() - start})

    def told(self) -> dict[str, Any]:
        """Its part of a report. The peak is since the process began, in units of 10⁶ bytes."""
        cpu_seconds, peak = self._used()
        return {
            "seconds": self.seconds,
            "fetched_bytes": self.fetched_bytes,
            "cpu_seconds": self.before["cpu_seconds"] + cpu_seconds - self.cpu_start,
            "peak_rss_mb": {**self.before["peak_rss_mb"], self.pool: peak / 1e6},
        }

    def _used(self) -> tuple[float, int]:
        """CPU seconds and peak bytes of this process, and of its decoding child where there is one."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
        peak = used[0].ru_maxrss * 1024  # Linux counts KiB
        if self.sandbox:
            child_seconds, child_peak = self.sandbox.usage()
            cpu_seconds, peak = cpu_seconds + child_seconds, peak + child_peak
        return cpu_seconds, peak


def preparation(
    config: Config, storage: Storage, decoder: str, features: Mapping[str, Any] | None = None
) -> Any:
    """The `Preparation` of features (the config's), decoding in a child process where the config says so."""
    from mmray.decode.isolation import Sandbox
    from mmray.features.preparing import Preparation

    settings = config.extract
    sandbox = Sandbox(
        timeout_s=settings.decode_timeout_s,
        memory_mb=settings.decode_memory_mb,
        threads=max(1, int(settings.cpus_per_actor)),
    )
    return Preparation(features or config.features, storage, decoder, sandbox if settings.sandbox else None)


def _encoding(work: Work) -> Any:
    import torch

    from mmray.distributed.pools import use_own_cpus
    from mmray.features.device import Device
    from mmray.features.encoding import Encoding

    use_own_cpus()
    settings = work.config.extract
    name = "cuda" if torch.cuda.is_available() else "cpu"
    device = Device(name, settings.encode_batch, settings.precision)
    return Encoding(work.features, device=device, storage=work.storage)
