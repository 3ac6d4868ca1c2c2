"""A search space in, the best config out: Ray Tune runs the same `fit` many times and stops the poor.

A trial is told by its settings; it runs in a process that has run others before, on features that all share,
and reports every epoch's validation metrics. The test split is not touched. Trials are compared by
`train.monitor`, which no setting that is searched may change. A trial that fails (it diverges, or its
settings contradict each other) has a reason and is never the best; one that dies goes on from its checkpoint.

The winner is then trained with several seeds, and judged on the test split, once. The search is named by all
that decides it. A finished one is read; one that was interrupted is continued:
what ended is kept, what ran goes on, what died is tried again.
"""

import json
import logging
import math
import os
from typing import Any

import numpy as np

from mmray.config import Config, ConfigLike, Space, as_config, dump_config
from mmray.config.search import choose, draws, perturbed
from mmray.config.variants import varied
from mmray.distributed.admission import Pool, Workers, plan_memory, plan_tune
from mmray.distributed.feeding import load_features, table_bytes
from mmray.distributed.progress import EpochFeed, watch_trials, write_hparams
from mmray.distributed.trial import run_trial, run_wide_trial
from mmray.errors import ConfigError, TableError
from mmray.stages.compare import judged
from mmray.stages.train import check_targets, starts_from, up_to_date
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.features import Data
from mmray.tables.identity import search_name
from mmray.targets import lower_is_better

__all__ = ["search_folder", "tune"]

RESTARTS = 2
"""Times a trial goes on after its process or node died."""


@one_driver
def tune(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Search `tune.space`; write the table of trials and the best config, return a summary.

    Raises:
        ConfigError: where the space is empty.
        SamplesError: where a split is empty, a label is unknown, or the monitor is undefined.
        TableError: where the features are not there or every trial failed.
        PlanError: where not even one trial fits.
    """
    config = as_config(config)
    if not config.tune.space:
        raise ConfigError("config", [("tune.space", "is empty: name a setting to search")])
    storage = Storage(config.storage)
    folder = search_folder(config, storage, up_to_date(config, storage))
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is None:
        small = load_features(config, storage, [])
        check_targets(config, small)
        trials, concurrent = _trials(config, storage, folder, address)
        found = _best(config, trials[0])
        storage.write(f"{folder}/best.yaml", dump_config(found).encode())
        test: dict[str, Any] = {"rows": [], "failed": {}}
        if config.tune.retrain_seeds and (small.split == "test").any():
            test = judged(found, range(config.tune.retrain_seeds), storage, address)
        summary = {**_summary(config, folder, trials, test), "concurrent": concurrent}
        storage.write_json(f"{folder}/_summary.json", summary)
    return summary


def search_folder(config: Config, storage: Storage, data: Data) -> str:
    """Where the search of this config on these data is."""
    return config.path("tune", search_name(config, data.digest, starts_from(config, storage)))


def _trials(
    config: Config, storage: Storage, folder: str, address: str | None
) -> tuple[list[dict[str, Any]], int]:
    """Run the trials; all of them, best first, as `training.search` describes a trial, and how many at once.

    Raises:
        TableError: where none has a result.
    """
    from mmray.distributed import pools as cluster
    from mmray.training.search import as_csv

    cluster.connect(address, config.cluster)
    nodes = cluster.nodes()
    planned = config.tune.trials if config.tune.searcher == "optuna" else draws(config)
    concurrent = plan_tune(config.tune, nodes)
    gpu = config.tune.gpus_per_trial > 0
    shares = Workers(concurrent * config.tune.workers, config.tune.cpus_per_trial, gpu)
    mapped = table_bytes(config, storage) > plan_memory(config.train, shares, nodes)
    cluster.announce_wait([Pool(config.tune.workers, config.tune.cpus_per_trial, config.tune.gpus_per_trial)])
    epochs = EpochFeed.start()
    with watch_trials(config.name, epochs, min if _mode(config) == "min" else max):
        results = _search(config, storage, folder, planned, mapped, concurrent, epochs)
    trials = _trial_rows(results, config)
    if trials[0]["best"] is None:
        reasons = "; ".join(dict.fromkeys(str(trial["error"] or trial["state"]) for trial in trials))
        raise TableError(f"{folder}: no trial of {len(trials)} has a result: {reasons}")
    storage.write(f"{folder}/trials.csv", as_csv(trials, list(config.tune.space)))
    write_hparams(trials, storage, f"{folder}/tensorboard")
    return trials, concurrent


def _best(config: Config, trial: dict[str, Any]) -> Config:
    """The config of a trial: by `train` it gives the trial's value.

    Dropout draws by worker, so that their number is the trial's.
    """
    workers = {"train.workers": config.tune.workers, "train.min_workers": None}
    return varied(config, {**trial["settings"], **workers})


def _summary(
    config: Config, folder: str, trials: list[dict[str, Any]], test: dict[str, Any]
) -> dict[str, Any]:
    from mmray.training.search import STATES, told

    best = trials[0]
    states = [trial["state"] for trial in trials]
    return {
        "trials": len(trials),
        "failed": states.count("failed"),
        "states": {state: states.count(state) for state in STATES},
        "monitor": config.train.monitor,
        "best_value": best["best"],
        "best_settings": best["settings"],
        "best_config": f"{folder}/best.yaml",
        "table": f"{folder}/trials.csv",
        **told(trials, lower_is_better=lower_is_better(config.train.monitor)),
        "test": test,
        "seconds": round(sum(trial["seconds"] for trial in trials), 3),
        "output": folder,
    }


def _mode(config: Config) -> str:
    """Whether a lower or a higher `monitor` is better."""
    return "min" if lower_is_better(config.train.monitor) else "max"


# ------------------------------------------------------------------------------------ the search


def _search(
    config: Config,
    storage: Storage,
    folder: str,
    planned: int | list[dict[str, Any]],
    mapped: bool,
    concurrent: int,
    epochs: Any,
) -> Any:
    """Run the trials that have not ended; all of them as Ray Tune's result grid."""
    from ray import tune as ray_tune

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0: Tune's own tables stay away
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # files that nobody reads
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")  # how much a kill may cost
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what matters of it is in the table of trials
    trainable = _trainable(config, storage, folder, mapped, epochs)
    filesystem, path = storage.arrow(folder)
    if ray_tune.Tuner.can_restore(f"{path}/ray", storage_filesystem=filesystem):
        return ray_tune.Tuner.restore(
            f"{path}/ray",
            trainable,
            resume_unfinished=True,
            resume_errored=True,  # died: a trial that fails by its settings ends with a reason, not an error
            storage_filesystem=filesystem,
        ).fit()
    known = isinstance(planned, list)
    return ray_tune.Tuner(
        trainable,
        param_space={"settings": ray_tune.grid_search(planned)} if known else None,
        tune_config=ray_tune.TuneConfig(
            metric="best",
            mode=_mode(config),
            num_samples=1 if known else planned,
            search_alg=None if known else _optuna(config),
            scheduler=_scheduler(config),
            max_concurrent_trials=concurrent,
            time_budget_s=config.tune.time_budget_s,
            reuse_actors=config.tune.workers == 1,
        ),
        run_config=ray_tune.RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray_tune.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=ray_tune.CheckpointConfig(
                num_to_keep=None if config.tune.scheduler == "pbt" else 1  # an heir takes any earlier one
            ),
            verbose=0,
        ),
    ).fit()


def _trainable(config: Config, storage: Storage, folder: str, mapped: bool, epochs: Any) -> Any:
    """What Ray Tune calls for each trial, with the resources it holds."""
    from ray import tune as ray_tune

    settings = config.tune
    if settings.workers > 1:  # the process that leads them only waits
        leading = ray_tune.with_parameters(
            run_wide_trial,
            config=config,
            storage=storage,
            folder=f"{folder}/trials",
            mapped=mapped,
            workers=Workers(settings.workers, settings.cpus_per_trial, settings.gpus_per_trial > 0),
            epochs=epochs,
        )
        return ray_tune.with_resources(leading, {"memory": 1})  # a byte: nothing at all is refused
    data = None if mapped else load_features(config, storage, list(config.features)).without_test()
    alone = ray_tune.with_parameters(run_trial, config=config, storage=storage, data=data, epochs=epochs)
    return ray_tune.with_resources(alone, {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial})


def _scheduler(config: Config) -> Any:
    from ray.tune import schedulers

    grace = config.tune.grace_epochs
    if config.tune.scheduler == "asha":
        return schedulers.ASHAScheduler(
            time_attr="epoch",
            max_t=max(config.train.epochs, grace),
            grace_period=grace,
            reduction_factor=config.tune.reduction,
        )
    if config.tune.scheduler == "median":
        return schedulers.MedianStoppingRule(time_attr="epoch", grace_period=grace)
    if config.tune.scheduler == "pbt":
        rng = np.random.default_rng(config.tune.seed)
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=grace,
            custom_explore_fn=lambda given: {"settings": perturbed(config, given["settings"], rng)},
        )
    return schedulers.FIFOScheduler()


def _optuna(config: Config) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=config.tune.seed, multivariate=True, group=True)
    return OptunaSearch(Suggest(config), metric="best", mode=_mode(config), sampler=sampler)


class Suggest:
    """Optuna's trial → the settings it suggests, each asked for only where it applies."""

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, trial: Any) -> dict[str, Any]:
        """The trial's config as Tune is to hand it on."""
        return {"settings": choose(self.config, lambda dotted, space: self._suggest(trial, dotted, space))}

    def _suggest(self, trial: Any, dotted: str, space: Space) -> Any:
        if space.choice:  # Optuna knows plain values only
            return json.loads(
                trial.suggest_categorical(dotted, [json.dumps(value) for value in space.choice])
            )
        if space.int:
            return trial.suggest_int(dotted, *space.int)
        low, high = space.values
        return trial.suggest_float(dotted, low, high, log=space.log_uniform is not None)


# ------------------------------------------------------------------------------------ its trials


def _trial_rows(results: Any, config: Config) -> list[dict[str, Any]]:
    """A row a trial, best first, failed ones last: settings, best monitored value, epochs, state, error."""
    rows = []
    for result in results:
        metrics = result.metrics or {}
        settings = (result.config or {}).get("settings", {})
        error = metrics.get("fault") or (str(result.error).strip().splitlines()[-1] if result.error else None)
        best = metrics.get("best", math.nan)
        rows.append(
            {
                "settings": {name: settings[name] for name in config.tune.space if name in settings},
                "best": best if error is None and math.isfinite(best) else None,
                "best_epoch": int(metrics.get("best_epoch", 0)),
                "epochs": int(metrics.get("epoch", 0)),
                "seconds": round(metrics.get("time_total_s", 0.0), 3),
                "state": _state(metrics, error, varied(config, settings) if not error else config),
                "error": error,
                "curve": metrics.get("curve", []),
            }
        )
    sign = 1 if _mode(config) == "min" else -1
    return sorted(rows, key=lambda row: math.inf if row["best"] is None else sign * row["best"])


def _state(metrics: dict[str, Any], error: str | None, config: Config) -> str:
    if error is not None:
        return "failed"
    if not metrics.get("epoch"):
        return "unfinished"
    whole = metrics["epoch"] >= config.train.epochs or metrics["bad_epochs"] >= config.train.patience
    return "ended" if whole else "stopped"
