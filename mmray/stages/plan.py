"""What a larger run will take: measured rates × rows ÷ machines, with every step of the arithmetic.

What is measured is the last extraction (and training, and scoring) of this very config, on some samples of
it: seconds that actors are busy with a sample, bytes it fetches and leaves. That they stay the same on more
samples is the one assumption; it holds for samples like those that were tried.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.config.cluster import NodesConfig
from mmray.errors import TableError
from mmray.samples.index import known_index
from mmray.stages.extract import extract_summary
from mmray.storage.filesystem import Storage
from mmray.tables.features import complete_tables

__all__ = ["arithmetic", "plan", "show"]

BUSY = 0.8
"""Share of the time that actors of a large run are busy with samples; the rest is starting, waiting for
storage, the last partitions. Measured in a small run it says how small that was."""
ENOUGH_ROWS = 200
"""From fewer a rate is a guess, and is called one."""


def plan(config: ConfigLike, *, rows: int | None = None) -> dict[str, Any]:
    """What `rows` samples (as many as there are, without) will take on the machines of `cluster.nodes`.

    {rows, measured_rows, per_sample: {cpu_s, gpu_s, fetched_bytes, stored_bytes}, machines: {cpus, gpus,
    price_per_hour}, hours, cost, arithmetic: lines, notes: lines}; `hours` and `cost` are None without
    `cluster.nodes`.

    Raises:
        ConfigError: as `load_config`.
        TableError: where nothing was measured: the features are not extracted, or a finished run is all
            there is of it.
    """
    config = as_config(config)
    storage = Storage(config.storage)
    index = known_index(config, storage)
    extracted = {name: feature for name, feature in config.features.items() if feature.kind != "imported"}
    measured = config.model_copy(update={"features": extracted})
    tables = complete_tables(measured, storage, index, list(extracted))
    summary = extract_summary(measured, storage, index, tables)
    if not summary or not summary.get("rows_this_run") or not summary.get("stage_seconds"):
        raise TableError(
            f"{config.path('features')}: no extraction of these features to take rates from; extract some "
            "hundred samples first: a manifest of them, and `mmray extract` with an output of its own"
        )
    stored = sum(info["size"] for table in tables.values() for info in storage.find(table.folder).values())
    per_sample = per_sample_of(summary, stored / index.rows)
    told = arithmetic(per_sample, rows or index.rows, config.cluster.nodes)
    return {
        "rows": rows or index.rows,
        "measured_rows": summary["rows_this_run"],
        "per_sample": per_sample,
        **told,
        "notes": _notes(config, summary),
    }


def per_sample_of(summary: Mapping[str, Any], stored_bytes: float) -> dict[str, float]:
    """What a sample took in an extraction: busy seconds of CPUs and of GPUs, bytes fetched and stored."""
    rows, seconds = summary["rows_this_run"], summary["stage_seconds"]
    apart = summary["encoders"] > 0
    work = sum(
        value for stage, value in seconds.items() if stage != "wait" and not (apart and stage == "encode")
    )
    return {
        "cpu_s": work / rows,
        "gpu_s": seconds.get("encode", 0.0) / rows if apart else 0.0,
        "fetched_bytes": summary.get("fetched_bytes", 0) / rows,
        "stored_bytes": stored_bytes,
    }


def arithmetic(
    per_sample: Mapping[str, float], rows: int, nodes: Mapping[str, NodesConfig]
) -> dict[str, Any]:
    """{machines, hours, cost, arithmetic} of so many rows on these machines.

    hours = max(rows · cpu_s / CPUs, rows · gpu_s / GPUs) / BUSY / 3600
    cost  = hours · Σ count · (spot_share · spot_price + (1 − spot_share) · price)
    """
    cpus = sum(each.count * each.cpus for each in nodes.values())
    gpus = sum(each.count * each.gpus for each in nodes.values())
    hourly = sum(each.count * _price(each) for each in nodes.values())
    cpu_hours, gpu_hours = (rows * per_sample[kind] / 3600 for kind in ("cpu_s", "gpu_s"))
    lines = [f"{rows:,} samples × {per_sample['cpu_s']:.3g} s of a CPU = {cpu_hours:,.4g} CPU hours"]
    if gpu_hours:
        lines.append(
            f"{rows:,} samples × {per_sample['gpu_s']:.3g} s of an encoder = {gpu_hours:,.4g} GPU hours"
        )
    lines += [
        f"{rows:,} samples × {per_sample['fetched_bytes'] / 1e6:.3g} MB = "
        f"{rows * per_sample['fetched_bytes'] / 1e12:,.4g} TB fetched",
        f"{rows:,} samples × {per_sample['stored_bytes'] / 1e3:.3g} kB = "
        f"{rows * per_sample['stored_bytes'] / 1e12:,.4g} TB of features",
    ]
    told: dict[str, Any] = {"machines": None, "hours": None, "cost": None, "arithmetic": lines}
    if not nodes:
        return told
    machines = " + ".join(f"{each.count} {name}" for name, each in nodes.items())
    wall = {"CPU": cpu_hours / cpus / BUSY}
    lines.append(
        f"{machines}: {cpu_hours:,.4g} CPU hours / {cpus:g} CPUs / {BUSY} busy = {wall['CPU']:,.4g} h"
    )
    if gpu_hours and gpus:
        wall["GPU"] = gpu_hours / gpus / BUSY
        lines.append(f"{gpu_hours:,.4g} GPU hours / {gpus:g} GPUs / {BUSY} busy = {wall['GPU']:,.4g} h")
    elif gpu_hours:
        wall["CPU"] += gpu_hours / cpus / BUSY
        lines.append(
            f"no GPU: the encoders take CPUs too, {wall['CPU']:,.4g} h in all, if they are as quick there"
        )
    slowest = max(wall, key=lambda kind: wall[kind])
    hours = wall[slowest]
    if len(wall) == 2:
        lines.append(f"both work at once: the {slowest}s decide, {hours:,.4g} h")
    prices = " + ".join(_told_price(name, each) for name, each in nodes.items())
    each_1000 = 1000 * hours * hourly / rows
    lines.append(f"{hours:,.4g} h × ({prices}) = {hours * hourly:,.4g}, {each_1000:.4g} a 1,000 samples")
    return {
        **told,
        "machines": {"cpus": cpus, "gpus": gpus, "price_per_hour": hourly},
        "hours": hours,
        "cost": hours * hourly,
    }


def _price(node: NodesConfig) -> float:
    """Of one, on the average."""
    spot = node.spot_price_per_hour or 0.0
    return node.spot_share * spot + (1 - node.spot_share) * node.price_per_hour


def _told_price(name: str, node: NodesConfig) -> str:
    if not node.spot_share:
        return f"{node.count} × {node.price_per_hour:g}"
    spot = f"{node.spot_share:g} × {node.spot_price_per_hour:g}"
    rest = f" + {1 - node.spot_share:g} × {node.price_per_hour:g}" if node.spot_share < 1 else ""
    return f"{node.count} × ({spot}{rest})"


def _notes(config: Config, summary: Mapping[str, Any]) -> list[str]:
    rows = summary["rows_this_run"]
    notes = []
    if rows < ENOUGH_ROWS:
        notes.append(f"measured on {rows} samples: a guess; extract {ENOUGH_ROWS} or more for a figure")
    pools = f"{summary['actors']} actors" + (
        f" and {summary['encoders']} encoders" if summary["encoders"] else ""
    )
    wall = summary["seconds"]
    held = wall * (summary["actors"] + summary["encoders"])
    busy = sum(value for stage, value in summary["stage_seconds"].items() if stage != "wait")
    notes.append(
        f"measured: {rows} samples in {wall:.4g} s by {pools}, busy for {min(1.0, busy / held):.0%} of it"
    )
    if not config.cluster.nodes:
        notes.append("time and cost need machines: cluster.nodes (`mmray check --reference`)")
    if any(each.spot_share for each in config.cluster.nodes.values()):
        lost = math.ceil(config.extract.partition_samples / 2)
        notes.append(
            f"a spot machine that is taken costs each of its actors the partition in hand, {lost} samples on "
            "average; what is finished stays"
        )
    return notes


def show(planned: Mapping[str, Any]) -> None:
    """Print what `plan` found."""
    lines = [f"{planned['rows']:,} samples, by what {planned['measured_rows']:,} took"]
    lines += [f"  {line}" for line in planned["arithmetic"]]
    lines += [f"  note: {note}" for note in planned["notes"]]
    console.out.print("\n".join(lines), markup=False, soft_wrap=True)
