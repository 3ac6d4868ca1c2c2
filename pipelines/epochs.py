"""Epochs as they happen: from a worker on any machine to this terminal and to TensorBoard."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmray.config import Config
from mmray.storage import Storage, absolute, scheme_of
from pipelines import console

__all__ = ["EpochFeed", "watch_epochs"]


class EpochFeed:
    """A Ray actor that holds the epochs reported so far; takes no CPU, so that it always fits."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    @classmethod
    def start(cls) -> Any:
        """A handle to a new one."""
        import ray

        return ray.remote(num_cpus=0)(cls).remote()

    def put(self, metrics: dict[str, float]) -> None:
        """Add an epoch."""
        self.epochs.append(metrics)

    def since(self, count: int) -> list[dict[str, float]]:
        """The epochs after the first `count`."""
        return self.epochs[count:]


@contextlib.contextmanager
def watch_epochs(feed: Any, config: Config, storage: Storage, folder: str) -> Iterator[None]:
    """Show every epoch and log it to TensorBoard below `folder` while the block runs."""
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        local = absolute(folder) if scheme_of(folder) != "s3" else None
        local = local or stack.enter_context(tempfile.TemporaryDirectory())
        meter = stack.enter_context(console.progress("train", total=config.train.epochs))
        watcher = threading.Thread(target=_follow, args=(feed, ended, meter, local), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            if scheme_of(folder) == "s3":
                for file in Path(local).iterdir():
                    storage.write(f"{folder}/{file.name}", file.read_bytes())


def _follow(feed: Any, ended: threading.Event, meter: Any, folder: str) -> None:
    import ray
    from torch.utils.tensorboard import SummaryWriter

    seen, last = 0, False
    with SummaryWriter(folder) as board:
        while not last:
            last = ended.wait(0.5)
            for metrics in ray.get(feed.since.remote(seen)):
                seen += 1
                for name, value in metrics.items():
                    if name != "epoch":
                        board.add_scalar(name, value, int(metrics["epoch"]))
                note = f"train {metrics['train_loss']:.3f}  val {metrics['val_loss']:.3f}"
                meter.advance(1, f"{note}  best epoch {int(metrics['best_epoch'])}")
            board.flush()
