"""Samples in, feature tables out: Ray Data streams partitions through decoding and encoding actors.

    source ──▶ index ──▶ partitions ──▶ [fetch → decode → encode → write] ──▶ features/face-…/part-000042
                                                  slices │ ▲ vectors          features/voice-…/part-000042
                                                         ▼ │
                                             [encode]  where split: a pool on GPUs

Only what is missing is made: a feature without a table, samples that are new, samples whose media are others
now. A part file is written whole; to resume is to run again. To retry is to take the partitions that note
failures, do their failed rows again, and put each file in place of the old one.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import ExtractPlan, Node, plan_extract
from mmray.errors import TableError
from mmray.samples.index import Index
from mmray.samples.of_arrays import project_index
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.accounting import Tally, cost, rates
from mmray.tables.features import FeatureTable, complete_tables, states, tables_to_make
from mmray.tables.identity import hash_of
from mmray.tables.parts import done_partitions, write_digests

__all__ = ["extract", "extract_summary", "extraction_summary", "finish", "summary_uri"]


@one_driver
def extract(config: ConfigLike, address: str | None = None, *, retry_failed: bool = False) -> dict[str, Any]:
    """Bring the tables of the features (but for imported ones) to completion and return a summary.

    With `retry_failed`, rows of finished partitions that have a failure are done again as well.

    Raises:
        ConfigError, SamplesError, StorageError, TableError, PlanError: before anything is computed;
            TableError also where all features are imported ones.
        BudgetError: when too large a share of the samples failed.
        WorkerError: when actors die again and again.
    """
    config = as_config(config)
    extracted = {name: feature for name, feature in config.features.items() if feature.kind != "imported"}
    if not extracted:
        raise TableError(f"features {', '.join(config.features)} are imported; run `mmray import-features`")
    start = time.perf_counter()
    storage = Storage(config.storage)
    index = project_index(config, storage)
    config = config.model_copy(update={"features": extracted})
    complete = complete_tables(config, storage, index)
    finished = extract_summary(config, storage, index, complete)
    if finished and not (retry_failed and finished["failed_rows"]):
        features = {name: {**told, "rows_this_run": 0} for name, told in finished["features"].items()}
        return {**finished, "rows_this_run": 0, "retried": 0, "recovered": 0, "features": features}

    redone = {name for name, table in complete.items() if retry_failed and table.summary["failed_rows"]}  # pyright: ignore[reportOptionalSubscript]
    missing = [name for name in config.features if name not in complete or name in redone]
    tables = _tables(config, index, complete, missing, _device_of_earlier(config, storage, index, missing))
    tally, todo, lacking = _state(storage, index, tables, retry_failed)
    placed = {}
    if todo:
        device = _device(config, address, len(todo))
        tables = _tables(config, index, complete, missing, device)
        tally, todo, lacking = _state(storage, index, tables, retry_failed)
        tally.check_budget(config.extract.max_failed_fraction, index.rows)
        for name in lacking:  # until it is whole again, the table is one that is being made
            storage.remove(f"{tables[name].folder}/_summary.json")
        placed = _extract(config, storage, index, tables, lacking, todo, tally, retry_failed)
    tally.check_budget(config.extract.max_failed_fraction, index.rows)
    if tally.rows != index.rows:
        raise AssertionError(f"{config.output}: {tally.rows} rows counted of {index.rows} samples")
    summary = extraction_summary(config, index, tables, tally, time.perf_counter() - start, placed)
    for table in tables.values():
        finish(storage, index, table, tally)
    storage.write_json(summary_uri(config, summary["features"]), summary)
    return summary


def extract_summary(
    config: Config, storage: Storage, index: Index, complete: Mapping[str, FeatureTable]
) -> dict[str, Any] | None:
    """The summary of the extraction that made these tables complete for the index, if it ended."""
    if complete.keys() != config.features.keys():
        return None
    told = {name: table.summary or {} for name, table in complete.items()}
    summary = storage.read_json(summary_uri(config, told))
    same = summary and summary["state"] == _state_digest(index, told)
    return summary if same else None


def summary_uri(config: Config, features: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the summary of an extraction of these tables is."""
    fingerprints = {name: told["fingerprint"] for name, told in features.items()}
    return config.path("features", f"_extract-{hash_of(fingerprints)}.json")


def _state_digest(index: Index, features: Mapping[str, Mapping[str, Any]]) -> str:
    contents = {name: [told["content"], told["media"]] for name, told in features.items()}
    return hash_of([index.digest, contents])


def _tables(
    config: Config, index: Index, complete: dict[str, FeatureTable], missing: list[str], device: str
) -> dict[str, FeatureTable]:
    """All features' tables, in the order of the config."""
    tables = {**complete, **tables_to_make(config, missing, device, index.split_digest)}
    return {name: tables[name] for name in config.features}


def finish(storage: Storage, index: Index, table: FeatureTable, tally: Tally) -> None:
    """Say beside a table that it is complete for this index."""
    summary = _feature_summary(index, table, tally)
    if storage.read_json(f"{table.folder}/_summary.json") != summary:
        storage.write_json(f"{table.folder}/_spec.json", table.spec)
        write_digests(storage, table.folder, tally.features[table.name].digests)
        storage.write_json(f"{table.folder}/_summary.json", summary)


def _feature_summary(index: Index, table: FeatureTable, tally: Tally) -> dict[str, Any]:
    return {
        "feature": table.name,
        "fingerprint": table.fingerprint,
        "source": table.source,
        "rows": index.rows,
        **tally.features[table.name].summary(),
        "media": index.media_digest(table.source),
    }


def extraction_summary(
    config: Config,
    index: Index,
    tables: dict[str, FeatureTable],
    tally: Tally,
    seconds: float,
    placed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What an extraction (or an import) that ended tells; `placed`: where it ran and what that took."""
    features = {
        name: {
            **_feature_summary(index, table, tally),
            "rows_this_run": tally.features[name].rows_now,
            "output": table.folder,
        }
        for name, table in tables.items()
    }
    return {
        "rows": tally.rows,
        "failed_rows": tally.failed_rows,
        "failures": tally.failures(),
        "seconds": round(seconds, 3),
        "rows_this_run": tally.rows_now,
        "retried": tally.retried,
        "recovered": tally.recovered,
        **(placed or {}),
        "partitions": len(index.partitions),
        "features": features,
        "samples": index.digest,
        "state": _state_digest(index, features),
        "splits": index.splits,
        "notes": [*index.leaks, *index.notes],
        "output": config.path("features"),
    }


def _device_of_earlier(config: Config, storage: Storage, index: Index, missing: list[str]) -> str:
    """`cuda` or `cpu`: what made the tables that are begun, if any are."""
    there = storage.names(config.path("features"))
    on_gpu = tables_to_make(config, missing, "cuda", index.split_digest).values()
    return "cuda" if any(table.folder.rpartition("/")[2] in there for table in on_gpu) else "cpu"


def _device(config: Config, address: str | None, partitions: int) -> str:
    """`cuda` or `cpu`: what the actors that encode will compute on."""
    from mmray.distributed import pools as cluster  # Ray, only where there is work

    cluster.connect(address, config.cluster)
    pools = plan_extract(config.extract, cluster.nodes(), partitions)
    return "cuda" if (pools.encoders or pools.actors).gpus else "cpu"


def _state(
    storage: Storage,
    index: Index,
    tables: dict[str, FeatureTable],
    retry_failed: bool,
) -> tuple[Tally, list[int], list[str]]:
    """What is there, the partitions still to do, and the features of which any is."""
    tally, todo, lacking = Tally(list(tables)), [], set()
    there = {name: done_partitions(storage, table.folder) for name, table in tables.items()}
    streams = {name: states(storage, index, table, there[name]) for name, table in tables.items()}
    for partition, size in zip(index.partitions.tolist(), index.sizes.tolist()):
        found = {name: next(stream) for name, stream in streams.items()}
        notes = {name: state.notes for name, state in found.items() if state.notes}
        undone = {name for name in found if name not in notes}
        if retry_failed:
            undone |= {name for name in notes if notes[name]["failures"]}
        if undone:
            todo.append(partition)
            lacking |= undone
        else:
            tally.add_notes(partition, size, notes)
    return tally, todo, [name for name in tables if name in lacking]


def _extract(
    config: Config,
    storage: Storage,
    index: Index,
    tables: dict[str, FeatureTable],
    missing: list[str],
    todo: list[int],
    tally: Tally,
    retry_failed: bool,
) -> dict[str, Any]:
    """Do these partitions, counting them; returns where they ran and what that took."""
    from mmray.distributed import pools as cluster
    from mmray.distributed.metrics import Progress
    from mmray.stages.extract_actors import Encode, Extract, Work

    pools = plan_extract(config.extract, cluster.nodes(), len(todo))
    decoder = _decoder(config, tables, missing)
    work = Work(config, storage, index, tables, tuple(missing), retry_failed, decoder)

    def stage(nodes: list[Node], partitions: int) -> cluster.Stage:
        nonlocal pools
        pools = plan_extract(config.extract, nodes, partitions)
        servers = cluster.Stage(Encode, pools.encoders, {"work": work}) if pools.encoders else None
        limit_s = config.extract.stall_timeout_s
        return cluster.Stage(Extract, pools.actors, {"work": work}, servers, limit_s)

    start = time.perf_counter()
    encoders = pools.encoders.size if pools.encoders else 0
    left = index.rows - tally.rows
    watched = Progress(config.name, "extract", rows=left, partitions=len(todo), encoders=encoders)
    with console.progress("extract", total=index.rows, done=tally.rows) as meter:
        for row in cluster.stream_partitions(todo, stage):
            report = json.loads(row["report"])
            tally.add_report(row["partition"], report)
            watched.partition(report["rows"], report)
            rate = tally.rows_now / (time.perf_counter() - start)
            meter.advance(report["rows"], f"{rate:.1f}/s, {tally.failed_rows} failed")
            tally.check_budget(config.extract.max_failed_fraction, index.rows)
    return _spent(config, tally, pools, time.perf_counter() - start)


def _decoder(config: Config, tables: dict[str, FeatureTable], missing: list[str]) -> str:
    """The decoder of frames that the tables' environment names: the same on every machine."""
    for name in missing:
        if decoders := tables[name].spec["environment"].get("decoders"):
            return decoders.get("frames", config.extract.decoder)
    return config.extract.decoder


def _spent(config: Config, tally: Tally, pools: ExtractPlan, wall_s: float) -> dict[str, Any]:
    """Where it ran, how fast, and what it took."""
    held = [pool for pool in (pools.actors, pools.encoders) if pool]
    price = cost(
        rows=tally.rows_now,
        wall_s=wall_s,
        cpus=sum(pool.size * pool.cpus for pool in held),
        gpus=sum(pool.size * pool.gpus for pool in held),
        price_per_cpu_hour=config.extract.price_per_cpu_hour,
        price_per_gpu_hour=config.extract.price_per_gpu_hour,
    )
    rate = rates(rows=tally.rows_now, fetched_bytes=tally.fetched_bytes, wall_s=wall_s)
    return {
        "placement": pools.placement,
        "actors": pools.actors.size,
        "encoders": pools.encoders.size if pools.encoders else 0,
        "stage_seconds": {stage: round(value, 3) for stage, value in tally.seconds.items()},
        **{name: round(value, 3) for name, value in rate.items()},
        "fetched_bytes": tally.fetched_bytes,
        "cpu_seconds": round(tally.cpu_seconds, 3),
        "peak_rss_mb": {pool: round(value) for pool, value in tally.peak_rss_mb.items()},
        "cost_per_1000": price and round(price, 6),
    }
