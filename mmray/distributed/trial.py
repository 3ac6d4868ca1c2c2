"""One trial of a search, in a process of Ray Tune that has run others before and will run more."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from mmray.config import Config
from mmray.config.variants import varied
from mmray.errors import MmrayError
from mmray.storage.filesystem import Storage
from mmray.storage.scratch import scratch_folder
from mmray.targets import lower_is_better

__all__ = ["run_trial"]

CHECKPOINT_S = 20.0
"""A trial that dies goes on from a checkpoint that is no older than this (and the epoch it was at)."""


def run_trial(given: dict[str, Any], config: Config, storage: Storage, data: Any, epochs: Any) -> None:
    """Fit with these settings, report every epoch; a fault of ours is the trial's end, and is reported."""
    import torch
    from ray import tune as ray_tune

    from mmray.distributed.pools import own_device
    from mmray.distributed.training import other_model
    from mmray.training.loop import fit
    from mmray.training.monitor import monitored

    torch.set_num_threads(max(1, int(config.tune.cpus_per_trial)))
    device, monitor = own_device(), config.train.monitor
    worst = math.inf if lower_is_better(monitor) else -math.inf
    values: list[float] = []
    saved = time.monotonic()

    def report(metrics: dict[str, float], save: Any) -> None:
        nonlocal saved
        values.append(monitored(metrics, monitor))
        best = values[int(metrics["best_epoch"]) - 1]
        best = worst if math.isnan(best) else best
        epochs.put.remote({"trial": ray_tune.get_context().get_trial_id(), "best": best})
        told = {**metrics, "best": best, "fault": None}
        if time.monotonic() - saved < CHECKPOINT_S:
            ray_tune.report(told)
            return
        with scratch_folder() as folder:
            save(folder)
            ray_tune.report(told, checkpoint=ray_tune.Checkpoint.from_directory(folder))
        saved = time.monotonic()

    try:
        trial = varied(config, given["settings"])
        with other_model(trial, storage) as other, _checkpoint() as resume:
            if resume:
                values += _values_before(resume, monitor)
            fit(
                trial.model,
                trial.train,
                data,
                list(trial.features),
                trial.targets,
                device=device,
                report=report,
                resume=resume,
                initialize_from=other,
            )
    except MmrayError as fault:
        ray_tune.report({"best": worst, "fault": str(fault), "epoch": len(values) + 1, "best_epoch": 0})


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


def _values_before(folder: str, monitor: str) -> list[float]:
    from mmray.training.checkpoint import load_snapshot
    from mmray.training.monitor import monitored

    return [monitored(epoch, monitor) for epoch in load_snapshot(folder).history]
