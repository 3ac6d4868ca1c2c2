"""Models × variants × seeds in, one table out: what each is worth on the test split, and how sure that is.

    features ──ray.put──▶ a task a run: fit ──▶ compare/runs/RUN.json ──▶ compare/NAME/compare.md .csv .svg

A run's file is named by all that decides its result (settings and data, as `train` names its models), and
written when it ends: an interrupted comparison goes on, and one with a model more trains that model only. Of
its variants a model keeps the one whose mean over the seeds is best on the *validation* split; test metrics
are read only of the variants so chosen.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmray import console
from mmray.config import CompareConfig, Config, ConfigLike, TuneConfig, as_config
from mmray.config.variants import varied
from mmray.distributed.admission import plan_compare
from mmray.distributed.feeding import load_features
from mmray.errors import MmrayError, TableError
from mmray.results.rows import number_or_null
from mmray.results.table import ResultsTable
from mmray.stages.train import check_targets, starts_from, up_to_date
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.features import Data
from mmray.tables.identity import hash_of, run_name
from mmray.targets import known, lower_is_better

__all__ = ["compare", "finished_comparison"]

CPUS = 1.0  # of a run


@dataclass(frozen=True, eq=False)
class Run:
    """One model to train with one seed; `config` has its settings and features, `key` names its file."""

    model: str
    variant: int
    config: Config
    key: str

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.config.train.seed


@one_driver
def compare(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Train what is not trained yet, write the table, return it as a summary.

    A run that cannot be trained costs its model's row, and is told; the others go on.

    Raises:
        TableError: where the features are not there, or there is no test split.
        SamplesError: where a split is empty or a label is unknown, before any run starts.
        PlanError: where not even one run fits the cluster.
        MmrayError: where no model could be trained, what is wrong with the first.
    """
    config = as_config(config)
    storage, runs_folder = Storage(config.storage), config.path("compare", "runs")
    data = up_to_date(config, storage)
    runs = planned_runs(config, _naming(storage, data))
    folder = comparison_folder(config, runs)
    done = storage.names(runs_folder)
    todo = list({run.key: run for run in runs if f"{run.key}.json" not in done}.values())
    start = time.perf_counter()
    faults: dict[str, MmrayError] = {}
    if todo:
        features = load_features(config, storage, list(config.features))
        check_targets(config, features)
        if not (features.split == "test").any():
            raise TableError(f"{config.path('samples')}: nothing to compare on: no row has split 'test'")
        faults = _run_all(config, todo, features, storage, runs_folder, address)
    trained = [run for run in runs if run.key not in faults]
    results = {run: storage.read_json(f"{runs_folder}/{run.key}.json") for run in trained}
    if not results:
        raise next(iter(faults.values()))
    rows = table_rows(config, {run: results.get(run) for run in runs})
    summary = {
        "rows": rows,
        "runs": len(runs),
        "runs_now": len(todo) - len(faults),
        "failed": {
            f"{run.model}, variant {run.variant}, seed {run.seed}": str(faults[run.key])
            for run in runs
            if run.key in faults
        },
        "seconds": round(time.perf_counter() - start, 3),
        "monitor": config.train.monitor,
        "features_fingerprint": data.digest,
        "table": f"{folder}/compare.md",
        "output": folder,
    }
    _write_table(ResultsTable.from_json(rows), storage, folder)
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def _write_table(table: ResultsTable, storage: Storage, folder: str) -> None:
    """For people, for programs, and a figure of each target's main metric."""
    from mmray.results.plots import to_svg

    storage.write(f"{folder}/compare.md", table.to_markdown().encode())
    storage.write(f"{folder}/compare.csv", table.to_csv())
    figures = table.to_figures()
    for metric, figure in figures.items():
        name = "compare" if len(figures) == 1 else f"compare-{metric.partition('/')[0]}"
        storage.write(f"{folder}/{name}.svg", to_svg(figure, name).encode())


def planned_runs(config: Config, name: Callable[[Config], str]) -> list[Run]:
    """Every run: each feature alone, then the models, each × variants × seeds; `name` names a training."""
    models: dict[str, dict[str, Any]] = {}
    if len(config.features) > 1:
        models |= {f"{name} only": {"features": [name]} for name in config.features}
    models |= config.compare.models or {"fused": {}}
    # A model's config is checked by itself: what is searched or compared is not about the changed one.
    alone = config.model_copy(update={"compare": CompareConfig(), "tune": TuneConfig()})
    runs = []
    for model, changes in models.items():
        features = {"features": changes.get("features", list(config.features))}
        settings = {dotted: value for dotted, value in changes.items() if dotted != "features"}
        for variant, more in enumerate(config.compare.variants or [{}]):
            for seed in config.compare.seeds:
                changed = varied(varied(alone, settings), {**more, "train.seed": seed, **features})
                runs.append(Run(model, variant, changed, name(changed)))
    return runs


def comparison_folder(config: Config, runs: Sequence[Run]) -> str:
    """Where the table of these runs is."""
    return config.path("compare", hash_of([[run.model, run.variant, run.seed, run.key] for run in runs]))


def finished_comparison(config: Config, storage: Storage, data: Data) -> dict[str, Any] | None:
    """The summary of this config's comparison on these data; None where there is none."""
    runs = planned_runs(config, _naming(storage, data))
    return storage.read_json(f"{comparison_folder(config, runs)}/_summary.json")


def _naming(storage: Storage, data: Data) -> Callable[[Config], str]:
    """Names the training of a config on its part of these data, as `train` would name it."""
    starts: dict[str | None, str | None] = {}

    def name(config: Config) -> str:
        start = config.train.initialize_from
        if start not in starts:
            starts[start] = starts_from(config, storage)
        tables = {feature: data.tables[feature] for feature in config.features}
        return run_name(config, replace(data, tables=tables).digest, starts[start])

    return name


# ------------------------------------------------------------------------------------ running


def _run_all(
    config: Config, todo: Sequence[Run], data: Any, storage: Storage, folder: str, address: str | None
) -> dict[str, MmrayError]:
    """Every run as a task, with the features in the object store once; {key: fault} of those that failed."""
    from mmray.distributed import pools as cluster

    cluster.connect(address)
    import ray
    from ray.exceptions import RayTaskError

    pool = plan_compare(cluster.nodes(), CPUS, config.compare.gpus_per_run)
    cluster.announce_wait([replace(pool, size=1)])
    task = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(run_one)
    shared = ray.put(data)
    pending = {task.remote(shared, run, storage, folder): run for run in todo}
    faults: dict[str, MmrayError] = {}
    with console.progress("compare", total=len(todo)) as meter:
        while pending:
            (ended, *_), _ = ray.wait(list(pending), num_returns=1)
            run = pending.pop(ended)
            try:
                ray.get(ended)
            except RayTaskError as error:
                if not isinstance(error.cause, MmrayError):
                    for other in pending:
                        ray.cancel(other, force=True)
                    raise
                faults[run.key] = error.cause
            meter.advance(1, f"{run.model}, seed {run.seed}")
    return faults


def run_one(data: Any, run: Run, storage: Storage, folder: str) -> None:
    """Fit one model on the shared features and write what it is worth."""
    import torch

    from mmray.distributed.pools import own_device
    from mmray.distributed.training import other_model
    from mmray.training.loop import fit
    from mmray.training.monitor import monitored
    from mmray.training.predict import model_outputs

    torch.set_num_threads(1)
    device, start, config = own_device(), time.perf_counter(), run.config
    features = list(config.features)
    with other_model(config, storage) as other:
        result = fit(
            config.model,
            config.train,
            data,
            features,
            config.targets,
            device=device,
            initialize_from=other,
        )
    seconds = time.perf_counter() - start
    spec, test = result.snapshot.spec, data.subset(data.split == "test")
    examples = spec.examples(test)
    outputs = model_outputs(result.model, examples, np.arange(len(test)), config.train.batch_size, device)
    scores = {}
    groups = None if test.group is None else np.unique(test.group.astype(str), return_inverse=True)[1]
    for name, target in spec.targets.items():
        truth = examples.targets[name]
        predicted = target.decode(outputs[name][known(truth)])
        parts, wholes = target.row_scores(predicted, truth[known(truth)])
        of_row = np.arange(len(parts)) if groups is None else groups[known(truth)]
        scores[name] = [parts.tolist(), wholes.tolist(), of_row.tolist()]
    found = {
        "model": run.model,
        "variant": run.variant,
        "seed": run.seed,
        "features": features,
        "monitored": number_or_null(monitored(result.best, config.train.monitor)),
        "epochs": len(result.history),
        "best_epoch": int(result.best["epoch"]),
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "seconds": round(seconds, 3),
        "transfer": str(result.transfer) if result.transfer else None,
        "warnings": result.warnings,
        "test": {
            name: {
                "rows": report["rows"],
                "main": report["main"],
                "metrics": {metric: number_or_null(value) for metric, value in report["metrics"].items()},
                "majority": {metric: number_or_null(value) for metric, value in report["majority"].items()},
                "scores": scores[name],
            }
            for name, report in result.test.items()
        },
    }
    storage.write_json(f"{folder}/{run.key}.json", found)


# ------------------------------------------------------------------------------------ the table


def table_rows(config: Config, results: Mapping[Run, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """A row a model: the majority, each feature alone, the models in the config's order.

    A model keeps the variant with the best mean of its own monitor. A variant of which a run failed (None) is
    none to choose; a model without any other has no row.
    """
    done = {run: result for run, result in results.items() if result is not None}
    by_model: dict[str, dict[int, list[Run]]] = {}
    for run in results:
        by_model.setdefault(run.model, {}).setdefault(run.variant, []).append(run)
    rows = [_majority_row(next(iter(done.values()))["test"])]
    for variants in by_model.values():
        whole = {variant: runs for variant, runs in variants.items() if done.keys() >= {*runs}}
        values = {variant: _mean(done[run]["monitored"] for run in runs) for variant, runs in whole.items()}
        if not values:
            continue
        monitor = next(iter(whole.values()))[0].config.train.monitor
        sign = 1 if lower_is_better(monitor) else -1
        chosen = min(values, key=lambda variant: _worst_if_nan(sign * values[variant]))
        settings = config.compare.variants[chosen] if config.compare.variants else {}
        rows.append(_row(whole[chosen], done, values[chosen], settings))
    return rows


def _row(
    runs: Sequence[Run], results: Mapping[Run, Mapping[str, Any]], validation: float, settings: dict[str, Any]
) -> dict[str, Any]:
    from mmray.training.aggregate import bootstrap_interval, mean_std

    found = [results[run] for run in runs]
    metrics, interval = {}, {}
    for name, report in found[0]["test"].items():
        for metric in report["metrics"]:
            values = [one["test"][name]["metrics"][metric] for one in found]
            mean, std = mean_std(values)
            metrics[f"{name}/{metric}"] = {
                "mean": number_or_null(mean),
                "std": number_or_null(std),
                "values": values,
            }
        parts, wholes, groups = np.moveaxis(np.array([one["test"][name]["scores"] for one in found]), 1, 0)
        low, high = bootstrap_interval(parts, wholes, groups[0])  # of the same rows for every seed
        interval[f"{name}/{report['main']}"] = [number_or_null(low), number_or_null(high)]
    return {
        "model": runs[0].model,
        "features": list(runs[0].config.features),
        "n": max(report["rows"] for report in found[0]["test"].values()),
        "seeds": len(found),
        "metrics": metrics,
        "interval": interval,
        "validation": number_or_null(validation),
        "parameters": found[0]["parameters"],
        "seconds": round(_mean(one["seconds"] for one in found), 2),
        "settings": settings,
    }


def _majority_row(test: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the constant is worth that the train split suggests."""
    return {
        "model": "majority",
        "features": [],
        "n": max(report["rows"] for report in test.values()),
        "seeds": None,
        "metrics": {
            f"{name}/{metric}": {"mean": value, "std": None, "values": [value]}
            for name, report in test.items()
            for metric, value in report["majority"].items()
        },
        "interval": {},
        "validation": None,
        "parameters": 0,
        "seconds": None,
        "settings": {},
    }


def _mean(values: Any) -> float:
    numbers = [math.nan if value is None else value for value in values]
    return sum(numbers) / len(numbers)


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
