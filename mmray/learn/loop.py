"""Feature rows → a trained model: one function for a DDP worker, a sweep's trial and a plain task.

Each epoch: train on the global batches all ranks agree on, predict every labelled validation row once
(rank r takes rows r, r + world_size, …), let rank 0 compute the metrics and tell the others, keep the best
weights, report. At the end the best weights meet the test split, once.

Two workers learn what one would: a loss is divided by the weight of the known targets in the *global*
batch and multiplied by the number of workers, which DDP's averaging of gradients takes back.

Every epoch seeds its generators from (seed, epoch, rank): the same config gives the same bits on a CPU,
also when it was interrupted and resumed.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmray.config import ModelConfig, Target, TrainConfig
from mmray.errors import MmrayError, SamplesError
from mmray.fusion.model import FusionModel
from mmray.learn.batches import Examples, FeatureSet, epoch_batches
from mmray.learn.checkpoint import Snapshot, load_snapshot, require_same_training
from mmray.learn.codes import known
from mmray.learn.evaluation import standing, test_report, validation_metrics
from mmray.learn.losses import Objective, loss_divisors, loss_sums
from mmray.learn.predict import model_outputs
from mmray.learn.ranks import Worker
from mmray.learn.spec import ModelSpec, feature_statistics, make_spec

__all__ = ["FitResult", "Report", "fit"]

Report = Callable[[dict[str, float], Callable[[str | Path], None] | None], None]
"""Called after each epoch on each rank with its flat metrics and, on rank 0, a function that writes a
complete checkpoint directory, to be used before the call returns (None on the other ranks)."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class FitResult:
    """A trained model; `snapshot` is its checkpoint, with the test report."""

    model: FusionModel
    """With the weights of the best epoch, in eval mode."""
    snapshot: Snapshot
    rows: dict[str, dict[str, int]]
    """{split: {rows, no_modality, no_target, used}}; `used`: trained on, or compared with a known truth."""

    @property
    def history(self) -> list[dict[str, float]]:
        """Flat metrics of each epoch, first to last."""
        return self.snapshot.history

    @property
    def best(self) -> dict[str, float]:
        """Flat metrics of the best epoch."""
        return self.snapshot.best

    @property
    def test(self) -> dict[str, dict]:
        """`evaluation.test_report`; empty without a test split."""
        return self.snapshot.test

    def save(self, folder: str | Path) -> None:
        """Write the checkpoint directory."""
        self.snapshot.save(folder)


def fit(
    model_config: ModelConfig,
    train_config: TrainConfig,
    data: FeatureSet,
    features: Sequence[str],
    targets: Mapping[str, Target],
    *,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    report: Report = lambda metrics, save: None,
    resume: str | Path | None = None,
    features_fingerprint: str = "",
) -> FitResult:
    """Train on the train split of `data`, choose the epoch on val, evaluate it on test.

    With `world_size` > 1 every rank calls this with the same arguments but `rank` and `device`, inside an
    initialised `torch.distributed` process group. Reported metrics: `epoch`, `train_loss`, `val_loss`,
    `val/<target>/<metric>`, `best_epoch`, `bad_epochs`, `seconds`. A loss is the weighted sum over targets
    of the mean over the known truths (`mmray.learn.losses`).

    Raises:
        SamplesError: where the train or val split has nothing to learn or compare with, or a label is new.
        TableError: where `resume` is incomplete or belongs to another run.
        MmrayError: where the loss is no longer finite.

    """
    worker = Worker(rank, world_size, device)
    spec = make_spec(model_config, train_config, data, features, targets, features_fingerprint)
    examples = spec.examples(data)
    rows, counts = _usable_rows(examples, data.split)
    in_train = np.flatnonzero(data.split == "train")

    _seed(train_config.seed, 0, 0)
    model = spec.build()
    model.set_statistics(*_statistics(spec, examples, in_train))
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train_config.learning_rate, weight_decay=train_config.weight_decay
    )
    history: list[dict[str, float]] = []
    best_weights = _copy(model.state_dict())
    if resume is not None:
        saved = load_snapshot(resume)
        require_same_training(saved.spec, spec)
        model.load_state_dict(saved.current)
        optimizer.load_state_dict(saved.optimizer)
        history, best_weights = saved.history, saved.weights

    trained, objective = worker.wrap(model), Objective(spec, model)
    while len(history) < train_config.epochs and not _gave_up(history, train_config.patience):
        epoch, started = len(history) + 1, time.perf_counter()
        train_loss = _train_epoch(
            trained, objective, optimizer, examples, rows["train"], train_config, epoch, worker
        )
        outputs = _all_outputs(model, examples, rows["val"], train_config.batch_size, worker)
        results: dict[str, float] = {}
        if rank == 0:
            results = {"epoch": epoch, "train_loss": train_loss}
            results |= validation_metrics(objective, examples, rows["val"], outputs)
            results |= standing([*history, results], train_config.monitor)
            results["seconds"] = time.perf_counter() - started
        results = worker.from_first(results)
        history.append(results)
        if results["best_epoch"] == epoch:
            best_weights = _copy(model.state_dict())
        snapshot = Snapshot(spec, best_weights, history, model.state_dict(), optimizer.state_dict())
        report(dict(results), snapshot.save if rank == 0 else None)

    current = _copy(model.state_dict())
    model.load_state_dict(best_weights)
    test: dict[str, dict] = {}
    if len(rows["test"]):
        outputs = _all_outputs(model, examples, rows["test"], train_config.batch_size, worker)
        if rank == 0:
            test = test_report(spec, examples, in_train, rows["test"], outputs)
        test = worker.from_first(test)
    return FitResult(
        model.eval(), Snapshot(spec, best_weights, history, current, optimizer.state_dict(), test), counts
    )


def _usable_rows(
    examples: Examples, split: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """{split: rows to learn from, or to compare with}, and how many of each kind there are."""
    present = examples.present().any(axis=1)
    truth = np.any([known(values) for values in examples.targets.values()], axis=0)
    rows, counts = {}, {}
    for name in SPLITS:
        inside = split == name
        used = inside & truth & (present | (name != "train"))
        rows[name] = np.flatnonzero(used)
        counts[name] = {
            "rows": int(inside.sum()),
            "no_modality": int((inside & ~present).sum()),
            "no_target": int((inside & ~truth).sum()),
            "used": int(used.sum()),
        }
    for name in ("train", "val"):
        if not counts[name]["used"]:
            raise SamplesError(f"the {name} split has no usable sample: {counts[name]}")
    return rows, counts


def _statistics(
    spec: ModelSpec, examples: Examples, train: np.ndarray
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Scales of the vector features and priors of the targets, from these rows."""
    scales = {
        name: feature_statistics(name, examples.features[name], train)
        for name, shape in spec.shapes.items()
        if shape.kind == "vectors"
    }
    priors = {
        name: torch.from_numpy(codes.prior(examples.targets[name][train]))
        for name, codes in spec.targets.items()
    }
    return scales, priors


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Seed torch's generators; dropout differs between epochs and between ranks."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _gave_up(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    return bool(history) and history[-1]["bad_epochs"] >= patience


def _train_epoch(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    rows: np.ndarray,
    config: TrainConfig,
    epoch: int,
    worker: Worker,
) -> float:
    """One pass over `rows`; the mean training loss over all ranks."""
    _seed(config.seed, epoch, worker.rank)
    model.train()
    targets = objective.spec.targets
    sums = dict.fromkeys(targets, 0.0)
    steps = epoch_batches(len(rows), config.batch_size, epoch, config.seed, worker.rank, worker.world_size)
    for step, (everyone, own) in enumerate(steps, 1):
        batch = examples.batch(rows[own]).to(worker.device)
        losses = loss_sums(targets, model(batch.inputs, batch.lengths), batch.targets)
        divisors = loss_divisors(targets, examples.targets, rows[everyone])
        loss = objective.step(losses, divisors, share=1 / worker.world_size)
        optimizer.zero_grad()
        (loss * worker.world_size).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
        # This norm is of all ranks' gradients, so that every rank stops at the same step.
        if not torch.isfinite(norm):
            raise MmrayError(
                f"epoch {epoch}, step {step}: the loss or its gradient is not finite; lower "
                f"train.learning_rate (now {config.learning_rate:g}), set train.clip_norm, or look for "
                "extreme values in the features and targets"
            )
        optimizer.step()
        for name in sums:
            sums[name] += losses[name].item()
    parts = worker.gather(sums)
    total = {name: sum(part[name] for part in parts) for name in sums}
    return objective.value(total, loss_divisors(targets, examples.targets, rows))


def _all_outputs(
    model: FusionModel, examples: Examples, rows: np.ndarray, batch_size: int, worker: Worker
) -> dict[str, np.ndarray]:
    """Outputs for `rows` in their order, each predicted by one rank; every rank gets all of them."""
    own = np.arange(worker.rank, len(rows), worker.world_size)
    parts = worker.gather((own, model_outputs(model, examples, rows[own], batch_size, worker.device)))
    order = np.concatenate([positions for positions, _ in parts])
    if not np.array_equal(np.sort(order), np.arange(len(rows))):
        raise RuntimeError(f"{len(rows)} rows to evaluate, {len(order)} came back")
    back = np.argsort(order)
    return {name: np.concatenate([y[name] for _, y in parts])[back] for name in parts[0][1]}
