"""A config and a cluster's nodes → how many actors and workers run, so that everything is sure to fit.

Ray waits without a word for resources that never come. So each stage's whole demand is laid out here
before it starts: every actor on a node that can hold it, none of the stages having any other operator
that asks for a CPU (inputs are small lists, output is written by the actors). `auto` takes what is there;
a demand that cannot be met is refused, with the arithmetic.
"""

import math
from dataclasses import dataclass, field

from mmray.config import ExtractConfig, ScoreConfig, TrainConfig, TuneConfig
from mmray.errors import PlanError
from mmray.features.base import SLICE_BYTES
from mmray.settings import Auto

__all__ = [
    "Node",
    "Pool",
    "Workers",
    "plan_compare",
    "plan_extract",
    "plan_memory",
    "plan_score",
    "plan_train",
    "plan_tune",
]


IN_FLIGHT = 2
"""Slices an actor that decodes has on their way to encoders: one is worked on, one lies ready."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0
    memory: float = math.inf
    """Bytes."""
    object_store: float = math.inf
    """Bytes."""


@dataclass(frozen=True)
class Pool:
    """`size` actors, each with its share of a machine."""

    size: int
    cpus: float
    gpus: float = 0.0
    grows: bool = field(default=False, compare=False)
    """Whether more are started where the cluster becomes larger meanwhile."""

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.size} × ({self.cpus:g} CPU{gpus})"


@dataclass(frozen=True)
class ExtractPlan:
    """Actors that decode; where `encoders` is set, they feed that pool, else they encode as well."""

    actors: Pool
    encoders: Pool | None = None

    @property
    def placement(self) -> str:
        """`fused` or `split`."""
        return "split" if self.encoders else "fused"


@dataclass(frozen=True)
class Workers:
    """Processes that train one model together; where `elastic`, from so many to so many of them."""

    count: int
    cpus: float
    gpu: bool
    elastic: tuple[int, int] | None = None

    @property
    def least(self) -> int:
        """How many must fit for the training to go on."""
        return self.elastic[0] if self.elastic else self.count

    @property
    def pool(self) -> Pool:
        """The same as a pool."""
        return Pool(self.count, self.cpus, 1.0 if self.gpu else 0.0)


def places(nodes: list[Node], cpus: float, gpus: float = 0.0) -> int:
    """How many actors of this size fit on the nodes, each whole on one of them."""

    def on(node: Node) -> int:
        by_cpu = math.floor(node.cpus / cpus + 1e-9)
        return min(by_cpu, math.floor(node.gpus / gpus + 1e-9)) if gpus else by_cpu

    return sum(on(node) for node in nodes)


def plan_extract(config: ExtractConfig, nodes: list[Node], partitions: int) -> ExtractPlan:
    """Pools for extraction: fused on machines without GPUs, else a CPU pool feeding one encoder a GPU.

    Raises:
        PlanError: if the pools asked for do not fit the nodes together.
    """
    gpu_count = math.floor(sum(node.gpus for node in nodes))
    gpus = config.gpus_per_encoder
    gpus_each = (1.0 if gpu_count else 0.0) if gpus == "auto" else gpus
    placement = config.placement
    if placement == "auto":
        placement = "split" if gpus_each else "fused"
    cpus = config.cpus_per_actor

    if placement == "fused":
        most = places(nodes, cpus, gpus_each)
        size = max(1, min(most, partitions)) if config.actors == "auto" else config.actors
        pool = Pool(size, cpus, gpus_each, grows=config.actors == "auto")
        if size > most:
            raise PlanError(_refusal("extract", [("extract.actors", pool)], nodes))
        return ExtractPlan(pool)

    if config.encoders == "auto":
        wanted = places(nodes, cpus, gpus_each) if gpus_each else 1
        encoders = Pool(max(1, min(wanted, partitions)), cpus, gpus_each)
    else:
        encoders = Pool(config.encoders, cpus, gpus_each)
    left = without(nodes, encoders)
    most = places(left, cpus) if left is not None else 0
    fed = _most_fed(nodes)
    size = max(1, min(most, partitions, fed)) if config.actors == "auto" else config.actors
    actors = Pool(size, cpus, grows=config.actors == "auto")  # pyright: ignore[reportArgumentType]
    if size > fed:
        raise PlanError(_starved(size, fed, nodes))  # pyright: ignore[reportArgumentType]
    if size > most:
        pools = [("extract.actors", actors), ("extract.encoders", encoders)]
        raise PlanError(_refusal("extract", pools, nodes))
    return ExtractPlan(actors, encoders)


def _most_fed(nodes: list[Node]) -> float:
    """How many decoding actors' slices, in flight to the encoders, half of the object stores hold."""
    store = sum(node.object_store for node in nodes) / 2
    return math.inf if math.isinf(store) else max(1, math.floor(store / (IN_FLIGHT * SLICE_BYTES)))


def _starved(size: int, fed: float, nodes: list[Node]) -> str:
    store = sum(node.object_store for node in nodes)
    return (
        f"extract cannot run on this cluster: {size} extract.actors have {IN_FLIGHT} slices of "
        f"{SLICE_BYTES / 1e6:g} MB each under way to encoders, {size * IN_FLIGHT * SLICE_BYTES / 1e6:g} MB; "
        f"half of the object stores is {store / 2e6:g} MB, enough for {fed:g} actors; "
        "ask for fewer, or start Ray with a larger --object-store-memory"
    )


def plan_score(config: ScoreConfig, nodes: list[Node], partitions: int) -> Pool:
    """The pool that applies the model, on GPUs where there are any.

    Raises:
        PlanError: if the pool asked for does not fit the nodes.
    """
    gpu_count = sum(node.gpus for node in nodes)
    gpus = config.gpus_per_actor
    gpus_each = (1.0 if gpu_count >= 1 else 0.0) if gpus == "auto" else gpus
    most = places(nodes, config.cpus_per_actor, gpus_each)
    size = max(1, min(most, partitions)) if config.actors == "auto" else config.actors
    pool = Pool(size, config.cpus_per_actor, gpus_each, grows=config.actors == "auto")
    if size > most:
        raise PlanError(_refusal("score", [("score.actors", pool)], nodes))
    return pool


def plan_train(config: TrainConfig, nodes: list[Node]) -> Workers:
    """DDP workers: one a GPU where there are any, else two on CPUs (one where there is one CPU).

    Of an elastic range, the most that fit now; the least must fit.

    Raises:
        PlanError: if the workers asked for do not fit the nodes.
    """
    gpu_count = math.floor(sum(node.gpus for node in nodes))
    cpu_count = sum(node.cpus for node in nodes)
    count = config.workers
    if count == "auto":
        count = gpu_count or min(2, max(1, math.floor(cpu_count)))
    if config.min_workers:
        return _plan_elastic(config, config.min_workers, max(count, config.min_workers), nodes)
    if 0 < gpu_count < count:
        raise PlanError(
            f"train.workers {count} is more than the {gpu_count} GPU(s) of this cluster, each worker has "
            f"one: set train.workers to {gpu_count} or auto, or hide the GPUs when Ray starts "
            "(CUDA_VISIBLE_DEVICES=) to train on CPUs"
        )
    gpu = gpu_count > 0
    cpus = config.cpus_per_worker
    if cpus == "auto":
        # A whole CPU each where they last; else equal shares, cut down so that rounding cannot overbook.
        cpus = 1.0 if places(nodes, 1.0) >= count else math.floor(100 * cpu_count / count) / 100
    workers = Workers(count, cpus, gpu)
    if cpus <= 0 or places(nodes, cpus, workers.pool.gpus) < count:
        raise PlanError(_refusal("train", [("train.workers", workers.pool)], nodes))
    return workers


def _plan_elastic(config: TrainConfig, least: int, most: int, nodes: list[Node]) -> Workers:
    # Ray counts whole workers a node, so there are no automatic shares of a CPU here.
    cpus = 1.0 if config.cpus_per_worker == "auto" else config.cpus_per_worker
    gpu = any(node.gpus >= 1 for node in nodes)
    now = places(nodes, cpus, 1.0 if gpu else 0.0)
    if now < least:
        raise PlanError(_refusal("train", [("train.min_workers", Workers(least, cpus, gpu).pool)], nodes))
    return Workers(min(now, most), cpus, gpu, elastic=(least, most))


def plan_memory(config: TrainConfig, workers: Workers, nodes: list[Node]) -> float:
    """Bytes of features a worker may hold: the setting, or its share of a quarter of the smallest node."""
    if config.memory_budget_mb != "auto":
        return config.memory_budget_mb * 1e6
    shares = [
        node.memory / 4 / min(workers.count, here)
        for node in nodes
        if (here := places([node], workers.cpus, workers.pool.gpus))
    ]
    return min(shares, default=math.inf)


def plan_tune(config: TuneConfig, nodes: list[Node]) -> int:
    """How many trials run at once.

    Raises:
        PlanError: if not even one trial, or not the number asked for, fits.
    """
    most = places(nodes, config.cpus_per_trial, config.gpus_per_trial) // config.workers
    wanted = max(1, most) if config.concurrent == "auto" else config.concurrent
    if wanted > most:
        pool = Pool(wanted * config.workers, config.cpus_per_trial, config.gpus_per_trial)
        what = "tune.concurrent" if config.workers == 1 else "tune.concurrent × tune.workers"
        raise PlanError(_refusal("tune", [(what, pool)], nodes))
    return wanted


def plan_compare(nodes: list[Node], cpus: float, gpus: float | Auto = "auto") -> Pool:
    """As many runs of a comparison at once as the nodes hold, by default four a GPU where there are any.

    Raises:
        PlanError: if not even one fits.
    """
    if gpus == "auto":
        gpus = 0.25 if any(node.gpus >= 1 for node in nodes) else 0.0
    pool = Pool(max(1, places(nodes, cpus, gpus)), cpus, gpus)
    if not places(nodes, cpus, gpus):
        raise PlanError(_refusal("compare", [("a run", pool)], nodes))
    return pool


def without(nodes: list[Node], pool: Pool) -> list[Node] | None:
    """What the nodes offer beside a pool placed on them, or None if it does not fit."""
    left, to_place = [], pool.size
    for node in nodes:
        here = min(to_place, places([node], pool.cpus, pool.gpus))
        to_place -= here
        left.append(Node(node.cpus - here * pool.cpus, node.gpus - here * pool.gpus))
    return None if to_place else left


def _refusal(stage: str, pools: list[tuple[str, Pool]], nodes: list[Node]) -> str:
    asked = " + ".join(f"{name} {pool}" for name, pool in pools)
    cpus = sum(pool.size * pool.cpus for _, pool in pools)
    gpus = sum(pool.size * pool.gpus for _, pool in pools)
    have_cpus, have_gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    sizes = ", ".join(f"{n.cpus:g} CPU / {n.gpus:g} GPU" for n in nodes[:4]) + (
        " …" if len(nodes) > 4 else ""
    )
    return (
        f"{stage} cannot run on this cluster: {asked} needs {cpus:g} CPU and {gpus:g} GPU; "
        f"the cluster has {have_cpus:g} CPU and {have_gpus:g} GPU on {len(nodes)} node(s) ({sizes}), "
        "and each actor must fit whole on one node; ask for fewer, smaller, or leave them at auto"
    )
