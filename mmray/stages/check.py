"""A config → what it would do here, tried out before it costs anything; nothing is left behind.

The cheap looks come first (can the output be written, is the manifest whole), so that most faults are
answered before torch is imported; then a few samples are decoded and encoded for real, and the model takes
one step on them.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.config.samples import MEDIA_SOURCES
from mmray.distributed.admission import ExtractPlan, Node, plan_extract, plan_score, plan_train, plan_tune
from mmray.errors import PlanError, SamplesError, TableError
from mmray.samples.index import Index, make_index
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.storage.uris import absolute, cell_of, parent, scheme_of, span_of

__all__ = ["check", "show"]


def check(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """What was found: {samples, partitions, splits, notes, tried, model, here, plan, nodes}.

    `tried` has, for the first, the middle and the last sample, what became of each feature: {steps, dim}
    (dim None: words), or {reason, detail}. `model` is what is trained, after one step on these samples:
    {parameters, trained, loss}; None without targets, or with imported features. `plan` has a line a stage
    for this machine alone, or, with `address` (or RAY_ADDRESS), for that cluster, each of whose machines is
    asked what it has and reaches: `nodes`, else None. A stage that only a larger cluster can run has the
    arithmetic there.

    Raises:
        MmrayError: the first thing that would stop a run.
    """
    config = as_config(config)
    extracted = {name: feature for name, feature in config.features.items() if feature.kind != "imported"}
    if not extracted:
        imported = ", ".join(config.features)
        raise TableError(f"features {imported} are imported: `mmray import-features` checks them")
    storage = Storage(config.storage)
    storage.require_writable(_nearest(config.output))
    with scratch_folder() as folder:
        index = make_index(config, storage, folder)
        if config.targets:
            _check_targets(config, storage, index)
        samples = _spread(index, storage)
        tried, made = _try(config.model_copy(update={"features": extracted}), storage, samples)
        whole = made.keys() == config.features.keys()
        model = _rehearse(config, storage, index, samples, made) if config.targets and whole else None
    address = address or os.environ.get("RAY_ADDRESS")
    nodes = _ask(config, storage, address, samples) if address else None
    machines = _machines(nodes)
    stages = _plan(config, machines, len(index.partitions))
    return {
        "samples": index.rows,
        "partitions": len(index.partitions),
        "splits": index.splits,
        "notes": [*index.leaks, *index.notes],
        "tried": tried,
        "model": model,
        "here": {"cpus": sum(each.cpus for each in machines), "gpus": sum(each.gpus for each in machines)},
        "plan": stages,
        "nodes": nodes,
    }


def show(findings: Mapping[str, Any], config_path: str) -> None:
    """Print what `check` found."""
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in sorted(findings["splits"].items()))
    lines = [
        f"config    {config_path}: no faults",
        f"samples   {findings['samples']} ({splits}) in {findings['partitions']} partitions",
        *(f"note      {note}" for note in findings["notes"]),
        "tried",
    ]
    for sample_id, features in findings["tried"].items():
        lines.append(f"  {sample_id}")
        for name, found in features.items():
            shape = f"{found['steps']} × {found['dim'] or 'words'}" if "steps" in found else ""
            lines.append(f"    {name}: {shape or found['reason'] + ': ' + found['detail']}")
    if model := findings["model"]:
        frozen = model["parameters"] - model["trained"]
        lines.append(f"model     {model['parameters']:,} numbers, {frozen:,} of them frozen; one step went")
    here = findings["here"]
    if findings["nodes"]:
        from mmray.stages.check_cluster import line

        lines += ["the cluster's machines", *(f"  {line(node)}" for node in findings["nodes"])]
    where = f"on the {len(findings['nodes'])} of them" if findings["nodes"] else "on this machine"
    lines.append(f"{where} ({here['cpus']:g} CPU, {here['gpus']:g} GPU)")
    lines += [f"  {stage:<8}{told}" for stage, told in findings["plan"].items()]
    lines.append(f"next      mmray run {config_path}")
    console.out.print("\n".join(lines), markup=False)


def _nearest(folder: str) -> str:
    """The folder, or the nearest one above it that is there: looking must not make it."""
    if scheme_of(folder) != "s3":
        folder = absolute(folder)
        while not os.path.lexists(folder):
            folder = parent(folder)
    return folder.rstrip("/")


def _check_targets(config: Config, storage: Storage, index: Index) -> None:
    """The same look at splits and labels as before training."""
    from mmray.stages.train import check_targets
    from mmray.training.batches import FeatureSet

    columns = index.small(storage, ["sample_id", "split", *config.targets])
    check_targets(config, FeatureSet.load(columns, [], config.targets))


def _spread(index: Index, storage: Storage) -> pa.Table:
    """The first, the middle and the last sample."""
    return pa.concat_tables(index.at(storage, row) for row in sorted({0, index.rows // 2, index.rows - 1}))


def _try(
    config: Config, storage: Storage, samples: pa.Table
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, pa.Table]]:
    """{sample: {feature: what became of it}}, and {feature: its table of these samples}.

    Raises:
        SamplesError: where not one feature of one sample came out.
    """
    from mmray.features.device import Device
    from mmray.features.encoding import Encoding
    from mmray.stages.extract_actors import preparation

    device = Device(batch=config.extract.encode_batch, precision=config.extract.precision)
    encoding = Encoding(config.features, device=device, storage=storage)
    tried: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in samples["sample_id"].to_pylist()}
    made = encoding(preparation(config, storage, config.extract.decoder)(samples))
    for name, shape in encoding.shapes.items():
        for row in made[name].to_pylist():
            tried[row["sample_id"]][name] = (
                {"reason": row["error"]["reason"], "detail": row["error"]["detail"]}
                if row["error"]
                else {"steps": row[f"{name}_length"], "dim": shape.dim}
            )
    found = [(name, what) for features in tried.values() for name, what in features.items()]
    if all("reason" in what for _, what in found):
        lines = dict.fromkeys(f"  {name}: {what['reason']}: {what['detail']}" for name, what in found)
        tries = f"none of {len(tried)} samples tried ({', '.join(tried)}) gives any feature:"
        raise SamplesError("\n".join([f"{config.samples.named}: {tries}", *lines]))
    return tried, made


def _rehearse(
    config: Config, storage: Storage, index: Index, samples: pa.Table, made: Mapping[str, pa.Table]
) -> dict[str, Any]:
    """The config's model after one step on the tried samples: {parameters, trained, loss}.

    Raises:
        MmrayError: what would stop its training.
    """
    import torch

    from mmray.distributed.training import other_model
    from mmray.stages.train import starts_from
    from mmray.training.batches import FeatureSet
    from mmray.training.rehearsal import rehearse

    starts_from(config, storage)
    labels = ["sample_id", "split", *config.targets]
    columns = {name: samples[name] for name in labels}
    for name, table in made.items():
        columns |= {column: table[column] for column in table.column_names if column.startswith(name)}
    tried = FeatureSet.load(pa.table(columns), list(made), config.targets)
    everyone = FeatureSet.load(index.small(storage, labels), [], config.targets)
    with other_model(config, storage) as other:
        return rehearse(
            config.model,
            config.train,
            tried,
            everyone,
            list(config.features),
            config.targets,
            device="cuda" if torch.cuda.is_available() else "cpu",
            initialize_from=other,
        )


def _ask(config: Config, storage: Storage, address: str, samples: pa.Table) -> list[dict[str, Any]]:
    """What the machines of the cluster say; they look for a file of the samples that is seen from here."""
    from mmray.distributed.connect import connect
    from mmray.stages.check_cluster import ask_nodes

    connect(address, config.cluster)
    uris = [uri for name in MEDIA_SOURCES[:3] if name in samples.column_names
            for uri in samples[name].to_pylist() if uri]  # fmt: skip
    files = [cell.uri if (cell := cell_of(uri)) else span_of(uri).uri for uri in uris]
    seen = next((file for file in files if storage.exists(file)), None)
    return ask_nodes(config, _nearest(config.output), seen)


def _machines(nodes: list[dict[str, Any]] | None) -> list[Node]:
    """Those of the cluster, or this one."""
    import torch

    if nodes is None:
        return [Node(os.cpu_count() or 1, torch.cuda.device_count())]
    from mmray.distributed.connect import nodes as cluster_nodes

    return cluster_nodes()


def _plan(config: Config, machines: list[Node], partitions: int) -> dict[str, str]:
    """What each stage would run on them."""
    stages: dict[str, Callable[[], str]] = {
        "extract": lambda: _told(plan_extract(config.extract, machines, partitions)),
        "train": lambda: str(plan_train(config.train, machines).pool),
        "score": lambda: str(plan_score(config.score, machines, partitions)),
    }
    if config.tune.space:
        stages["tune"] = lambda: f"{config.tune.trials} trials, {plan_tune(config.tune, machines)} at a time"
    told = {}
    for stage, plan in stages.items():
        try:
            told[stage] = plan()
        except PlanError as error:
            told[stage] = str(error)
    return told


def _told(plan: ExtractPlan) -> str:
    return " → ".join(str(pool) for pool in (plan.actors, plan.encoders) if pool) + f", {plan.placement}"
