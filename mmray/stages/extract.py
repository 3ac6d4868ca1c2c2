"""Samples in, feature table out: Ray Data streams partitions through decoding and encoding actors.

    manifest ──plan──▶ partitions ──▶ [fetch → decode] ──▶ [encode → write] ──▶ part-000042.parquet
                                      one actor (fused) or two pools (split)

A partition whose file exists is done; to resume is to run again. To retry is to take the partitions that
note failures, do their failed rows again, and put each file in place of the old one. The fingerprint of
what makes the features is written first and compared ever after.
"""

import json
import time
from typing import Any

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import ExtractPlan, Node, plan_extract
from mmray.errors import TableError
from mmray.samples.index import SamplePlan, plan_samples
from mmray.storage.filesystem import Storage
from mmray.tables.accounting import Tally, cost, rates
from mmray.tables.identity import feature_spec, hash_of, require_same
from mmray.tables.parts import done_partitions, read_notes

__all__ = ["extract", "features_folder"]


def extract(config: ConfigLike, address: str | None = None, *, retry_failed: bool = False) -> dict[str, Any]:
    """Bring the feature table to completion and return its summary.

    With `retry_failed`, rows of finished partitions that have a failure are done again as well.

    Raises:
        ConfigError, SamplesError, StorageError, TableError, PlanError: before anything is computed;
            TableError also where the features are imported ones.
        BudgetError: when too large a share of the samples failed.
        WorkerError: when actors die again and again.
    """
    config = as_config(config)
    if imported := [name for name, feature in config.features.items() if feature.kind == "imported"]:
        raise TableError(f"features {', '.join(imported)} are imported; run `mmray import-features`")
    storage, folder = Storage(config.storage), features_folder(config)
    plan = plan_samples(config, storage, f"{folder}/_plan")
    finished, spec = _compare_with_disk(config, storage, folder, plan, retry_failed)
    if finished and not (retry_failed and finished["failed_rows"]):
        return finished

    start = time.perf_counter()
    tally, todo = _state(storage, folder, plan, retry_failed)
    tally.check_budget(config.extract.max_failed_fraction, plan.rows)
    placed = {}
    if todo:
        # Until it is whole again, the table is one that is being made.
        storage.write_json(f"{folder}/_summary.json", None)
        storage.write_json(f"{folder}/_spec.json", {**spec, "fingerprint": hash_of(spec)})
        placed = _extract(config, storage, folder, plan, todo, tally, address, spec, retry_failed)
    if tally.rows != plan.rows:
        raise AssertionError(f"{folder}: {tally.rows} rows written for {plan.rows} samples")
    summary = {
        "rows": tally.rows,
        "failed_rows": tally.failed_rows,
        "failures": tally.failures(),
        "seconds": round(time.perf_counter() - start, 3),
        "rows_this_run": tally.rows_now,
        "retried": tally.retried,
        "recovered": tally.recovered,
        **placed,
        "partitions": plan.partitions,
        "fingerprint": hash_of(spec),
        "content": f"{tally.content:016x}",
        "samples": plan.digest,
        "splits": plan.splits,
        "damaged_shards": plan.damage,
        "output": folder,
    }
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def features_folder(config: Config) -> str:
    """Where the feature table is."""
    return config.path("features")


def _compare_with_disk(
    config: Config, storage: Storage, folder: str, plan: SamplePlan, retry_failed: bool
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The summary of a finished table, and the config's spec; refuses a table made with other settings."""
    made_with = storage.read_json(f"{folder}/_spec.json")
    summary = storage.read_json(f"{folder}/_summary.json")
    finished = bool(summary) and len(done_partitions(storage, folder)) == plan.partitions
    spec = feature_spec(config, made_with if finished and not retry_failed else None)
    if made_with:
        made_with.pop("fingerprint")
        remedy = "set these back, give another `output`, or delete the folder to start over"
        require_same(folder, made_with, spec, remedy)
    none_now = {"rows_this_run": 0, "retried": 0, "recovered": 0}
    return ({**summary, **none_now} if finished else None), spec


def _state(storage: Storage, folder: str, plan: SamplePlan, retry_failed: bool) -> tuple[Tally, list[int]]:
    """What is there, counted from the notes of its files, and the partitions still to do."""
    done = done_partitions(storage, folder)
    tally, retry = Tally(), []
    for partition, notes in zip(done, read_notes(storage, folder, done)):
        if retry_failed and notes["failed_rows"]:
            retry.append(partition)
        else:
            tally.add_notes(notes)
    return tally, sorted({*retry, *set(range(plan.partitions)).difference(done)})


def _extract(
    config: Config,
    storage: Storage,
    folder: str,
    plan: SamplePlan,
    todo: list[int],
    tally: Tally,
    address: str | None,
    spec: dict[str, Any],
    retry_failed: bool,
) -> dict[str, Any]:
    """Do these partitions, counting them; returns where they ran and what that took."""
    from mmray.distributed import pools as cluster  # Ray, only where there is work

    cluster.connect(address)
    pools = plan_extract(config.extract, cluster.nodes(), len(todo))
    settings = {"config": config, "storage": storage, "folder": folder, "retry_failed": retry_failed}

    def stages(nodes: list[Node], partitions: int) -> list[cluster.Stage]:
        nonlocal pools
        pools = plan_extract(config.extract, nodes, partitions)
        return _stages(settings, plan, spec["decoders"]["frames"], pools)

    start = time.perf_counter()
    with console.progress("extract", total=plan.rows, done=tally.rows) as meter:
        for row in cluster.stream_partitions(todo, stages):
            report = json.loads(row["report"])
            tally.add_report(report)
            rate = tally.rows_now / (time.perf_counter() - start)
            meter.advance(report["notes"]["rows"], f"{rate:.1f}/s, {tally.failed_rows} failed")
            tally.check_budget(config.extract.max_failed_fraction, plan.rows)
    return _spent(config, tally, pools, time.perf_counter() - start)


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
        "cpu_seconds": round(tally.cpu_seconds, 3),
        "peak_rss_mb": {pool: round(value) for pool, value in tally.peak_rss_mb.items()},
        "cost_per_1000": price and round(price, 6),
    }


def _stages(settings: dict[str, Any], plan: SamplePlan, decoder: str, pools: ExtractPlan) -> list:
    from mmray.stages.extract_actors import Decode, DecodeAndEncode, Encode

    decoding = {**settings, "plan": plan, "decoder": decoder}
    if pools.encoders is None:
        return [(DecodeAndEncode, pools.actors, decoding)]
    return [(Decode, pools.actors, decoding), (Encode, pools.encoders, settings)]
