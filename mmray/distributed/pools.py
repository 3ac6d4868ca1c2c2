"""The one way in which stages run a table's partitions through pools of actors, with Ray Data."""

import itertools
import logging
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.distributed.admission import Node, Pool
from mmray.distributed.connect import connect, nodes
from mmray.errors import MmrayError, WorkerError

__all__ = [
    "announce_wait",
    "connect",
    "fault_in",
    "nodes",
    "own_device",
    "quiet_data",
    "stream_partitions",
    "use_own_cpus",
    "with_fault",
]

Stage = tuple[type, Pool, Mapping[str, Any]]
FAULT = "mmray.fault"
MAX_DEATHS = 3  # in a row, without a partition done
WAVE = 10_000  # partitions Ray Data is given at a time: each is an object its driver keeps
RELEASE_S = 5.0  # Ray gives back what an ended stage held within a second or two


def announce_wait(pools: Sequence[Pool]) -> None:
    """Say so where the cluster is large enough but busy: Ray itself would wait without a word."""
    import ray

    needed = {
        "CPU": sum(pool.size * pool.cpus for pool in pools),
        "GPU": sum(pool.size * pool.gpus for pool in pools),
    }
    deadline = time.monotonic() + RELEASE_S
    while busy := [
        f"{amount:g} {name}s needed, {free.get(name, 0.0):g} free"
        for free in [ray.available_resources()]
        for name, amount in needed.items()
        if amount > free.get(name, 0.0) + 1e-6
    ]:
        if time.monotonic() > deadline:
            console.err.print(f"waiting: {'; '.join(busy)}; other jobs of this cluster hold the rest")
            return
        time.sleep(0.1)


def stream_partitions(
    partitions: Sequence[int], plan: Callable[[list[Node], int], Sequence[Stage]]
) -> Iterator[dict[str, Any]]:
    """Run partitions through pools of actors, one after another; yields the last stage's rows as they come.

    `plan` says what runs on which nodes for how many partitions. A stage is (class, pool, its constructor's
    arguments); the class maps one Arrow table to one Arrow table, the last one to a row with `partition`.

    Ray could restart an actor that died, for ever if it dies again, and its partitions would wait for it,
    for ever if the node is gone. So it may not: a death ends the pools, and what is left is planned anew on
    the nodes that are there. That costs an actor's start and what the others had in hand.

    Raises:
        MmrayError: what a stage's constructor or call raised of ours.
        WorkerError: when actors die again and again without a partition done between.
    """
    from ray.exceptions import RayError, RayTaskError

    left, deaths = dict.fromkeys(partitions), 0
    while left:
        wave = list(itertools.islice(left, WAVE))
        try:
            for row in _stream(wave, plan(nodes(), len(wave))):
                del left[row["partition"]]
                deaths = 0
                yield row
        except RayError as error:
            if isinstance(error, RayTaskError):  # raised by the code of a stage: a bug
                raise
            deaths += 1
            reason = " ".join(str(error).split())[:300]
            if deaths == MAX_DEATHS:
                numbers = ", ".join(map(str, itertools.islice(left, 8))) + (" …" if len(left) > 8 else "")
                raise WorkerError(
                    f"actors died {deaths} times in a row before any of the partitions {numbers} was done; "
                    f"out of memory? ask for fewer actors or smaller batches. The last one: {reason}"
                ) from error
            console.err.print(f"an actor or its node died; {len(left)} partitions are left: {reason}")


def _stream(partitions: Sequence[int], stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """A block of Ray Data carries one partition from end to end, never cut or merged: blocks have no target
    size, and every stage takes a block whole.
    """
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    announce_wait([pool for _, pool, _ in stages])
    quiet_data()
    dataset = ray.data.from_blocks([pa.table({"partition": [partition]}) for partition in partitions])
    for stage, pool, arguments in stages:
        with warnings.catch_warnings(action="ignore", category=RayDeprecationWarning):  # of `max_restarts`
            dataset = dataset.map_batches(
                _Stage,
                fn_constructor_args=(stage, dict(arguments)),
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=2),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                max_restarts=0,
            )
    blocks: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for block in blocks:
        if fault := fault_in(block):
            raise fault
        yield from block.to_pylist()


def quiet_data() -> Any:
    """Ray Data's context, set to say nothing and to keep blocks whole."""
    import ray.data

    # What it reports as errors arrives here as exceptions.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def with_fault(fault: MmrayError) -> pa.Table:
    """A block that carries a fault of ours through Ray Data, which would wrap an exception."""
    return pa.table({FAULT: [pickle.dumps(fault)]})


def fault_in(block: pa.Table) -> MmrayError | None:
    """The fault a block carries."""
    return pickle.loads(block[FAULT][0].as_py()) if FAULT in block.column_names else None


class _Stage:
    """A stage whose MmrayError travels to the driver as a value.

    Raised inside Ray Data it would arrive wrapped, or, from a constructor, as text only.
    """

    def __init__(self, stage: type, arguments: dict[str, Any]):
        self.fault: MmrayError | None = None
        try:
            self.stage = stage(**arguments)
        except MmrayError as fault:
            self.fault = fault

    def __call__(self, block: pa.Table) -> pa.Table:
        if FAULT in block.column_names:
            return block
        try:
            if self.fault:
                raise self.fault
            return self.stage(block)
        except MmrayError as fault:
            return with_fault(fault)


def own_device() -> str:
    """In a task or actor: `cuda` where Ray gave it a GPU, else `cpu`, and then torch sees none.

    Without a GPU of its own a process would see, and fill, all that the machine has (`connect` says why).
    """
    import ray

    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def use_own_cpus() -> None:
    """In an actor: as many torch threads as it has CPUs, else actors of one machine fight for its cores."""
    import ray
    import torch

    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
