"""Models × variants × seeds × folds in, one table out: what each is worth on the test split, and how sure.

    features ──ray.put──▶ a task a run: fit ──▶ compare/runs/RUN.json .npz ──▶ compare/NAME/compare.md .csv
    .svg

A run's files are named by all that decides its result (settings and data, as `train` names its models), and
written when it ends: an interrupted comparison goes on, and one with a model more trains that model only. Of
its variants a model keeps the one whose mean over seeds and folds is best on the *validation* split; test
metrics are read only of the variants so chosen. What the seeds of a model say together is a row as well.
"""

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmray import console
from mmray.config import CompareConfig, Config, ConfigLike, TuneConfig, as_config, override
from mmray.config.variants import varied
from mmray.distributed.admission import plan_compare
from mmray.distributed.feeding import load_features
from mmray.errors import MmrayError, SamplesError, TableError
from mmray.results.rows import number_or_null
from mmray.results.table import ResultsTable
from mmray.stages.train import check_targets, starts_from, up_to_date
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.features import Data
from mmray.tables.identity import hash_of, run_name
from mmray.tables.joined import seen
from mmray.targets import lower_is_better

__all__ = ["compare", "finished_comparison", "judged"]

CPUS = 1.0  # of a run
YARDSTICKS_VERSION = 1  # more by one where they find something else
Outputs = Mapping[str, Mapping[str, np.ndarray]]
"""{split: {target: [N, C]}} of val and test."""


@dataclass(frozen=True, eq=False)
class Run:
    """One model to train with one seed on one fold; `config` has its settings and features, `key` names its
    files.
    """

    model: str
    variant: int
    config: Config
    key: str
    fold: int | None = None
    yardstick: Any = None
    """The kind of scikit-learn's model it is, where it is one."""

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.config.train.seed

    def __str__(self) -> str:
        told = f"{self.model}, variant {self.variant}, seed {self.seed}"
        return told if self.fold is None else f"{told}, fold {self.fold}"


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
    from mmray.training.comparison import Rows, words

    config = as_config(config)
    storage, runs_folder = Storage(config.storage), config.path("compare", "runs")
    runs: list[Run] = []
    rows: dict[int | None, Any] = {}
    splits: dict[int | None, np.ndarray] = {}
    digests = []
    ids = None
    for fold, folded in _folds(config):
        data = up_to_date(folded, storage)
        runs += planned_runs(folded, _naming(storage, data), fold)
        small = load_features(folded, storage, [])
        check_targets(folded, small)
        if not (small.split == "test").any():
            raise TableError(f"{config.path('samples')}: nothing to compare on: no row has split 'test'")
        if ids is not None and not np.array_equal(ids, small.sample_ids):
            raise SamplesError(f"{config.samples.named} changed while its folds were read; run it again")
        ids, splits[fold] = small.sample_ids, small.split
        rows[fold] = Rows.of(small, config.targets, seen(storage, data))
        digests.append(data.digest)
    if config.compare.folds:
        up_to_date(config, storage)  # the index is left as the config says
    folder = comparison_folder(config, runs)
    done = storage.names(runs_folder)
    todo = list({r.key: r for r in runs if not {f"{r.key}.json", f"{r.key}.npz"} <= done}.values())
    start = time.perf_counter()
    faults: dict[str, MmrayError] = {}
    if todo:
        features = load_features(config, storage, list(config.features))
        faults = _run_all(config, todo, features, splits, storage, runs_folder, address)
    trained = {run.key for run in runs} - faults.keys()
    found = {key: storage.read_json(f"{runs_folder}/{key}.json") for key in trained}
    if not found:
        raise next(iter(faults.values()))

    def together(several: Sequence[Run]) -> Mapping[str, Any]:
        outputs = [_read_outputs(storage, runs_folder, run) for run in several]
        return rows[several[0].fold].ensemble(outputs, config.train.monitor)

    table = table_rows(config, {run: found.get(run.key) for run in runs}, together)
    summary = {
        "rows": table,
        "notes": words(table, config.train.monitor),
        "runs": len(runs),
        "runs_now": len(todo) - len(faults),
        "failed": {str(run): str(faults[run.key]) for run in runs if run.key in faults},
        "seconds": round(time.perf_counter() - start, 3),
        "monitor": config.train.monitor,
        "features_fingerprint": digests[0] if len(digests) == 1 else hash_of(digests),
        "table": f"{folder}/compare.md",
        "output": folder,
    }
    _write_table(ResultsTable.from_json(table), summary["notes"], storage, folder)
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def judged(config: Config, seeds: Sequence[int], storage: Storage, address: str | None) -> dict[str, Any]:
    """A config's model, trained with these seeds: {rows, failed}, as `compare` says it; ended runs are
    read.
    """
    from mmray.training.comparison import Rows

    data, folder = up_to_date(config, storage), config.path("compare", "runs")
    rows = Rows.of(load_features(config, storage, []), config.targets, seen(storage, data))
    plain = config.model_copy(update={"compare": CompareConfig(seeds=list(seeds))})
    runs = [run for run in planned_runs(plain, _naming(storage, data)) if run.model == "fused"]
    done = storage.names(folder)
    faults: dict[str, MmrayError] = {}
    if todo := [run for run in runs if not {f"{run.key}.json", f"{run.key}.npz"} <= done]:
        features = load_features(config, storage, list(config.features))
        faults = _run_all(config, todo, features, {None: features.split}, storage, folder, address)
    found = {
        run: None if run.key in faults else storage.read_json(f"{folder}/{run.key}.json") for run in runs
    }

    def together(several: Sequence[Run]) -> Mapping[str, Any]:
        return rows.ensemble([_read_outputs(storage, folder, run) for run in several], config.train.monitor)

    failed = {str(run): str(faults[run.key]) for run in runs if run.key in faults}
    return {"rows": [] if failed else table_rows(plain, found, together), "failed": failed}


def _folds(config: Config) -> list[tuple[int | None, Config]]:
    """(fold, the config with its split), one (None, config) where folds are not asked for."""
    if not config.compare.folds:
        return [(None, config)]
    count = config.samples.split.folds or 0
    return [(fold, override(config, {"samples.split.fold": fold})) for fold in range(count)]


def _write_table(table: ResultsTable, notes: Sequence[str], storage: Storage, folder: str) -> None:
    """For people, for programs, and a figure of each target's main metric."""
    from mmray.results.plots import to_svg

    text = table.to_markdown() + "".join(f"\n{note}\n" for note in notes)
    storage.write(f"{folder}/compare.md", text.encode())
    storage.write(f"{folder}/compare.csv", table.to_csv())
    figures = table.to_figures()
    for metric, figure in figures.items():
        name = "compare" if len(figures) == 1 else f"compare-{metric.partition('/')[0]}"
        storage.write(f"{folder}/{name}.svg", to_svg(figure, name).encode())


def planned_runs(config: Config, name: Callable[[Config], str], fold: int | None = None) -> list[Run]:
    """Every run: each feature alone, then the models, each × variants × seeds, then the yardsticks.

    `name` names a training.
    """
    several = len(config.features) > 1
    single = {f"{name} only": {"features": [name]} for name in config.features} if several else {}
    models: dict[str, dict[str, Any]] = {**single, **(config.compare.models or {"fused": {}})}
    # A model's config is checked by itself: what is searched or compared is not about the changed one.
    alone = config.model_copy(update={"compare": CompareConfig(), "tune": TuneConfig()})
    runs = []
    for model, changes in models.items():
        features = {"features": changes.get("features", list(config.features))}
        settings = {dotted: value for dotted, value in changes.items() if dotted != "features"}
        for variant, more in enumerate(config.compare.variants or [{}]):
            for seed in config.compare.seeds:
                changed = varied(varied(alone, settings), {**more, "train.seed": seed, **features})
                runs.append(Run(model, variant, changed, name(changed), fold))
    for kind in config.compare.yardsticks:
        for where, changes in {**{f", {only}": c for only, c in single.items()}, "": {}}.items():
            changed = varied(alone, changes)
            key = hash_of({"yardstick": kind, "version": YARDSTICKS_VERSION, "of": name(changed)})
            runs.append(Run(f"{kind}{where}", 0, changed, key, fold, kind))
    return runs


def comparison_folder(config: Config, runs: Sequence[Run]) -> str:
    """Where the table of these runs is."""
    return config.path("compare", hash_of([[run.model, run.variant, run.seed, run.key] for run in runs]))


def finished_comparison(config: Config, storage: Storage, data: Data) -> dict[str, Any] | None:
    """The summary of this config's comparison on these data; None where there is none.

    One over folds is not looked for: each fold has data of its own, and `data` is one of them.
    """
    if config.compare.folds:
        return None
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
    config: Config,
    todo: Sequence[Run],
    data: Any,
    splits: Mapping[int | None, np.ndarray],
    storage: Storage,
    folder: str,
    address: str | None,
) -> dict[str, MmrayError]:
    """Every run as a task, with the features in the object store once; {key: fault} of those that failed."""
    from mmray.distributed import pools as cluster

    cluster.connect(address, config.cluster)
    import ray
    from ray.exceptions import RayTaskError

    pool = plan_compare(cluster.nodes(), CPUS, config.compare.gpus_per_run)
    cluster.announce_wait([replace(pool, size=1)])
    task = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(run_one)
    yardstick = ray.remote(num_cpus=pool.cpus)(run_yardstick)
    shared = ray.put(data)
    of_fold = {fold: ray.put(split) for fold, split in splits.items()}
    pending = {
        (yardstick if run.yardstick else task).remote(shared, of_fold[run.fold], run, storage, folder): run
        for run in todo
    }
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
            meter.advance(1, str(run))
    return faults


def run_one(data: Any, split: np.ndarray, run: Run, storage: Storage, folder: str) -> None:
    """Fit one model on the shared features, split so, and write what it is worth."""
    import torch

    from mmray.distributed.pools import own_device
    from mmray.distributed.training import other_model
    from mmray.training.comparison import Rows
    from mmray.training.loop import fit
    from mmray.training.monitor import monitored
    from mmray.training.predict import model_outputs

    torch.set_num_threads(1)
    data = replace(data, split=split)
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
    seconds, spec, batch = time.perf_counter() - start, result.snapshot.spec, config.train.batch_size
    outputs: dict[str, dict[str, np.ndarray]] = {}
    for name in ("val", "test"):
        rows = data.subset(split == name)
        found = model_outputs(result.model, spec.examples(rows), np.arange(len(rows)), batch, device)
        outputs[name] = {target: found[target] for target in config.targets}
    told = Rows.of(data, config.targets, data.seen).result(
        outputs,
        config.train.monitor,
        model=run.model,
        variant=run.variant,
        seed=run.seed,
        features=features,
        epochs=len(result.history),
        best_epoch=int(result.best["epoch"]),
        parameters=sum(parameter.numel() for parameter in result.model.parameters()),
        seconds=round(seconds, 3),
        transfer=str(result.transfer) if result.transfer else None,
        warnings=result.warnings,
    )
    value = number_or_null(monitored(result.best, config.train.monitor))
    _write_run(storage, folder, run, outputs, {**told, "monitored": value})


def run_yardstick(data: Any, split: np.ndarray, run: Run, storage: Storage, folder: str) -> None:
    """Fit scikit-learn's model on the shared features, split so, and write what it is worth."""
    from mmray.training.comparison import Rows
    from mmray.training.yardsticks import fit_yardstick

    data = replace(data, split=split)
    start, features = time.perf_counter(), list(run.config.features)
    outputs, chosen = fit_yardstick(run.yardstick, data, features, run.config.targets)
    if not chosen:
        kinds = ", ".join(target.kind for target in run.config.targets.values())
        raise SamplesError(f"{run.yardstick} predicts classes and numbers; the targets are {kinds}")
    told = Rows.of(data, run.config.targets, data.seen).result(
        outputs,
        run.config.train.monitor,
        model=run.model,
        variant=0,
        seed=run.seed,
        features=features,
        parameters=None,
        seconds=round(time.perf_counter() - start, 3),
        chosen=chosen,
    )
    _write_run(storage, folder, run, outputs, told)


def _write_run(storage: Storage, folder: str, run: Run, outputs: Outputs, told: Mapping[str, Any]) -> None:
    """Outputs first: the JSON says that both are there."""
    file = io.BytesIO()
    arrays = {f"{split}/{target}": y for split, of in outputs.items() for target, y in of.items()}
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    storage.write(f"{folder}/{run.key}.npz", file.getvalue())
    storage.write_json(f"{folder}/{run.key}.json", dict(told))


def _read_outputs(storage: Storage, folder: str, run: Run) -> Outputs:
    with np.load(io.BytesIO(storage.read(f"{folder}/{run.key}.npz"))) as file:
        outputs: dict[str, dict[str, np.ndarray]] = {"val": {}, "test": {}}
        for name in file.files:
            split, _, target = name.partition("/")
            outputs[split][target] = file[name]
    return outputs


# ------------------------------------------------------------------------------------ the table


def table_rows(
    config: Config,
    results: Mapping[Run, Mapping[str, Any] | None],
    together: Callable[[Sequence[Run]], Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """A row a model: the majority, each feature alone, the models in the config's order, the yardsticks; then
    what the seeds of each say together, as `together` judges the runs of one fold.

    A model keeps the variant with the best mean of its own monitor. A variant of which a run failed (None) is
    none to choose; a model without any other has no row.
    """
    from mmray.training.comparison import Entry, joined, majority_row, model_rows

    by_model: dict[str, dict[int, list[Run]]] = {}
    for run in results:
        by_model.setdefault(run.model, {}).setdefault(run.variant, []).append(run)
    entries, ensembles = [], []
    for model, variants in by_model.items():
        made = []
        for variant, runs in variants.items():
            if any(results[run] is None for run in runs):
                continue
            settings = config.compare.variants[variant] if config.compare.variants else {}
            of_seeds = _grouped(runs, lambda run: run.seed)
            found = [
                joined([result for run in several if (result := results[run])])
                for several in of_seeds.values()
            ]
            first = runs[0]
            entry = Entry(
                model,
                list(first.config.features),
                found,
                found[0].get("chosen", {}) if first.yardstick else settings,
                folds=len(next(iter(of_seeds.values()))),
                comparable=first.config.train.monitor == config.train.monitor
                and not (first.yardstick and config.train.monitor == "loss"),
            )
            made.append((entry, runs))
        if not made:
            continue
        sign = 1 if lower_is_better(variants[made[0][1][0].variant][0].config.train.monitor) else -1
        entry, runs = min(made, key=lambda one: _worst_if_nan(sign * one[0].validation))
        entries.append(entry)
        if together and len(entry.results) > 1:
            folds = _grouped(runs, lambda run: run.fold)
            joint = joined([together(members) for members in folds.values()])
            told = f"{model}, ensemble of {len(entry.results)}"
            ensembles.append(replace(entry, model=told, results=[joint]))
    first = entries[0].results[0]
    return [majority_row(first["test"]), *model_rows([*entries, *ensembles], config.train.monitor)]


def _grouped(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
