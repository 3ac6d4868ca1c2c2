"""What runs inside the actors of extraction: a partition's number → its part files, and a report on it.

    Extract              number → report             fused
    Extract ⇄ Encode     number → report             split: slices go to a pool of encoders and come back

An actor that has a partition has all of it: what is decoded never stands in a queue of Ray Data, what comes
back from an encoder is small, and to lose an encoder is to ask again.

What is missing of a partition is looked up where the work is done: of each feature the rows that its part
file lacks, or holds of other media (and, with `retry_failed`, those that failed). So several features that
are missing share one fetch and decode, and what was written before a kill is not done again.

A report travels as JSON in a column: {rows, notes: {feature: notes}, made: {feature: rows}, rows_now,
retried, recovered, fetched_bytes, cpu_seconds, seconds: {stage: s}, peak_rss_mb: {pool: MB}}.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import contextlib
import json
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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

__all__ = ["Encode", "Extract", "Work", "merged", "preparation"]


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
        return samples.filter(pa.array(rows)), {name: mask[rows].tolist() for name, mask in todo.items()}

    @property
    def features(self) -> dict[str, Any]:
        """The features to be made."""
        return {name: self.config.features[name] for name in self.missing}


class Extract:
    """[partition number] → its part files, written, and a report.

    A partition is taken in slices: while one is encoded, elsewhere or here, no more than the next is held.
    What encoders give is small, and is put together and written here.
    """

    def __init__(self, work: Work, servers: Sequence[Any] | None = None):
        """`servers` are `Encode` actors; without them this actor encodes as well."""
        from mmray.distributed.pools import use_own_cpus

        self.work = work
        self.prepare = preparation(work.config, work.storage, work.decoder, work.features)
        if servers is None:
            use_own_cpus()
            self.encoding: Any = _Here(work)
        else:
            self.encoding = _There(servers)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Do the partition from end to end."""
        from mmray.features.encoding import tables_of

        (partition,) = block["partition"].to_pylist()
        spent = _Spent("actors", sandbox=self.prepare.sandbox)
        samples = self.work.index.read(self.work.storage, partition)
        states = self.work.states(partition, samples)
        parts: dict[str, list[pa.Table]] = {name: [] for name in self.work.missing}
        begun: deque[tuple[Any, Callable[[], Any]]] = deque()

        def finish() -> None:
            prepared, encoded = begun.popleft()
            with spent.stage(self.encoding.stage):
                vectors = encoded()
            tables = tables_of(self.work.features, self.encoding.shapes, prepared, vectors)
            for name, rows in tables.items():
                parts[name].append(rows)
            spent.add(prepared)

        for prepared in self.prepare.slices(*self.work.wanted(samples, states)):
            begun.append((prepared, self.encoding.begin(prepared)))
            if len(begun) > self.encoding.ahead:
                finish()
        while begun:
            finish()
        made = {name: pa.concat_tables(tables) for name, tables in parts.items() if tables}
        return self.work.write(partition, samples, states, made, spent.and_of(self.encoding.spent))


class _Here:
    """Encodes in this process."""

    ahead = 0
    stage = "encode"

    def __init__(self, work: Work):
        self.encoding = _encoding(work)
        self.shapes = self.encoding.shapes
        self.spent = no_spending()

    def begin(self, prepared: Any) -> Callable[[], Any]:
        from mmray.features.encoding import encodable

        return lambda: self.encoding.encode(encodable(prepared, self.encoding.encoders))


class _There:
    """Encodes in a pool of `Encode` actors, a slice a question; a longer value than that goes in pieces."""

    ahead = 1
    stage = "wait"

    def __init__(self, handles: Sequence[Any]):
        from mmray.distributed.serving import Servers

        self.spent = no_spending()
        self.servers = Servers(handles)
        self.shapes, self.cuts = self.servers.ask("about")()

    def begin(self, prepared: Any) -> Callable[[], Any]:
        from mmray.features.base import SLICE_BYTES, pieces, whole
        from mmray.features.encoding import encodable

        answers: dict[str, list[Any]] = {name: [] for name in self.cuts}
        counts: dict[str, list[int]] = {name: [] for name in self.cuts}
        for name, steps in encodable(prepared, self.cuts).items():
            question: list[Any] = []
            size = 0
            for step in steps:
                cut = pieces(step, self.cuts[name], SLICE_BYTES)
                counts[name].append(len(cut))
                for piece in cut:
                    nbytes = getattr(piece.value, "nbytes", 0)
                    if question and size + nbytes > SLICE_BYTES:
                        answers[name].append(self.servers.ask("encode", name, question))
                        question, size = [], 0
                    question.append(piece)
                    size += nbytes
            if question:
                answers[name].append(self.servers.ask("encode", name, question))

        def encoded() -> dict[str, list[Any]]:
            found = {}
            for name, asked in answers.items():
                told = [answer() for answer in asked]
                each = iter([step for steps, _ in told for step in steps])
                for _, spent in told:
                    add_spending(self.spent, spent)
                found[name] = [whole([next(each) for _ in range(count)]) for count in counts[name]]
            return found

        return encoded


class Encode:
    """A server: steps of a feature → their vectors. It does nothing else."""

    def __init__(self, work: Work):
        self.encoding = _encoding(work)
        self.ended: float | None = None

    def about(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """{feature: shape of its table} and {feature that is encoded: where a long step may be cut}."""
        return self.encoding.shapes, self.encoding.cuts

    def encode(self, name: str, steps: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The vectors of each step, or why there are none; and what that took, the wait before it too."""
        spent = _Spent("encoders")
        spent.seconds["encoder_idle"] = 0.0 if self.ended is None else time.perf_counter() - self.ended
        with spent.stage("encode"):
            vectors = self.encoding.encode({name: list(steps)})[name]
        self.ended = time.perf_counter()
        return vectors, spent.told()


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
    """What an actor spends on a partition."""

    def __init__(self, pool: str, sandbox: Any = None):
        self.pool = pool
        self.sandbox = sandbox
        self.seconds: dict[str, float] = {}
        self.fetched_bytes = 0
        self.elsewhere = no_spending()
        self.cpu_start = self._used()[0]

    def add(self, prepared: Any) -> None:
        """Add what preparing and encoding some samples took."""
        add_seconds(self.seconds, prepared.seconds)
        self.fetched_bytes += prepared.fetched_bytes

    def and_of(self, elsewhere: dict[str, Any]) -> "_Spent":
        """With what actors of another pool told, which is told only once."""
        self.elsewhere = {**elsewhere}
        elsewhere.update(no_spending())
        return self

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds inside as this stage's."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {name: time.perf_counter() - start})

    def told(self) -> dict[str, Any]:
        """Its part of a report. The peak is since the process began, in units of 10⁶ bytes."""
        cpu_seconds, peak = self._used()
        told = {
            "seconds": self.seconds,
            "fetched_bytes": self.fetched_bytes,
            "cpu_seconds": cpu_seconds - self.cpu_start,
            "peak_rss_mb": {self.pool: peak / 1e6},
        }
        return add_spending(told, self.elsewhere)

    def _used(self) -> tuple[float, int]:
        """CPU seconds and peak bytes of this process, and of its decoding child where there is one."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
        peak = used[0].ru_maxrss * 1024  # Linux counts KiB
        if self.sandbox:
            child_seconds, child_peak = self.sandbox.usage()
            cpu_seconds, peak = cpu_seconds + child_seconds, peak + child_peak
        return cpu_seconds, peak


def no_spending() -> dict[str, Any]:
    """Nothing, in the form of a report."""
    return {"seconds": {}, "fetched_bytes": 0, "cpu_seconds": 0.0, "peak_rss_mb": {}}


def add_spending(total: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add what was told of some work to that of other work; returns the total."""
    add_seconds(total["seconds"], more["seconds"])
    for key in ("fetched_bytes", "cpu_seconds"):
        total[key] += more[key]
    for pool, peak in more["peak_rss_mb"].items():
        total["peak_rss_mb"][pool] = max(peak, total["peak_rss_mb"].get(pool, 0.0))
    return total


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
    from mmray.distributed.pools import own_device, use_own_cpus
    from mmray.features.device import Device
    from mmray.features.encoding import Encoding

    use_own_cpus()
    settings = work.config.extract
    device = Device(own_device(), settings.encode_batch, settings.precision)
    return Encoding(work.features, device=device, storage=work.storage)
