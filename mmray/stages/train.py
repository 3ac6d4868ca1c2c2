"""Feature table in, fusion model and its test metrics out: Ray Train runs DDP workers.

Every worker reads the table once, or maps it from a disk (see `feeding`), and calls the one `fit`; each epoch
leaves a checkpoint with Ray, from which the run goes on after a worker, or this driver, has died. What is
trained (settings, data) names the run, and nothing else does: the same config continues or does nothing;
another one, or the same after a relabel, is another run, and no model is ever overwritten. Models on each
feature alone, fitted by the same workers, give the rows to beat.
"""

import time
from typing import Any

from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import plan_memory, plan_train
from mmray.distributed.feeding import load_features, table_bytes
from mmray.distributed.training import Job, fit_on_workers
from mmray.errors import SamplesError, TableError
from mmray.results.card import CARD, card
from mmray.results.rows import pattern_rows, results_rows
from mmray.samples.of_arrays import project_index
from mmray.stages.score_samples import FEATURES, described
from mmray.storage.filesystem import Storage
from mmray.storage.lock import one_driver
from mmray.tables.features import Data, require_data
from mmray.tables.identity import hash_of, run_name

__all__ = ["check_targets", "model_folder", "run_of", "starts_from", "train", "trained", "up_to_date"]


@one_driver
def train(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Train the config's model, evaluate it once on the test split, return (and store) the results.

    Raises:
        TableError: where the features are not there, unfinished, or made with other settings.
        SamplesError: where a split is empty or a label is unknown, before any worker starts.
        PlanError: where the workers do not fit.
    """
    config = as_config(config)
    storage = Storage(config.storage)
    data = up_to_date(config, storage)
    results = trained(config, storage, data)
    if results is None or not {*_baselines(config)} <= {*results["alone"]}:
        check_targets(config, load_features(config, storage, []))
        results = _train(config, storage, data, address)
        storage.write_json(f"{model_folder(config, results['run'])}/{FEATURES}", described(config, data))
        results["warnings"] = [*data.index.leaks, *results["warnings"]]
        storage.write(f"{model_folder(config, results['run'])}/{CARD}", card(config, results).encode())
        storage.write_json(_results_of(config, results["run"]), results)
    return results


def trained(config: Config, storage: Storage, data: Data) -> dict[str, Any] | None:
    """The results of this config's training on these data; None where it has not ended."""
    return storage.read_json(_results_of(config, run_of(config, storage, data)))


def model_folder(config: Config, run: str) -> str:
    """Where the model of a run is, with its results: all that scoring needs."""
    return config.path("models", run)


def _results_of(config: Config, run: str) -> str:
    return f"{model_folder(config, run)}/results.json"


def _baselines(config: Config) -> list[str]:
    """The features on each of which alone a model is trained beside."""
    return list(config.features) if config.train.baselines and len(config.features) > 1 else []


def _train(config: Config, storage: Storage, data: Data, address: str | None) -> dict[str, Any]:
    from mmray.distributed import pools as cluster

    cluster.connect(address, config.cluster)
    nodes = cluster.nodes()
    workers = plan_train(config.train, nodes)
    mapped = table_bytes(config, storage) > plan_memory(config.train, workers, nodes)
    cluster.announce_wait([workers.pool])
    start = time.perf_counter()
    run, features = run_of(config, storage, data), hash_of(data.fingerprints)
    job = Job(
        config=config,
        storage=storage,
        folder=config.path("train", run),
        model_folder=model_folder(config, run),
        features_fingerprint=features,
        baselines=_baselines(config),
        mapped=mapped,
    )
    fused = fit_on_workers(job, workers)
    untrained = {name: report["fault"] for name, report in fused["alone"].items() if "fault" in report}
    alone = {name: report for name, report in fused["alone"].items() if name not in untrained}
    return {
        "run": run,
        "model": model_folder(config, run),
        "model_fingerprint": fused["fingerprint"],
        "features": list(config.features),
        "features_fingerprint": features,
        "history": fused["history"],
        "best_epoch": int(fused["history"][-1]["best_epoch"]),
        "monitor": config.train.monitor,
        "workers": fused["workers"],
        "mapped": mapped,
        "transfer": fused["transfer"],
        "warnings": [
            *fused["warnings"],
            *(f"no model on {name} alone: {fault}" for name, fault in untrained.items()),
        ],
        "seconds": round(time.perf_counter() - start, 3),
        "rows": results_rows(fused["test"], alone, list(config.features)),
        "alone": list(fused["alone"]),
        "patterns": pattern_rows(fused["test"]),
        "splits": fused["splits"],
        "output": model_folder(config, run),
    }


# ------------------------------------------------------------------------------------ before


def up_to_date(config: Config, storage: Storage) -> Data:
    """The index, made again where the source has changed, and the complete tables of all features.

    Raises:
        SamplesError: where the source is not whole.
        TableError: where a feature has no complete table.
    """
    index = project_index(config, storage)
    return require_data(config, storage, index=index)


def run_of(config: Config, storage: Storage, data: Data) -> str:
    """The name of the training of this config on this data.

    Raises:
        TableError: where `train.initialize_from` holds no trained model.
    """
    return run_name(config, data.digest, starts_from(config, storage))


def starts_from(config: Config, storage: Storage) -> str | None:
    """The fingerprint of the model `train.initialize_from` names.

    Raises:
        TableError: where it holds no trained model.
    """
    folder = config.train.initialize_from
    if folder is None:
        return None
    model = storage.read_json(f"{folder}/model.json")
    if model is None:
        raise TableError(f"train.initialize_from: {folder} holds no trained model (no model.json)")
    return model["fingerprint"]


def check_targets(config: Config, data: Any) -> None:
    """Look at the splits and labels of a FeatureSet, which needs no features for this.

    Raises:
        SamplesError: where train or val is empty, a label is not known from training, or no model could give
            `train.monitor` a value on val.
    """
    from mmray.training.monitor import undefined_by_truths

    for split in ("train", "val"):
        if not (data.split == split).any():
            counts = {name: int((data.split == name).sum()) for name in ("train", "val", "test")}
            raise SamplesError(
                f"the {split} split has no samples ({counts}); give some rows split {split!r} in the "
                "manifest, or leave its split column out and set samples.split"
            )
    fitted = {
        name: target.fit(name, data.targets[name], data.sample_ids, data.split == "train")
        for name, target in config.targets.items()
    }
    truths = {name: target.encode(data.targets[name][data.split == "val"]) for name, target in fitted.items()}
    if undefined := undefined_by_truths(fitted, truths, config.train.monitor):
        raise SamplesError(undefined)
