"""One model fitted by DDP workers of Ray Train, and in the same warm processes the models it must beat.

    driver ── Job ──▶ Ray Train's controller ──▶ workers: fit ──▶ a checkpoint an epoch, the model
                                                 workers: fit on one feature alone ──▶ a report each

Who is told what: a fault of ours ends the run at once, from whichever worker, and is never tried again; a
worker that died is started again from the last checkpoint, `train.max_restarts` times; where the workers no
longer fit (a node is lost) that is said within seconds, and after `train.stall_timeout_s` the run ends with
what it waits for.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmray import console
from mmray.config import Config
from mmray.distributed.admission import Workers, places
from mmray.distributed.feeding import open_table
from mmray.distributed.progress import EpochFeed, watch_training
from mmray.errors import MmrayError, StalledError, WorkerError
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder

__all__ = ["Job", "fit_on_workers", "other_model"]

START_TIMEOUT_S = 20.0
"""How long Ray Train waits for the workers before it counts a failed start, and tries again."""
POLL_S = 0.2
LOOK_S = 5.0
"""How often the driver looks whether the workers still fit the cluster."""


@dataclass(frozen=True)
class Job:
    """A training, as its workers are told."""

    config: Config
    storage: Storage
    folder: str
    """Of its checkpoints, TensorBoard logs and the reports of single features; its last part is its name."""
    model_folder: str
    features_fingerprint: str
    baselines: list[str]
    """Features on each of which alone a model is fitted, too."""
    mapped: bool
    """Whether the table is mapped from a disk, not in memory."""
    trial: str | None = None
    """Its name, where it is a trial of a search: no model is kept, and the test split is not looked at."""

    def report_of(self, feature: str) -> str:
        """Where the test report of the model on this feature alone is."""
        return f"{self.folder}/alone/{feature}.json"


def fit_on_workers(job: Job, workers: Workers) -> dict[str, Any]:
    """Train the model; what rank 0 has to say of it, and `alone`: {feature: report} of the single features.

    Raises:
        MmrayError: what a worker raised of ours.
        StalledError: where the workers have not fitted the cluster for `train.stall_timeout_s`.
        WorkerError: where workers died more than `train.max_restarts` times, or who leads them died.
    """
    epochs = EpochFeed.start()
    config, tensorboard = job.config, f"{job.folder}/tensorboard"
    with watch_training(epochs, config, job.storage, tensorboard), _saying_what_is_missing(workers):
        outcome = _outcome(_trainer(job, workers, epochs, []), workers, config)
    return {**outcome, "alone": {name: job.storage.read_json(job.report_of(name)) for name in job.baselines}}


def fit_trial(job: Job, workers: Workers, epochs: Any) -> None:
    """Train a trial of a search by several workers, from within its process; every epoch reaches Ray Tune.

    Raises:
        MmrayError: as `fit_on_workers`.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    _outcome(_trainer(job, workers, epochs, [TuneReportCallback()]), workers, job.config)


@contextlib.contextmanager
def other_model(config: Config, storage: Storage) -> Iterator[str | None]:
    """The model `train.initialize_from` names, as a local folder while the block runs."""
    if config.train.initialize_from is None:
        yield None
        return
    with scratch_folder() as folder:
        yield storage.copy_down(config.train.initialize_from, folder)


# ------------------------------------------------------------------------------------ the driver


def _trainer(job: Job, workers: Workers, epochs: Any, callbacks: list[Any]) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # what it has to say arrives as an exception
    start_s = min(START_TIMEOUT_S, job.config.train.stall_timeout_s)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon it sees that workers ended
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    parent, _, name = job.folder.rpartition("/")
    filesystem, path = job.storage.arrow(parent)
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job, "epochs": epochs},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.elastic or workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            callbacks=[_faults_end_the_run(), *callbacks],
            failure_config=ray.train.FailureConfig(
                max_failures=job.config.train.max_restarts,
                controller_failure_limit=math.ceil(job.config.train.stall_timeout_s / start_s) - 1,
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        torch_config=_group_of_what_is_there(),
    )
    # Ray's would take the first Ctrl-C for a wish and the second for nothing: this process ends, and the run.
    trainer._register_sigint_handler = lambda controller: None
    return trainer


def _group_of_what_is_there() -> Any:
    """A process group over nccl where every worker's torch sees its GPU, else over gloo.

    Ray's own would take nccl wherever it has given GPUs, also those that torch cannot use.
    """
    from ray.train.torch.config import TorchConfig, _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
            seen = worker_group.execute(_sees_its_gpu)
            super().on_start(worker_group, TorchConfig(backend="nccl" if all(seen) else "gloo"))

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config()


def _sees_its_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _faults_end_the_run() -> Any:
    """A callback of Ray Train: what it raises ends the run, which a worker's exception alone does not."""
    import ray.train

    class FaultsEndTheRun(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if fault := _fault_in(worker_exceptions):
                raise fault

    return FaultsEndTheRun()


def _fault_in(failures: dict[int, Exception]) -> MmrayError | None:
    """The first fault of ours among what workers raised."""
    causes = (getattr(failure, "cause", failure) for _, failure in sorted(failures.items()))
    return next((cause for cause in causes if isinstance(cause, MmrayError)), None)


def _outcome(trainer: Any, workers: Workers, config: Config) -> dict[str, Any]:
    """What rank 0 returns, or its end in our terms."""
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    again = "run the same command again: it goes on from the last checkpoint"
    try:
        return _apart(trainer.fit).return_value
    except ControllerError as error:
        cause = error.controller_failure
        if isinstance(cause, MmrayError):
            raise cause from None
        if type(cause).__name__.startswith("WorkerGroupStartup"):
            waited = f"for {config.train.stall_timeout_s:g} s (train.stall_timeout_s)"
            raise StalledError(f"training waited {waited} for {_needed(workers)}; {again}") from None
        raise
    except WorkerGroupError as error:
        if fault := _fault_in(error.worker_failures):
            raise fault from None
        if any(isinstance(failure, RayActorError) for failure in error.worker_failures.values()):
            died = f"workers died {config.train.max_restarts + 1} times (train.max_restarts)"
            raise WorkerError(f"{died}: out of memory, or nodes lost? {again}") from None
        raise
    except RayActorError:
        raise WorkerError(f"the process that leads the training died; {again}") from None


def _apart(call: Callable[[], Any]) -> Any:
    """Call in a thread, so that Ctrl-C and SIGTERM are ours: Ray Train takes them in a main thread."""
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found["value"] = call()
        except BaseException as error:  # noqa: BLE001
            found["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
    if error := found.get("error"):
        raise error
    return found["value"]


@contextlib.contextmanager
def _saying_what_is_missing(workers: Workers) -> Iterator[None]:
    """Say so, every minute, while the cluster is too small for the workers: Ray waits without a word."""
    from mmray.distributed.pools import nodes

    ended = threading.Event()

    def look() -> None:
        said = -math.inf
        while not ended.wait(LOOK_S):
            here = nodes()
            fit = places(here, workers.cpus, workers.pool.gpus)
            if fit < workers.least and time.monotonic() - said > 60:
                said = time.monotonic()
                has = f"{sum(n.cpus for n in here):g} CPU and {sum(n.gpus for n in here):g} GPU"
                console.err.print(
                    f"waiting: {_needed(workers)}; the cluster now has {has}, room for {fit}", markup=False
                )

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _needed(workers: Workers) -> str:
    gpu = " and 1 GPU" if workers.gpu else ""
    return f"{workers.least} training workers of {workers.cpus:g} CPU{gpu} each"


# ------------------------------------------------------------------------------------ the workers


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """What each DDP worker does: read the table, fit, hand every epoch's checkpoint to Ray."""
    import ray.train
    import torch

    torch.set_num_threads(1)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return _work(settings["job"], settings["epochs"], None)
    with checkpoint.as_directory() as folder:
        return _work(settings["job"], settings["epochs"], folder)


def _work(job: Job, epochs: Any, resume: str | None) -> dict[str, Any]:
    import ray.train
    import ray.train.torch

    from mmray.training.checkpoint import load_snapshot, model_fingerprint
    from mmray.training.loop import fit
    from mmray.training.monitor import Standing

    context, config = ray.train.get_context(), job.config
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device()) if _sees_its_gpu() else "cpu"

    standing = Standing(config.train.monitor, load_snapshot(resume).history if resume else ())

    def report(metrics: dict[str, Any], save: Any) -> None:
        if job.trial:
            metrics = standing.after(metrics)
        with scratch_folder() as folder:
            checkpoint = None
            if save is not None:
                save(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                epochs.put.remote({"trial": job.trial, "best": metrics["best"]} if job.trial else metrics)
            ray.train.report(metrics, checkpoint=checkpoint)

    data = open_table(config, job.storage, list(config.features), mapped=job.mapped)
    if job.trial:
        data = data.without_test()
    with other_model(config, job.storage) as other:
        result = fit(
            config.model,
            config.train,
            data,
            list(config.features),
            config.targets,
            rank=rank,
            world_size=world_size,
            device=device,
            report=report,
            resume=resume,
            initialize_from=other,
            features_fingerprint=job.features_fingerprint,
        )
    if rank == 0 and not job.trial:
        _save_model(result, job.storage, job.model_folder)
    for name in job.baselines[rank::world_size]:
        _fit_alone(job, data, name, device)
    return {
        "history": result.history,
        "test": result.test,
        "fingerprint": model_fingerprint(result.snapshot.spec, result.snapshot.weights),
        "splits": result.rows,
        "workers": world_size,
        "transfer": str(result.transfer) if result.transfer else None,
        "warnings": result.warnings,
    }


def _save_model(result: Any, storage: Storage, folder: str) -> None:
    """The model into storage; `model.json`, which says that it is whole, goes last."""
    with scratch_folder() as local:
        result.snapshot.save_model(local)
        for name in sorted(os.listdir(local), key=lambda name: (name == "model.json", name)):
            storage.write(f"{folder}/{name}", Path(local, name).read_bytes())


def _fit_alone(job: Job, data: Any, feature: str, device: str) -> None:
    """Fit the same model, from scratch, on one feature alone, by this worker alone; write its report.

    Where it cannot be trained that is the report: {fault: why}. The fused model is none the worse for it.
    """
    from mmray.training.loop import fit

    if job.storage.exists(job.report_of(feature)):
        return
    config = job.config
    settings = config.train.model_copy(update={"freeze": [], "learning_rates": {}, "initialize_from": None})
    try:
        result = fit(config.model, settings, data, [feature], config.targets, device=device)
        report: dict[str, Any] = result.test
    except MmrayError as fault:
        report = {"fault": str(fault)}
    job.storage.write_json(job.report_of(feature), report)
