"""The one way in which stages run a table's partitions through pools of actors, with Ray Data."""

import contextlib
import itertools
import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmray import console
from mmray.distributed.admission import Node, Pool
from mmray.distributed.connect import connect, nodes
from mmray.distributed.serving import LOOK_S, RESTARTS, RETRIES, SAY_S, Lost, constructed, serving, watch
from mmray.distributed.stall import StallGuard
from mmray.errors import MmrayError, PlanError, WorkerError

__all__ = [
    "Stage",
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

FAULT = "mmray.fault"
MAX_DEATHS = 2  # in a row, without a partition done: plans that failed, each after these restarts
WAVE = 10_000  # partitions Ray Data is given at a time: each is an object its driver keeps
RETURN_S = 1800.0  # a node that is gone is awaited so long, where nothing goes on without it
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


@dataclass(frozen=True)
class Stage:
    """What the actors of a pool run: a class that maps a table of one partition number to one row."""

    code: type
    pool: Pool
    arguments: Mapping[str, Any]
    """Of its constructor."""
    servers: "Stage | None" = None
    """Actors that those of the pool call; their handles are one argument more, `servers`."""
    stall_timeout_s: float | None = None
    """No partition done for so long, while actors work: the run ends."""


def stream_partitions(
    partitions: Sequence[int], plan: Callable[[list[Node], int], Stage]
) -> Iterator[dict[str, Any]]:
    """Run partitions through a pool of actors; yields their rows, each with its `partition`, as they come.

    `plan` says what runs on which nodes for how many partitions.

    Ray replaces an actor that died, alone, and tries what it had in hand again: a few times, for one that
    always dies would be started for ever. Where that does not help, and where a node is gone whose actors
    find no other place, all end, and what is left is planned anew on the nodes that are there.

    Raises:
        Exception: what a stage's constructor raised, as it is; of a call, what it raised of ours.
        WorkerError: when actors die again and again without a partition done between.
        StalledError: when nothing is done for the stage's `stall_timeout_s`.
    """
    from ray.exceptions import RayError, RayTaskError

    left, deaths, stage = dict.fromkeys(partitions), 0, None
    while left:
        wave = list(itertools.islice(left, WAVE))
        stage = _planned(plan, len(wave), stage)
        try:
            for row in _stream(wave, stage):
                del left[row["partition"]]
                deaths = 0
                yield row
        except (RayError, Lost) as error:
            if isinstance(error, RayTaskError):  # raised by the code of a stage: a bug
                raise
            deaths += 1
            reason = " ".join(str(error).split())[:300]
            if deaths == MAX_DEATHS:
                numbers = ", ".join(map(str, itertools.islice(left, 8))) + (" …" if len(left) > 8 else "")
                raise WorkerError(
                    f"actors died again and again before any of the partitions {numbers} was done; "
                    f"out of memory? ask for fewer actors or smaller batches. The last one: {reason}"
                ) from error
            console.err.print(f"actors died; {len(left)} partitions are left, and planned anew: {reason}")


def _planned(plan: Callable[[list[Node], int], Stage], partitions: int, before: Stage | None) -> Stage:
    """What runs next: as the last time with GPUs where that had any, which may be waited for.

    Raises:
        PlanError: where nothing ran before, and the nodes that are there do not suffice.
        WorkerError: where the nodes that ran it do not come back.
    """
    start = time.monotonic()
    said = -math.inf
    while True:
        try:
            stage = plan(nodes(), partitions)
            if before is None or _gpus(stage) or not _gpus(before):
                return stage
            lacking = "a node with a GPU: those there were are gone"
        except PlanError as fault:
            if before is None:
                raise
            lacking = str(fault)
        now = time.monotonic()
        if now - start > RETURN_S:
            raise WorkerError(f"no node came back in {RETURN_S:g} s: {lacking}")
        if now - said > SAY_S:
            said = now
            console.err.print(f"waiting for {lacking}")
        time.sleep(LOOK_S)


def _gpus(stage: Stage) -> float:
    return stage.pool.gpus + (stage.servers.pool.gpus if stage.servers else 0.0)


def _stream(partitions: Sequence[int], stage: Stage) -> Iterator[dict[str, Any]]:
    """A block of Ray Data is the number of one partition: an actor does it from end to end."""
    import ray.data
    from ray.data import ExecutionResources
    from ray.util.annotations import RayDeprecationWarning

    announce_wait([stage.pool, *([stage.servers.pool] if stage.servers else [])])
    context = quiet_data()
    with contextlib.ExitStack() as running:
        # Of `max_restarts` and `exclude_resources`, for which there is nothing else in this version.
        running.enter_context(warnings.catch_warnings(action="ignore", category=RayDeprecationWarning))
        beside = stage.servers.pool if stage.servers else Pool(0, 0.0)
        running.callback(setattr, context.execution_options, "exclude_resources", ExecutionResources.zero())
        context.execution_options.exclude_resources = ExecutionResources(
            cpu=beside.size * beside.cpus, gpu=beside.size * beside.gpus
        )
        running.callback(setattr, context, "custom_execution_callback_classes", [])
        open_ = dict.fromkeys(partitions)
        guard = StallGuard(stage.stall_timeout_s, lambda: list(open_))
        context.custom_execution_callback_classes = [watch(stage.pool, stage.servers and beside, guard)]
        arguments = dict(stage.arguments)
        if stage.servers:
            servers = serving(stage.servers.code, stage.servers.pool, stage.servers.arguments)
            arguments["servers"] = running.enter_context(servers)
        dataset = ray.data.from_blocks([pa.table({"partition": [partition]}) for partition in partitions])
        dataset = dataset.map_batches(
            _Stage,
            fn_constructor_args=(stage.code, arguments),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                min_size=stage.pool.size,
                max_size=max(stage.pool.size, len(partitions) if stage.pool.grows else 0),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=stage.pool.cpus,
            num_gpus=stage.pool.gpus,
            max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        )
        blocks: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for block in blocks:
            if fault := fault_in(block):
                raise fault
            for row in block.to_pylist():
                guard.moved()
                del open_[row["partition"]]
                yield row


def quiet_data() -> Any:
    """Ray Data's context, set to say nothing and to keep blocks whole."""
    import ray.data

    # What it reports as errors arrives here as exceptions.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    context.execution_no_progress_timeout_s = -1  # counts waiting for room, too; `StallGuard` does not
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 0  # after `RESTARTS` of its own
    context.print_on_execution_start = False
    return context


def with_fault(fault: Exception) -> pa.Table:
    """A block that carries a fault of ours through Ray Data, which would wrap an exception."""
    return pa.table({FAULT: [pickle.dumps(fault)]})


def fault_in(block: pa.Table) -> Exception | None:
    """The fault a block carries."""
    return pickle.loads(block[FAULT][0].as_py()) if FAULT in block.column_names else None


class _Stage:
    """A stage whose fault travels to the driver as a value.

    Raised inside Ray Data it would arrive wrapped, or, from a constructor, as text only, after three tries.
    """

    def __init__(self, stage: type, arguments: dict[str, Any]):
        self.stage, self.fault = constructed(stage, arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.fault:
            return with_fault(self.fault)
        try:
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
