"""A search space in, the best config out: Ray Tune runs the same `fit` many times, ASHA stops the poor.

A trial is one process that is given the feature table and reports every epoch's validation metrics; the
test split is not touched. The best settings are written as a config that `mmray train` takes. An
interrupted search goes on where it was.
"""

import csv
import io
import math
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np

from mmray.config import Config, ConfigLike, Space, as_config, dump_config, override
from mmray.config.metrics import lower_is_better
from mmray.distributed.admission import Pool, Workers, plan_memory, plan_tune
from mmray.distributed.feeding import load_features, open_table, streaming_window
from mmray.distributed.progress import EpochFeed, watch_trials
from mmray.errors import ConfigError, TableError
from mmray.stages.train import check_targets, other_model, require_features
from mmray.storage.filesystem import Storage
from mmray.tables.identity import hash_of

__all__ = ["tune"]


def tune(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Search `tune.space`; write the table of trials and the best config, return a summary.

    Raises:
        ConfigError: where the space is empty, or one of its values is not valid.
        TableError: where the features are not there or every trial failed.
        PlanError: where not even one trial fits.
    """
    config = as_config(config)
    _check_space(config)
    storage = Storage(config.storage)
    features = require_features(config, storage)
    check_targets(config, load_features(config, storage, []))
    from mmray.distributed import pools as cluster

    cluster.connect(address)
    nodes = cluster.nodes()
    concurrent = plan_tune(config.tune, nodes)
    shares = Workers(concurrent, config.tune.cpus_per_trial, config.tune.gpus_per_trial > 0)
    window = streaming_window(config, storage, plan_memory(config.train, shares, nodes))
    cluster.announce_wait([Pool(1, config.tune.cpus_per_trial, config.tune.gpus_per_trial)])
    start = time.perf_counter()
    epochs = EpochFeed.start()
    with watch_trials(epochs, min if _mode(config) == "min" else max):
        results = _search(config, storage, features, window, concurrent, epochs)
    trials = _trial_rows(results, config)
    best = trials[0]
    if math.isnan(best["best"]):
        reasons = "; ".join(dict.fromkeys(str(trial["error"]) for trial in trials))
        raise TableError(f"{config.path('tune')}: all {len(trials)} trials failed: {reasons}")
    folder = config.path("tune")
    storage.write(f"{folder}/trials.csv", _as_csv(trials))
    settings = {dotted: best[dotted] for dotted in config.tune.space}
    storage.write(f"{folder}/best.yaml", dump_config(override(config, settings)).encode())
    summary = {
        "trials": len(trials),
        "failed": sum(trial["error"] is not None for trial in trials),
        "monitor": config.train.monitor,
        "best_value": best["best"],
        "best_settings": settings,
        "best_config": f"{folder}/best.yaml",
        "table": f"{folder}/trials.csv",
        "concurrent": concurrent,
        "seconds": round(time.perf_counter() - start, 3),
        "output": folder,
    }
    storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def _check_space(config: Config) -> None:
    if not config.tune.space:
        raise ConfigError("config", [("tune.space", "is empty: name a setting to search")])
    faults = []
    for dotted, space in config.tune.space.items():
        for value in space.grid or space.choice or space.uniform or space.log_uniform or ():
            try:
                override(config, {dotted: value})
            except ConfigError as error:
                faults += [(f"tune.space.{dotted}", f"{value!r}: {message}") for _, message in error.faults]
    if faults:
        raise ConfigError("config", faults)


def _search(
    config: Config, storage: Storage, features: str, window: int | None, concurrent: int, epochs: Any
) -> Any:
    """Run the trials that are not done yet; all of them as Ray Tune's result grid."""
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            config=config,
            storage=storage,
            data=_without_test(open_table(config, storage, list(config.features), window)),
            epochs=epochs,
        ),
        {"CPU": config.tune.cpus_per_trial, "GPU": config.tune.gpus_per_trial},
    )
    filesystem, path = storage.arrow(config.path("tune"))
    name = _search_name(config, features)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0: Tune's own tables stay away
    if ray_tune.Tuner.can_restore(f"{path}/{name}", storage_filesystem=filesystem):
        tuner = ray_tune.Tuner.restore(
            f"{path}/{name}", trainable, resume_unfinished=True, storage_filesystem=filesystem
        )
        return tuner.fit()
    only_grids = all(space.grid for space in config.tune.space.values())
    tuner = ray_tune.Tuner(
        trainable,
        param_space={dotted: _domain(space) for dotted, space in config.tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            num_samples=1 if only_grids else config.tune.trials,
            search_alg=BasicVariantGenerator(max_concurrent=concurrent, random_state=config.tune.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                metric="monitored",
                mode=_mode(config),
                max_t=max(config.train.epochs, config.tune.grace_epochs),
                grace_period=config.tune.grace_epochs,
                reduction_factor=config.tune.reduction,
            ),
        ),
        run_config=ray_tune.RunConfig(name=name, storage_path=path, storage_filesystem=filesystem, verbose=0),
    )
    return tuner.fit()


def _without_test(data: Any) -> Any:
    """The table without the test split, which no trial may see; streamed, its rows belong to no split."""
    from mmray.training.batches import FeatureSet

    if isinstance(data, FeatureSet):
        return data.subset(data.split != "test")
    split = np.where(data.index.split == "test", None, data.index.split)
    return replace(data, index=replace(data.index, split=split))


def run_trial(settings: dict[str, Any], config: Config, storage: Storage, data: Any, epochs: Any) -> None:
    """What a trial does: fit with these settings, report every epoch."""
    import torch
    from ray import tune as ray_tune

    from mmray.training.loop import fit

    torch.set_num_threads(max(1, int(config.tune.cpus_per_trial)))
    trial = override(config, settings)
    monitor = "val_loss" if config.train.monitor == "loss" else f"val/{config.train.monitor}"

    values: list[float] = []

    def report(metrics: dict[str, float], save: Any) -> None:
        values.append(metrics[monitor])
        best = values[int(metrics["best_epoch"]) - 1]
        epochs.put.remote({"trial": ray_tune.get_context().get_trial_id(), "best": best})
        ray_tune.report({**metrics, "monitored": metrics[monitor], "best": best})

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with other_model(trial, storage) as other:
        fit(
            trial.model,
            trial.train,
            data,
            list(trial.features),
            trial.targets,
            device=device,
            report=report,
            initialize_from=other,
        )


def _domain(space: Space) -> Any:
    from ray import tune as ray_tune

    if space.grid:
        return ray_tune.grid_search(space.grid)
    if space.choice:
        return ray_tune.choice(space.choice)
    if space.uniform:
        return ray_tune.uniform(*space.uniform)
    assert space.log_uniform, "a space is exactly one of four"
    return ray_tune.loguniform(*space.log_uniform)


def _mode(config: Config) -> str:
    """Whether a lower or a higher `monitor` is better."""
    return "min" if lower_is_better(config.train.monitor) else "max"


def _search_name(config: Config, features: str) -> str:
    """A name that follows from all that decides the search, so that only the same one is continued."""
    sections = config.model_dump(mode="json", include={"targets", "model", "train", "tune"})
    del sections["tune"]["concurrent"]
    return hash_of({**sections, "features": features})


def _trial_rows(results: Any, config: Config) -> list[dict[str, Any]]:
    """A row a trial, best first: its settings, best monitored value, epochs, seconds and error."""
    rows = []
    for result in results:
        metrics = result.metrics or {}
        error = str(result.error).strip().splitlines()[-1] if result.error else None
        rows.append(
            {
                **{dotted: (result.config or {}).get(dotted) for dotted in config.tune.space},
                "best": metrics.get("best", math.nan),
                "best_epoch": metrics.get("best_epoch", 0),
                "epochs": metrics.get("epoch", 0),
                "seconds": round(metrics.get("time_total_s", 0.0), 3),
                "error": error,
            }
        )
    sign = 1 if _mode(config) == "min" else -1
    return sorted(rows, key=lambda row: math.inf if math.isnan(row["best"]) else sign * row["best"])


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()
