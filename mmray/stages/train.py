"""Feature table in, fusion model and its test metrics out: Ray Train runs DDP workers.

Every worker reads the table once, or streams it (see `feeding`), and calls the one `fit`; each epoch
leaves a checkpoint with Ray, from which the run goes on after a worker, or this driver, has died. What is
trained (settings, features) names the run's folder: the same config continues or does nothing, another one
is another run, and no model is ever overwritten. Models on each feature alone, as plain Ray tasks, give the
rows to beat.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmray import console
from mmray.config import Config, ConfigLike, as_config
from mmray.distributed.admission import Workers, plan_memory, plan_train
from mmray.distributed.feeding import load_features, open_table, streaming_window
from mmray.distributed.progress import EpochFeed, watch_training
from mmray.errors import MmrayError, SamplesError, TableError
from mmray.results.rows import pattern_rows, results_rows
from mmray.stages.extract import features_folder
from mmray.storage.filesystem import Storage
from mmray.tables.identity import feature_spec, hash_of, require_same

__all__ = ["check_targets", "other_model", "require_features", "train"]


def train(config: ConfigLike, address: str | None = None) -> dict[str, Any]:
    """Train the config's model, evaluate it once on the test split, return (and store) the results.

    Raises:
        TableError: where the features are not there, unfinished, or made with other settings.
        SamplesError: where a split is empty or a label is unknown, before any worker starts.
        PlanError: where the workers do not fit.
    """
    config = as_config(config)
    storage = Storage(config.storage)
    features = require_features(config, storage)
    run = _run_name(config, storage, features)
    results = storage.read_json(f"{config.path('train')}/{run}/results.json")
    if results is None:
        check_targets(config, load_features(config, storage, []))
        results = _train(config, storage, run, features, address)
        storage.write_json(f"{config.path('train')}/{run}/results.json", results)
    storage.write_json(f"{config.path('train')}/results.json", results)
    return results


def _train(config: Config, storage: Storage, run: str, features: str, address: str | None) -> dict[str, Any]:
    from mmray.distributed import pools as cluster

    cluster.connect(address)
    nodes = cluster.nodes()
    workers = plan_train(config.train, nodes)
    window = streaming_window(config, storage, plan_memory(config.train, workers, nodes))
    cluster.announce_wait([workers.pool])
    start = time.perf_counter()
    fused = _fit_on_workers(config, storage, run, features, workers, window)
    alone = _fit_alone(config, workers, features, window) if config.train.baselines else {}
    return {
        "run": run,
        "model": config.path("train", run, "model"),
        "model_fingerprint": fused["fingerprint"],
        "features": list(config.features),
        "features_fingerprint": features,
        "history": fused["history"],
        "best_epoch": int(fused["history"][-1]["best_epoch"]),
        "monitor": config.train.monitor,
        "workers": fused["workers"],
        "streamed": window is not None,
        "transfer": fused["transfer"],
        "seconds": round(time.perf_counter() - start, 3),
        "rows": results_rows(fused["test"], alone, list(config.features)),
        "patterns": pattern_rows(fused["test"]),
        "splits": fused["splits"],
        "output": config.path("train", run),
    }


# ------------------------------------------------------------------------------------ before


def require_features(config: Config, storage: Storage) -> str:
    """The fingerprint of the config's feature table, which must be complete and made with its settings.

    Raises:
        TableError: where it is not.
    """
    folder = features_folder(config)
    summary = storage.read_json(f"{folder}/_summary.json")
    if summary is None:
        raise TableError(f"{folder}: there is no finished feature table here; run `mmray extract` first")
    made_with = storage.read_json(f"{folder}/_spec.json")
    fingerprint = made_with.pop("fingerprint")
    remedy = "set these back, or extract again into another `output`"
    require_same(folder, made_with, feature_spec(config, made_with), remedy)
    return fingerprint


def check_targets(config: Config, data: Any) -> None:
    """Look at the splits and labels of a FeatureSet, which needs no features for this.

    Raises:
        SamplesError: where train or val is empty, or a label is not known from training.
    """
    from mmray.training.fitting import fit_codes

    for split in ("train", "val"):
        if not (data.split == split).any():
            counts = {name: int((data.split == name).sum()) for name in ("train", "val", "test")}
            raise SamplesError(
                f"the {split} split has no samples ({counts}); give some rows split {split!r} in the "
                "manifest, or leave its split column out and set samples.split"
            )
    for name, target in config.targets.items():
        fit_codes(name, target, data.targets[name], data.sample_ids, data.split == "train")


def _run_name(config: Config, storage: Storage, features: str) -> str:
    """A name that follows from all that decides the result."""
    sections = config.model_dump(mode="json", include={"targets", "model", "train"})
    for free in ("workers", "min_workers", "cpus_per_worker", "max_restarts"):
        del sections["train"][free]
    if other := config.train.initialize_from:
        sections["initialize_from"] = _fingerprint_of(storage, other)
    return hash_of({**sections, "features": features})


def _fingerprint_of(storage: Storage, folder: str) -> str:
    model = storage.read_json(f"{folder}/model.json")
    if model is None:
        raise TableError(f"train.initialize_from: {folder} holds no trained model (no model.json)")
    return model["fingerprint"]


@contextlib.contextmanager
def other_model(config: Config, storage: Storage) -> Iterator[str | None]:
    """The model `train.initialize_from` names, as a local folder while the block runs."""
    if config.train.initialize_from is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield storage.copy_down(config.train.initialize_from, folder)


# ------------------------------------------------------------------------------------ the fused model


def _fit_on_workers(
    config: Config, storage: Storage, run: str, features: str, workers: Workers, window: int | None
) -> dict[str, Any]:
    import logging

    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon it sees that workers ended
    filesystem, path = storage.arrow(config.path("train"))
    epochs = EpochFeed.start()
    trainer = TorchTrainer(
        fit_worker,
        train_loop_config={
            "config": config,
            "storage": storage,
            "model_folder": config.path("train", run, "model"),
            "features_fingerprint": features,
            "window": window,
            "epochs": epochs,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.elastic or workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=run,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        torch_config=TorchConfig(backend="nccl" if workers.gpu else "gloo"),
    )
    with watch_training(epochs, config, storage, config.path("train", run, "tensorboard")):
        try:
            outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            if fault := _fault_of(error):
                raise fault from None
            raise
    assert outcome is not None, "rank 0 returns what it fitted"
    return outcome


def fit_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each DDP worker does: read the table, fit, hand every epoch's checkpoint to Ray."""
    import ray.train
    import ray.train.torch
    import torch

    from mmray.training.checkpoint import model_fingerprint
    from mmray.training.loop import fit

    context = ray.train.get_context()
    rank, config, storage = context.get_world_rank(), settings["config"], settings["storage"]
    torch.set_num_threads(1)

    def report(metrics: dict[str, float], save: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if save is not None:
                save(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                settings["epochs"].put.remote(metrics)
            ray.train.report(metrics, checkpoint=checkpoint)

    def run(resume: str | None) -> dict[str, Any]:
        features = list(config.features)
        with other_model(config, storage) as other:
            result = fit(
                config.model,
                config.train,
                open_table(config, storage, features, settings["window"]),
                features,
                config.targets,
                rank=rank,
                world_size=context.get_world_size(),
                device=str(ray.train.torch.get_device()),
                report=report,
                resume=resume,
                initialize_from=other,
                features_fingerprint=settings["features_fingerprint"],
            )
        if rank == 0:
            _save_model(result, storage, settings["model_folder"])
        return {
            "history": result.history,
            "test": result.test,
            "fingerprint": model_fingerprint(result.snapshot.spec, result.snapshot.weights),
            "splits": result.rows,
            "workers": context.get_world_size(),
            "transfer": str(result.transfer) if result.transfer else None,
        }

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return run(None)
    with checkpoint.as_directory() as folder:
        return run(folder)


def _save_model(result: Any, storage: Storage, folder: str) -> None:
    """The checkpoint directory into storage; `trainer.pt`, which says that it is whole, goes last."""
    with tempfile.TemporaryDirectory() as local:
        result.save(local)
        for name in sorted(os.listdir(local), key=lambda name: (name == "trainer.pt", name)):
            storage.write(f"{folder}/{name}", Path(local, name).read_bytes())


def _fault_of(error: Any) -> MmrayError | None:
    """The fault of ours that ended the workers, if it was one."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, MmrayError):
            return cause
    return None


# ------------------------------------------------------------------------------------ the rows to beat


def _fit_alone(
    config: Config, workers: Workers, features: str, window: int | None
) -> dict[str, dict[str, Any]]:
    """The test report of the same model on each feature alone, from scratch, side by side as Ray tasks."""
    import ray

    if len(config.features) == 1:
        return {}
    task = ray.remote(num_cpus=workers.cpus, num_gpus=1 if workers.gpu else 0)(fit_alone)
    settings = ray.put((config, Storage(config.storage), features, window))
    pending = {name: task.remote(settings, name) for name in config.features}
    with console.progress("baselines", total=len(pending)) as meter:
        reports = {}
        for name, reference in pending.items():
            reports[name] = ray.get(reference)
            meter.advance(1, f"{name} only")
    return reports


def fit_alone(settings: tuple[Config, Storage, str, int | None], feature: str) -> dict[str, Any]:
    """Fit the config's model on one feature; its test report."""
    import torch

    from mmray.training.loop import fit

    config, storage, fingerprint, window = settings
    torch.set_num_threads(1)
    result = fit(
        config.model,
        config.train.model_copy(update={"freeze": [], "learning_rates": {}}),
        open_table(config, storage, [feature], window),
        [feature],
        config.targets,
        device="cuda" if torch.cuda.is_available() else "cpu",
        features_fingerprint=fingerprint,
    )
    return result.test
