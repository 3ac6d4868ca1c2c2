"""Training steps a second: `fit` against a plain PyTorch loop on the same tensors, one and two workers.

    python tests/benchmarks/train_step_rate.py

Same model, batch size, optimizer, clipping and rows; the plain loop has its inputs padded beforehand. Both
run alternately in one process a worker (DDP over gloo where there are two); of each the best epoch counts.
"""

import multiprocessing
import os
import socket
import time

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mmray.config import ModelConfig, TrainConfig
from mmray.targets import ClassificationTarget
from mmray.training.batches import FeatureSet, Ragged
from mmray.training.loop import fit

ROWS, BATCH, STEPS_OF_VOICE, ROUNDS = 3200, 32, 20, 4
TARGETS = {"emotion": ClassificationTarget(kind="classification")}
MODELS = {
    "mlp + mlp": {},
    "mlp + gru": {"voice": {"kind": "gru", "hidden": 64}},
    "mlp + transformer": {"voice": {"kind": "transformer", "hidden": 64}},
}


def table() -> FeatureSet:
    """`face` [1, 512] and `voice` [20, 64]; all but two rows are for training."""
    rng = np.random.default_rng(0)
    offsets = np.arange(ROWS + 3)
    n = len(offsets) - 1
    return FeatureSet(
        np.array([f"s{i}" for i in range(n)], dtype=object),
        np.array(["train"] * ROWS + ["val"] * 2, dtype=object),
        {
            "face": Ragged(rng.normal(size=(n, 512)).astype(np.float32), offsets),
            "voice": Ragged(
                rng.normal(size=(n * STEPS_OF_VOICE, 64)).astype(np.float32), offsets * STEPS_OF_VOICE
            ),
        },
        {"emotion": np.array([f"class{i % 4}" for i in range(n)], dtype=object)},
    )


def ours(data: FeatureSet, model: ModelConfig, rank: int, world_size: int) -> float:
    """Seconds of the faster of two epochs, with their validation on two rows."""
    train = TrainConfig(batch_size=BATCH, epochs=2)
    result = fit(model, train, data, list(data.features), TARGETS, rank=rank, world_size=world_size)
    return min(epoch["seconds"] for epoch in result.history)


def plain(data: FeatureSet, config: ModelConfig, rank: int, world_size: int) -> float:
    """The same in a loop as one would write it by hand."""
    small = fit(
        config,
        TrainConfig(epochs=1),
        data.subset(np.arange(ROWS - 8, ROWS + 2)),
        list(data.features),
        TARGETS,
    )
    model: nn.Module = small.snapshot.spec.build()
    if world_size > 1:
        model = DistributedDataParallel(model)
    rows = np.arange(ROWS)
    padded = {name: feature.padded(rows) for name, feature in data.features.items()}
    inputs = {name: torch.from_numpy(x) for name, (x, _) in padded.items()}
    lengths = {name: torch.from_numpy(x) for name, (_, x) in padded.items()}
    labels = torch.arange(ROWS) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    best = float("inf")
    for epoch in range(2):
        start = time.perf_counter()
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(ROWS))
        total = 0.0
        for batch in order.split(BATCH):
            own = batch.tensor_split(world_size)[rank]
            outputs = model({k: v[own] for k, v in inputs.items()}, {k: v[own] for k, v in lengths.items()})
            loss = F.cross_entropy(outputs["emotion"], labels[own])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        best = min(best, time.perf_counter() - start)
    return best


def work(rank: int, world_size: int, port: int) -> None:
    """Both, in turn; rank 0 prints."""
    torch.set_num_threads(1)
    if world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    data = table()
    for name, encoders in MODELS.items():
        model = ModelConfig.model_validate({"encoders": encoders})
        times = [
            (plain(data, model, rank, world_size), ours(data, model, rank, world_size)) for _ in range(ROUNDS)
        ]
        by_hand, by_fit = (ROWS / BATCH / min(column) for column in zip(*times, strict=True))
        if rank == 0:
            rates = f"plain {by_hand:6.0f}  fit {by_fit:6.0f} steps/s  ratio {by_fit / by_hand:.2f}"
            print(f"{world_size} worker(s)  {name:<18} {rates}")
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    work(0, 1, 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, 2, free)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
