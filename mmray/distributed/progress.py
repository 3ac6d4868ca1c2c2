"""Epochs as they happen: from a worker on any machine to this terminal, to TensorBoard and Prometheus."""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmray import console
from mmray.config import Config
from mmray.distributed.metrics import count_epoch
from mmray.storage.filesystem import Storage
from mmray.storage.uris import absolute, scheme_of

__all__ = ["EpochFeed", "watch_training", "watch_trials", "write_hparams"]

POLL_S = 0.5


class EpochFeed:
    """A Ray actor that holds the epochs reported so far; takes no CPU, so that it always fits."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    @classmethod
    def start(cls) -> Any:
        """A handle to a new one."""
        import ray

        return ray.remote(num_cpus=0)(cls).remote()

    def put(self, metrics: dict[str, Any]) -> None:
        """Add an epoch."""
        self.epochs.append(metrics)

    def since(self, count: int) -> list[dict[str, Any]]:
        """The epochs after the first `count`."""
        return self.epochs[count:]


@contextlib.contextmanager
def watch_training(feed: Any, config: Config, storage: Storage, folder: str) -> Iterator[None]:
    """Show every epoch, and log it to TensorBoard below `folder`, while the block runs."""
    from torch.utils.tensorboard import SummaryWriter

    on_s3 = scheme_of(folder) == "s3"
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(tempfile.TemporaryDirectory()) if on_s3 else absolute(folder)
        meter = stack.enter_context(console.progress("train", total=config.train.epochs))
        with SummaryWriter(local) as board:

            def show(metrics: dict[str, Any]) -> None:
                for name, value in metrics.items():
                    if name != "epoch":
                        board.add_scalar(name, value, int(metrics["epoch"]))
                count_epoch(config.name, "train")
                losses = f"train {metrics['train_loss']:.3f}  val {metrics['val_loss']:.3f}"
                meter.advance(1, f"{losses}  best epoch {int(metrics['best_epoch'])}")

            with _following(feed, show):
                yield
        if on_s3:
            for file in Path(local).iterdir():
                storage.write(f"{folder}/{file.name}", file.read_bytes())


def write_hparams(trials: Sequence[Mapping[str, Any]], storage: Storage, folder: str) -> None:
    """Every trial's settings and best value, for TensorBoard's HParams, below `folder`."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as local:
        for number, trial in enumerate(trials):
            if trial["best"] is not None:
                known = {
                    k: v if isinstance(v, int | float | str) else str(v) for k, v in trial["settings"].items()
                }
                with SummaryWriter(f"{local}/{number:04d}") as board:
                    board.add_hparams(known, {"best": trial["best"]}, run_name=".")
        for file in sorted(Path(local).rglob("events.*")):
            storage.write(f"{folder}/{file.relative_to(local)}", file.read_bytes())


@contextlib.contextmanager
def watch_trials(project: str, feed: Any, choose: Callable[[list[float]], float]) -> Iterator[None]:
    """Show how many trials and epochs ran and the best value so far, while the block runs."""
    trials: set[str] = set()
    values: list[float] = []
    with console.progress("tune", total=None) as meter:

        def show(metrics: dict[str, Any]) -> None:
            trials.add(metrics["trial"])
            values.append(metrics["best"])
            count_epoch(project, "tune", len(trials))
            meter.advance(1, f"epochs of {len(trials)} trials, best {choose(values):.4f}")

        with _following(feed, show):
            yield


@contextlib.contextmanager
def _following(feed: Any, show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `show` with each epoch of the feed, in a thread, until the block has ended and all are shown."""
    import ray

    ended = threading.Event()

    def follow() -> None:
        seen, last = 0, False
        while not last:
            last = ended.wait(POLL_S)
            for metrics in ray.get(feed.since.remote(seen)):
                seen += 1
                show(metrics)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
