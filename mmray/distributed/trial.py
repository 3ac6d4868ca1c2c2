"""One trial of a search, in a process of Ray Tune that has run others before and will run more.

A trial of one worker is fitted here, on features that all trials share; one of several leads the workers of a
Ray Train, which read the table themselves.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from mmray.config import Config
from mmray.config.variants import varied
from mmray.distributed.admission import Workers
from mmray.distributed.feeding import open_table
from mmray.distributed.training import Job, fit_trial, other_model
from mmray.errors import MmrayError
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder

__all__ = ["run_trial", "run_wide_trial"]

CHECKPOINT_S = 20.0
"""A trial that dies goes on from a checkpoint that is no older than this (and the epoch it was at)."""


def run_trial(given: dict[str, Any], config: Config, storage: Storage, data: Any, epochs: Any) -> None:
    """Fit with these settings, report every epoch; a fault of ours is the trial's end, and is reported.

    `data` is what all trials share, or None: then each maps the table from the disk of its machine.
    """
    import torch
    from ray import tune as ray_tune

    from mmray.distributed.pools import own_device
    from mmray.training.checkpoint import load_snapshot
    from mmray.training.loop import fit
    from mmray.training.monitor import Standing

    torch.set_num_threads(max(1, int(config.tune.cpus_per_trial)))
    device, standing = own_device(), Standing(config.train.monitor)
    population = config.tune.scheduler == "pbt"
    saved = time.monotonic()

    def report(metrics: dict[str, float], save: Any) -> None:
        nonlocal saved
        told = standing.after(metrics)
        epochs.put.remote({"trial": ray_tune.get_context().get_trial_id(), "best": told["best"]})
        if not population and time.monotonic() - saved < CHECKPOINT_S:
            ray_tune.report(told)
            return
        with scratch_folder() as folder:
            save(folder)
            ray_tune.report(told, checkpoint=ray_tune.Checkpoint.from_directory(folder))
        saved = time.monotonic()

    try:
        trial = varied(config, given["settings"])
        if data is None:
            data = open_table(config, storage, list(config.features), mapped=True).without_test()
        with other_model(trial, storage) as other, _checkpoint() as resume:
            if resume:
                standing = Standing(config.train.monitor, load_snapshot(resume).history)
            fit(
                trial.model,
                trial.train,
                data,
                list(trial.features),
                trial.targets,
                device=device,
                report=report,
                resume=resume,
                inherits=population,
                initialize_from=other,
            )
    except MmrayError as fault:
        ray_tune.report(standing.failed(str(fault)))


def run_wide_trial(
    given: dict[str, Any],
    config: Config,
    storage: Storage,
    folder: str,
    mapped: bool,
    workers: Workers,
    epochs: Any,
) -> None:
    """The same by several workers; what they leave is below `folder`, from which the trial goes on."""
    from ray import tune as ray_tune

    from mmray.training.monitor import Standing

    name = ray_tune.get_context().get_trial_id()
    try:
        trial = varied(config, given["settings"])
        job = Job(trial, storage, f"{folder}/{name}", "", "", [], mapped, trial=name)
        fit_trial(job, workers, epochs)
    except MmrayError as fault:
        ray_tune.report(Standing(config.train.monitor).failed(str(fault)))


@contextlib.contextmanager
def _checkpoint() -> Iterator[str | None]:
    """Where this trial left off before it died, as a local folder."""
    from ray import tune as ray_tune

    checkpoint = ray_tune.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield folder
