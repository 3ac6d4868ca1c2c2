"""Feature rows → a trained model: one function for a DDP worker, a sweep's trial and a plain task.

Each epoch: train on the global batches all ranks agree on, predict every labelled validation row once
(rank r takes rows r, r + world_size, …), let rank 0 compute the metrics and tell the others, keep the best
weights, report. At the end the best weights meet the test split, once.

Two workers learn what one would: a loss is divided by the weight of the known targets in the *global*
batch and multiplied by the number of workers, which DDP's averaging of gradients takes back. What holds:
without dropout, one and several workers have the same gradients, up to rounding. With dropout (of layers or
of modalities) each worker draws masks of its own: the same distribution, other draws, so that another number
of workers is as another seed.

Every epoch seeds its generators from (seed, epoch, rank): the same config and number of workers give the
same bits on a CPU, also when interrupted and resumed.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmray.config import ModelConfig, TrainConfig
from mmray.errors import MmrayError, SamplesError
from mmray.fusion.model import FusionModel
from mmray.targets import Target, known
from mmray.training.batches import Examples, FeatureSet, epoch_batches
from mmray.training.checkpoint import Snapshot, load_snapshot, load_weights, require_same_training
from mmray.training.evaluation import calibrated, operating_curves, test_report, validation_metrics
from mmray.training.losses import Objective, loss_divisors, loss_sums
from mmray.training.monitor import monitored, never_defined, standing, undefined_by_truths
from mmray.training.optimization import Optimization
from mmray.training.predict import model_outputs
from mmray.training.ranks import Worker
from mmray.training.spec import ModelSpec, make_spec
from mmray.training.statistics import Moments, Summary, summarise
from mmray.training.transfer import Transfer, freeze, take_weights

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
    transfer: Transfer | None = None
    """What the model took from another one, before training."""
    warnings: list[str] = field(default_factory=list)
    """What is odd about the data, in words."""

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
    inherits: bool = False,
    initialize_from: str | Path | None = None,
    features_fingerprint: str = "",
) -> FitResult:
    """Train on the train split of `data`, choose the epoch on val, evaluate it on test.

    With `world_size` > 1 every rank calls this with the same arguments but `rank` and `device`, inside an
    initialised `torch.distributed` process group. Reported metrics: `epoch`, `train_loss`, `val_loss`,
    `val/<target>/<metric>`, `best_epoch`, `bad_epochs`, `seconds`. A loss is the weighted sum over targets
    of the mean over the known truths, reported with a weight of 1 each (`mmray.training.losses`).

    `resume` is a checkpoint of this run, or where this one `inherits` of one with other settings and weights
    of the same shapes; `initialize_from` one of another (`train_config.initialize_from` as
    a local folder), whose weights are the start of this one.

    Raises:
        SamplesError: where the train or val split has nothing to learn or compare with, a label is new, no
            row to train on has a feature, or `monitor` is undefined.
        TableError: where a checkpoint is incomplete, `resume` belongs to another run, or no weight of
            `initialize_from` fits.
        ConfigError: where a part to freeze, or with a learning rate of its own, is not one of the model's.
        PlanError: where float16 is asked for without a GPU.
        MmrayError: where the loss is no longer finite, or no epoch has a value of `monitor`.

    """
    worker = Worker(rank, world_size, device)
    in_train = np.flatnonzero((data.split == "train") & data.labelled)
    reduced = [name for name, settings in model_config.inputs.items() if settings.reduce]
    found = summarise({name: data.features[name] for name in sorted(features)}, in_train, reduced)
    spec = make_spec(model_config, train_config, data, found, targets, features_fingerprint)
    examples = spec.examples(data)
    present = examples.present()
    rows, counts = _usable_rows(examples.targets, present, data.seen, data.split)
    _require_features(list(spec.shapes), present[rows["train"]])
    val_truths = {name: truth[rows["val"]] for name, truth in examples.targets.items()}
    undefined = undefined_by_truths(spec.targets, val_truths, train_config.monitor) if rank == 0 else None
    if undefined := worker.from_first(undefined):
        raise SamplesError(undefined)

    _seed(train_config.seed, 0, 0)
    model = spec.build()
    model.set_statistics(*_statistics(spec, found, examples.targets, in_train))
    transfer = None
    if initialize_from is not None:
        transfer = take_weights(model, spec, *load_weights(initialize_from))
    model.to(device)
    frozen = freeze(model, train_config.freeze)
    steps = math.ceil(len(rows["train"]) / train_config.batch_size)
    optimization = Optimization(
        model,
        device,
        steps=steps * train_config.epochs,
        warmup=steps * train_config.warmup_epochs,
        schedule=train_config.schedule,
        learning_rate=train_config.learning_rate,
        learning_rates=train_config.learning_rates,
        weight_decay=train_config.weight_decay,
        clip_norm=train_config.clip_norm,
        precision=train_config.precision,
    )
    history: list[dict[str, float]] = []
    best_weights = _copy(model.state_dict())
    if resume is not None:
        saved = load_snapshot(resume)
        if not inherits:
            require_same_training(saved.spec, spec)
        model.load_state_dict(saved.current)
        optimization.load_state_dict(saved.optimizer)
        history, best_weights = saved.history, saved.weights

    trained, objective = worker.wrap(model), Objective(spec, model)
    while len(history) < train_config.epochs and not _gave_up(history, train_config.patience):
        epoch, started = len(history) + 1, time.perf_counter()
        trained.train()
        for part in frozen:
            part.eval()
        train_loss = _train_epoch(
            trained, objective, optimization, examples, rows["train"], train_config, epoch, worker
        )
        outputs = _all_outputs(model, examples, rows["val"], train_config.batch_size, worker)
        results: dict[str, float] = {}
        if rank == 0:
            results = {"epoch": epoch, "train_loss": train_loss}
            results |= validation_metrics(objective, examples, rows["val"], outputs)
            results |= standing([*history, results], train_config.monitor)
            results["seconds"] = time.perf_counter() - started
        results = worker.from_first(results)
        if not math.isfinite(results["val_loss"]):
            raise MmrayError(_diverged(epoch, outputs, data.sample_ids[rows["val"]], train_config))
        history.append(results)
        if results["best_epoch"] == epoch:
            best_weights = _copy(model.state_dict())
        snapshot = Snapshot(spec, best_weights, history, model.state_dict(), optimization.state_dict())
        report(dict(results), snapshot.save if rank == 0 else None)

    if all(math.isnan(monitored(epoch, train_config.monitor)) for epoch in history):
        raise MmrayError(never_defined(train_config.monitor, len(history)))
    current = _copy(model.state_dict())
    model.load_state_dict(best_weights)
    outputs = _all_outputs(model, examples, rows["val"], train_config.batch_size, worker)
    spec = calibrated(spec, val_truths, outputs)
    operating = operating_curves(spec, val_truths, outputs)
    test: dict[str, dict] = {}
    if len(rows["test"]):
        outputs = _all_outputs(model, examples, rows["test"], train_config.batch_size, worker)
        if rank == 0:
            test = test_report(spec, examples, present, in_train, rows["test"], outputs, data.group)
        test = worker.from_first(test)
    snapshot = Snapshot(spec, best_weights, history, current, optimization.state_dict(), test, operating)
    odd = [
        *_without_truth(examples.targets, rows),
        *_without_meaning(examples.targets, present, list(spec.shapes), rows),
    ]
    return FitResult(model.eval(), snapshot, counts, transfer, odd)


def _usable_rows(
    targets: Mapping[str, np.ndarray], present_NM: np.ndarray, seen: np.ndarray, split: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """{split: rows to learn from, or to compare with}, and how many of each kind there are.

    A model on some of the features is compared on the rows that another on all of them is: on those `seen`
    to have any feature.
    """
    present = present_NM.any(axis=1)
    truth = np.any([known(values) for values in targets.values()], axis=0)
    rows, counts = {}, {}
    for name in SPLITS:
        inside = split == name
        used = inside & truth & (present if name == "train" else seen)
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


def _require_features(features: Sequence[str], present_NM: np.ndarray) -> None:
    """Each feature must be there in some row to train on: nothing could learn to read it."""
    if never := [name for name, some in zip(features, present_NM.any(axis=0).tolist()) if not some]:  # pyright: ignore[reportArgumentType]
        names = ", ".join(never)
        raise SamplesError(
            f"feature {names}: no labelled row of the train split has it, so nothing can learn to read it; "
            f"leave {names} out of `features`, or look at why it is missing there"
        )


def _without_truth(targets: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> list[str]:
    """Targets of which a split knows no truth: they are in no metric of it."""
    return [
        f"target {name} is unknown in all {len(rows[split])} {split} rows: no {split} metric is about it"
        for split in ("val", "test")
        for name, values in targets.items()
        if len(rows[split]) and not known(values[rows[split]]).any()
    ]


def _without_meaning(
    targets: Mapping[str, np.ndarray],
    present_NM: np.ndarray,
    features: Sequence[str],
    rows: Mapping[str, np.ndarray],
) -> list[str]:
    """What training or judging can say nothing about: an empty split, one value, a feature that is absent."""
    told = [] if len(rows["test"]) else ["the test split has no samples: nothing is judged on it"]
    for name, values in targets.items():
        seen = values[rows["train"]]
        if len(np.unique(seen[known(seen)], axis=0)) == 1:
            told.append(f"target {name} has one value in all train rows: there is nothing to learn about it")
    for split in ("val", "test"):
        present = np.asarray(present_NM[rows[split]].any(axis=0)).tolist()
        absent = [name for name, some in zip(features, present) if not some]
        if len(rows[split]) and absent:
            told.append(f"{', '.join(absent)}: absent in all {len(rows[split])} {split} rows")
    return told


def _diverged(epoch: int, outputs: Mapping[str, np.ndarray], ids: np.ndarray, config: TrainConfig) -> str:
    """The message for a validation loss that is not finite."""
    finite = np.all([np.isfinite(y).all(axis=1) for y in outputs.values()], axis=0)
    if finite.all():
        where = "its outputs are too far from the truths"
    elif finite.any():
        where = (
            f"the outputs of {(~finite).sum()} validation rows are not finite, for example {ids[~finite][0]}"
        )
    else:
        where = "no output is finite"
    return (
        f"epoch {epoch}: the validation loss is not finite: {where}; lower train.learning_rate (now "
        f"{config.learning_rate:g}), set train.clip_norm, or look for extreme values in features and targets"
    )


def _statistics(
    spec: ModelSpec, found: Mapping[str, Summary], targets: Mapping[str, np.ndarray], train: np.ndarray
) -> tuple[dict[str, tuple[Tensor, ...]], dict[str, Tensor]]:
    """Scales and components of the vector features, priors of the targets, from the train split."""
    scales: dict[str, tuple[Tensor, ...]] = {}
    for name, moments in found.items():
        if isinstance(moments, Moments):
            components = spec.shapes[name].components
            directions = (moments.directions(name, components),) if components else ()
            scales[name] = (*moments.scale(name), *directions)
    priors = {
        name: torch.from_numpy(codes.prior(targets[name][train])) for name, codes in spec.targets.items()
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
    optimization: Optimization,
    examples: Examples,
    rows: np.ndarray,
    config: TrainConfig,
    epoch: int,
    worker: Worker,
) -> float:
    """One pass over `rows`; the mean training loss over all ranks."""
    _seed(config.seed, epoch, worker.rank)
    targets = objective.spec.targets
    sums = {name: torch.zeros((), device=worker.device) for name in targets}
    before = (epoch - 1) * math.ceil(len(rows) / config.batch_size)
    steps = epoch_batches(len(rows), config.batch_size, epoch, config.seed, worker.rank, worker.world_size)
    for step, (everyone, own) in enumerate(steps, 1):
        divisors = loss_divisors(targets, examples.targets, rows[everyone])
        # Empty parts come last and are left out, but for one, in which the ranks exchange gradients.
        parts = [part for part in np.array_split(rows[own], config.accumulate) if len(part)] or [rows[own]]
        for part in parts:
            batch = examples.batch(part).to(worker.device)
            with worker.exchange(model, last=part is parts[-1]):
                with optimization.autocast():
                    outputs = model(batch.inputs, batch.lengths, batch.times)
                losses = loss_sums(targets, outputs, batch.targets)
                loss = objective.step(losses, divisors, share=1 / (worker.world_size * len(parts)))
                optimization.backward(loss * worker.world_size)
            for name in sums:  # of the targets, not of heads
                sums[name] += losses[name].detach()
        # The gradient is of all ranks, so that every rank stops at the same step.
        if not optimization.step(before + step - 1):
            raise MmrayError(
                f"epoch {epoch}, step {step}: the loss or its gradient is not finite; lower "
                f"train.learning_rate (now {config.learning_rate:g}), set train.clip_norm, or look for "
                "extreme values in the features and targets"
            )
    shares = worker.gather({name: value.item() for name, value in sums.items()})
    total = {name: sum(share[name] for share in shares) for name in sums}
    return objective.value(total, loss_divisors(targets, examples.targets, rows))


def _all_outputs(
    model: FusionModel, examples: Examples, rows: np.ndarray, batch_size: int, worker: Worker
) -> dict[str, np.ndarray]:
    """Outputs for `rows` in their order, each predicted by one rank; every rank gets all of them."""
    own = np.arange(worker.rank, len(rows), worker.world_size)
    shares = worker.gather((own, model_outputs(model, examples, rows[own], batch_size, worker.device)))
    order = np.concatenate([positions for positions, _ in shares])
    if not np.array_equal(np.sort(order), np.arange(len(rows))):
        raise RuntimeError(f"{len(rows)} rows to evaluate, {len(order)} came back")
    back = np.argsort(order)
    return {name: np.concatenate([y[name] for _, y in shares])[back] for name in shares[0][1]}
