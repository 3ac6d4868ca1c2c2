"""What runs inside the actors of extraction: a partition's number → its file, and a report on it.

    DecodeAndEncode    number → report                        fused
    Decode, Encode     number → decoded rows → report         split

A report travels as JSON in a column: {notes, rows_now, retried, recovered, fetched_bytes, cpu_seconds,
seconds: {stage: s}, peak_rss_mb: {pool: MB}}.
"""

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from mmray.config import Config
from mmray.samples.index import SamplePlan
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import add_seconds, failed_rows, notes_of
from mmray.tables.parts import file_name, read_partition, write_partition

__all__ = ["Decode", "DecodeAndEncode", "Encode", "merge_retried", "preparation"]


class _Table:
    """The feature table as an actor reads and writes it."""

    def __init__(self, storage: Storage, folder: str, retry_failed: bool):
        self.storage = storage
        self.folder = folder
        self.retry_failed = retry_failed

    def earlier(self, partition: int) -> pa.Table | None:
        """The partition as it is, where its failed rows are to be done again."""
        if self.retry_failed and self.storage.exists(f"{self.folder}/{file_name(partition)}"):
            return read_partition(self.storage, self.folder, partition)
        return None

    def to_do(self, samples: pa.Table, earlier: pa.Table | None) -> pa.Table:
        """The samples to do: those whose rows failed, or all."""
        if earlier is None:
            return samples
        failed = failed_rows(earlier)
        # None where this very retry had got to it before it was stopped: doing it again does no harm.
        return samples.filter(pa.array(failed)) if any(failed) else samples

    def write(self, partition: int, rows: pa.Table, earlier: pa.Table | None, spent: "_Spent") -> pa.Table:
        """Write the rows just made, among those made earlier; returns the report."""
        with spent.stage("write"):
            whole = rows if earlier is None else merge_retried(earlier, rows)
            notes = write_partition(self.storage, self.folder, partition, whole, notes_of(whole))
        retried = 0 if earlier is None else rows.num_rows
        report = {
            "notes": notes,
            "rows_now": rows.num_rows,
            "retried": retried,
            "recovered": failed_rows(rows).count(False) if retried else 0,
            **spent.told(),
        }
        return pa.table({"partition": [partition], "report": [json.dumps(report)]})


class DecodeAndEncode:
    """[partition number] → its file, written, and a report.

    Takes a partition in slices that fill the encoder once, so that a few clips' frames are held, not
    a partition's.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        plan: SamplePlan,
        decoder: str,
        folder: str,
        retry_failed: bool,
    ):
        self.storage = storage
        self.plan = plan
        self.table = _Table(storage, folder, retry_failed)
        self.prepare = preparation(config, storage, decoder)
        self.encode = _encoding(config, storage)
        frames = [getattr(feature, "frames", 1) for feature in config.features.values()]
        self.slice_samples = max(1, config.extract.encode_batch // max(frames, default=1))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Do the partition from end to end."""
        (partition,) = block["partition"].to_pylist()
        spent = _Spent("actors", sandbox=self.prepare.sandbox)
        earlier = self.table.earlier(partition)
        samples = self.table.to_do(self.plan.read(self.storage, partition), earlier)
        tables = []
        for prepared in self.prepare.slices(samples, self.slice_samples):
            tables.append(self.encode(prepared))
            spent.add(prepared)
        return self.table.write(partition, pa.concat_tables(tables), earlier, spent)


class Decode:
    """[partition number] → the partition's samples, decoded, and what that took."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        plan: SamplePlan,
        decoder: str,
        folder: str,
        retry_failed: bool,
    ):
        from mmray.distributed.pools import use_own_cpus

        use_own_cpus()
        self.storage = storage
        self.plan = plan
        self.table = _Table(storage, folder, retry_failed)
        self.prepare = preparation(config, storage, decoder)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Decode the partition."""
        from mmray.features.exchange import to_arrow

        (partition,) = block["partition"].to_pylist()
        spent = _Spent("actors", sandbox=self.prepare.sandbox)
        samples = self.plan.read(self.storage, partition)
        prepared = self.prepare(self.table.to_do(samples, self.table.earlier(partition)))
        spent.add(prepared)
        decoded = to_arrow(prepared)
        told = {"partition": partition, "spent": json.dumps(spent.told())}
        for name, value in told.items():
            decoded = decoded.append_column(name, pa.array([value] * decoded.num_rows))
        return decoded


class Encode:
    """A decoded partition → its file, written, and a report."""

    def __init__(self, config: Config, storage: Storage, folder: str, retry_failed: bool):
        self.table = _Table(storage, folder, retry_failed)
        self.encode = _encoding(config, storage)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encode and write the partition."""
        from mmray.features.exchange import from_arrow

        partition = block["partition"][0].as_py()
        spent = _Spent("encoders", json.loads(block["spent"][0].as_py()))
        prepared = from_arrow(block.drop_columns(["partition", "spent"]))
        prepared.seconds.clear()  # those of decoding are told already
        rows = self.encode(prepared)
        spent.add(prepared)
        return self.table.write(partition, rows, self.table.earlier(partition), spent)


def merge_retried(earlier: pa.Table, retried: pa.Table) -> pa.Table:
    """The earlier rows, those done again in their places; their attempts add up.

    Both are rows of the feature table; `retried` has some of the ids of `earlier`, in the same order.
    """
    rows_of = {sample_id: row for row, sample_id in enumerate(earlier["sample_id"].to_pylist())}
    places = [rows_of[sample_id] for sample_id in retried["sample_id"].to_pylist()]
    before = earlier["errors"].take(pa.array(places, pa.int64())).to_pylist()
    errors = [_attempts_added(old, new) for old, new in zip(before, retried["errors"].to_pylist())]
    at = retried.schema.get_field_index("errors")
    retried = retried.set_column(
        at, retried.schema.field(at), pa.array(errors, retried.schema.field(at).type)
    )
    order = list(range(earlier.num_rows))
    for row, place in enumerate(places, start=earlier.num_rows):
        order[place] = row
    return pa.concat_tables([earlier, retried]).take(pa.array(order, pa.int64()))


def _attempts_added(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = {error["modality"]: error["attempts"] for error in old if error["reason"] != "absent"}
    return [{**error, "attempts": error["attempts"] + made.get(error["modality"], 0)} for error in new]


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


def preparation(config: Config, storage: Storage, decoder: str) -> Any:
    """The `Preparation` of the config's features, decoding in a child process where the config says so."""
    from mmray.decode.isolation import Sandbox
    from mmray.features.preparing import Preparation

    settings = config.extract
    sandbox = Sandbox(
        timeout_s=settings.decode_timeout_s,
        memory_mb=settings.decode_memory_mb,
        threads=max(1, int(settings.cpus_per_actor)),
    )
    return Preparation(config.features, storage, decoder, sandbox if settings.sandbox else None)


def _encoding(config: Config, storage: Storage) -> Any:
    import torch

    from mmray.distributed.pools import use_own_cpus
    from mmray.features.device import Device
    from mmray.features.encoding import Encoding

    use_own_cpus()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Encoding(
        config.features,
        config.targets,
        device=Device(device, config.extract.encode_batch, config.extract.precision),
        storage=storage,
    )
