"""Samples in, feature table out: Ray Data streams partitions through decoding and encoding actors.

    manifest ──plan──▶ partitions ──▶ [fetch → decode] ──▶ [encode → write] ──▶ part-000042.parquet
                                      one actor (fused) or two pools (split)

A partition whose file exists is done; to resume is to run again. The fingerprint of what makes the
features is written first and compared ever after.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from mmray.config import Config
from mmray.errors import BudgetError, TableError
from mmray.fingerprint import feature_spec, hash_of, require_same
from mmray.partitions import done_partitions, read_partition, write_partition
from mmray.plan import ExtractPlan, plan_extract
from mmray.samples.manifest import SamplePlan, plan_samples
from mmray.storage import Storage, absolute_paths
from pipelines import console

__all__ = ["extract", "features_folder"]

BUDGET_ROWS = 256  # the share of failures is judged from this many rows on


def extract(config: Config, address: str | None = None) -> dict[str, Any]:
    """Bring the feature table to completion and return its summary.

    Raises:
        SamplesError, StorageError, TableError, PlanError: before anything is computed; TableError also where
            the features are imported ones.
        BudgetError: when too large a share of the samples failed.
    """
    config = absolute_paths(config)
    if imported := [name for name, feature in config.features.items() if feature.kind == "imported"]:
        raise TableError(f"features {', '.join(imported)} are imported; run `mmray import-features`")
    storage, folder = Storage(config.storage), features_folder(config)
    plan = plan_samples(config, storage, f"{folder}/_plan")
    spec = feature_spec(config)
    finished = _compare_with_disk(storage, folder, spec, plan)
    if finished:
        return finished

    done = done_partitions(storage, folder)
    todo = sorted(set(range(plan.partitions)) - set(done))
    tally, start = Tally(), time.perf_counter()
    for report in _reports_from_disk(storage, folder, done):
        tally.add(report)
    tally.check_budget(config.extract.max_failed_fraction, plan.rows)
    earlier_rows = tally.rows
    placed = _extract(config, storage, folder, plan, todo, tally, address, spec) if todo else {}
    if tally.rows != plan.rows:
        raise AssertionError(f"{folder}: {tally.rows} rows written for {plan.rows} samples")
    summary = {
        "rows": tally.rows,
        "failed_rows": tally.failed_rows,
        "failures": tally.failures(),
        "seconds": round(time.perf_counter() - start, 3),
        "rows_this_run": tally.rows - earlier_rows,
        "stage_seconds": {stage: round(value, 3) for stage, value in tally.seconds.items()},
        "partitions": plan.partitions,
        **placed,
        "fingerprint": hash_of(spec),
        "samples": plan.digest,
        "splits": plan.splits,
        "output": folder,
    }
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def _extract(
    config: Config,
    storage: Storage,
    folder: str,
    plan: SamplePlan,
    todo: list[int],
    tally: "Tally",
    address: str | None,
    spec: dict[str, Any],
) -> dict[str, Any]:
    """Do the partitions that are not there yet, counting them; returns where they ran."""
    from pipelines import cluster  # Ray, only where there is work

    cluster.connect(address)
    pools = plan_extract(config.extract, cluster.nodes(), len(todo))
    storage.write_json(f"{folder}/_spec.json", {**spec, "fingerprint": hash_of(spec)})
    with console.progress("extract", total=plan.rows, done=tally.rows) as meter:
        for report in cluster.stream_partitions(todo, _stages(config, storage, folder, plan, pools)):
            tally.add(report)
            meter.advance(report["rows"], f"{tally.failed_rows} failed")
            tally.check_budget(config.extract.max_failed_fraction, plan.rows)
    encoders = pools.encoders.size if pools.encoders else 0
    return {"placement": pools.placement, "actors": pools.actors.size, "encoders": encoders}


def features_folder(config: Config) -> str:
    """Where the feature table is."""
    return config.path("features")


def _compare_with_disk(
    storage: Storage, folder: str, spec: dict[str, Any], plan: SamplePlan
) -> dict[str, Any] | None:
    """The summary of a finished table; refuses a table made with other settings."""
    if made_with := storage.read_json(f"{folder}/_spec.json"):
        made_with.pop("fingerprint")
        remedy = "set these back, give another `output`, or delete the folder to start over"
        require_same(folder, made_with, spec, remedy)
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary and len(done_partitions(storage, folder)) == plan.partitions:
        return {**summary, "rows_this_run": 0}
    return None


# ------------------------------------------------------------------------------------ actors


def _stages(config: Config, storage: Storage, folder: str, plan: SamplePlan, pools: ExtractPlan) -> list:
    decode = {"config": config, "storage": storage, "plan": plan}
    encode = {"config": config, "storage": storage, "folder": folder}
    if pools.encoders is None:
        return [(DecodeAndEncode, pools.actors, {**decode, **encode})]
    return [(Decode, pools.actors, decode), (Encode, pools.encoders, encode)]


class Decode:
    """[partition number] → the partition's samples, decoded."""

    def __init__(self, config: Config, storage: Storage, plan: SamplePlan):
        from mmray.extraction import Preparation
        from pipelines.cluster import use_own_cpus

        use_own_cpus()
        self.storage = storage
        self.plan = plan
        self.prepare = Preparation(config.features, storage)

    def __call__(self, block: pa.Table) -> pa.Table:
        from mmray.extraction import to_arrow

        (partition,) = block["partition"].to_pylist()
        decoded = to_arrow(self.prepare(self.plan.read(self.storage, partition)))
        return decoded.append_column("partition", pa.array([partition] * decoded.num_rows))


class Encode:
    """A decoded partition → its file, written, and a row that reports on it."""

    def __init__(self, config: Config, storage: Storage, folder: str):
        self.storage = storage
        self.folder = folder
        self.encode = _encoding(config)

    def __call__(self, block: pa.Table) -> pa.Table:
        from mmray.extraction import from_arrow

        prepared = from_arrow(block.drop_columns("partition"))
        rows = self.encode(prepared)
        return _write(self.storage, self.folder, block["partition"][0].as_py(), rows, prepared.seconds)


class DecodeAndEncode:
    """[partition number] → its file, written, and a row that reports on it.

    Takes a partition in slices that fill the encoder once, so that a few clips' frames are held, not
    a partition's.
    """

    def __init__(self, config: Config, storage: Storage, plan: SamplePlan, folder: str):
        from mmray.extraction import Preparation

        self.storage = storage
        self.plan = plan
        self.folder = folder
        self.prepare = Preparation(config.features, storage)
        self.encode = _encoding(config)
        frames = [feature.frames for feature in config.features.values() if feature.kind == "frames"]
        self.slice_samples = max(1, config.extract.encode_batch // max(frames, default=1))

    def __call__(self, block: pa.Table) -> pa.Table:
        (partition,) = block["partition"].to_pylist()
        samples = self.plan.read(self.storage, partition)
        seconds: dict[str, float] = defaultdict(float)
        tables = []
        for at in range(0, samples.num_rows, self.slice_samples):
            prepared = self.prepare(samples.slice(at, self.slice_samples))
            tables.append(self.encode(prepared))
            _add(seconds, prepared.seconds)
        return _write(self.storage, self.folder, partition, pa.concat_tables(tables), seconds)


def _encoding(config: Config) -> Any:
    import torch

    from mmray.extraction import Encoding
    from pipelines.cluster import use_own_cpus

    use_own_cpus()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Encoding(config.features, config.targets, encode_batch=config.extract.encode_batch, device=device)


def _write(
    storage: Storage, folder: str, partition: int, rows: pa.Table, seconds: dict[str, float]
) -> pa.Table:
    start = time.perf_counter()
    size = write_partition(storage, folder, partition, rows)
    seconds["write"] += time.perf_counter() - start
    report = {**_count(rows), "partition": partition, "bytes": size, "seconds": json.dumps(seconds)}
    return pa.table({key: [value] for key, value in report.items()})


# ------------------------------------------------------------------------------------ counting


class Tally:
    """Rows and failures so far, by feature and reason."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed_rows = 0
        self.by_reason: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)

    def add(self, report: dict[str, Any]) -> None:
        """Count one partition's report."""
        self.rows += report["rows"]
        self.failed_rows += report["failed_rows"]
        self.by_reason.update({(m, r): n for m, r, n in json.loads(report["failures"])})
        _add(self.seconds, json.loads(report.get("seconds", "{}")))

    def failures(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        ordered = sorted(self.by_reason.items(), key=lambda item: (-item[1], item[0]))
        return [{"modality": m, "reason": r, "count": n} for (m, r), n in ordered]

    def check_budget(self, max_failed_fraction: float, all_rows: int) -> None:
        """Raise BudgetError where too many of the rows so far failed."""
        judged = self.rows >= min(BUDGET_ROWS, all_rows)
        if judged and self.failed_rows > max_failed_fraction * self.rows:
            top = ", ".join(f"{f['count']} × {f['modality']} {f['reason']}" for f in self.failures()[:5])
            raise BudgetError(
                f"{self.failed_rows} of {self.rows} samples failed, more than extract.max_failed_fraction "
                f"= {max_failed_fraction:g} allows: {top}; what is written stays, with a higher limit the "
                "same command goes on from there"
            )


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for stage, seconds in more.items():
        total[stage] += seconds


def _count(rows: pa.Table) -> dict[str, Any]:
    """Rows, failed rows and failures of a partition; `absent` modalities are not failures."""
    failed = [
        {(error["modality"], error["reason"]) for error in errors if error["reason"] != "absent"}
        for errors in rows["errors"].to_pylist()
    ]
    by_reason = Counter(pair for pairs in failed for pair in pairs)
    return {
        "rows": rows.num_rows,
        "failed_rows": sum(map(bool, failed)),
        "failures": json.dumps([[m, r, n] for (m, r), n in by_reason.items()]),
    }


def _reports_from_disk(storage: Storage, folder: str, partitions: list[int]) -> Iterable[dict[str, Any]]:
    """Counts of partitions that an earlier run wrote, from their `errors` alone."""
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(
            lambda partition: _count(read_partition(storage, folder, partition, ["errors"])), partitions
        )
