"""What a plan asks for always fits the nodes; what cannot fit is refused with the arithmetic."""

import itertools

import pytest

from mmray.config import ExtractConfig, ScoreConfig, TrainConfig, TuneConfig
from mmray.distributed.admission import (
    Node,
    Pool,
    places,
    plan_extract,
    plan_memory,
    plan_score,
    plan_train,
    plan_tune,
)
from mmray.errors import PlanError

CLUSTERS = [
    [Node(1)],
    [Node(2)],
    [Node(4)],
    [Node(8, 1)],
    [Node(2), Node(3)],
    [Node(16, 4), Node(16, 4), Node(64)],
    [Node(1, 2)],
]


def fits(pools: list[Pool], nodes: list[Node]) -> bool:
    """Whether actors can be placed whole on nodes: tried out one by one, the hungriest first."""
    free = [[node.cpus, node.gpus] for node in nodes]
    actors = [pool for pool in pools for _ in range(pool.size)]
    for actor in sorted(actors, key=lambda pool: (pool.gpus, pool.cpus), reverse=True):
        room = [f for f in free if f[0] >= actor.cpus - 1e-6 and f[1] >= actor.gpus - 1e-6]
        if not room:
            return False
        chosen = min(room, key=lambda f: (f[1], f[0]))
        chosen[0] -= actor.cpus
        chosen[1] -= actor.gpus
    return True


@pytest.mark.parametrize("nodes", CLUSTERS, ids=str)
@pytest.mark.parametrize("partitions", [1, 3, 1000])
def test_automatic_plans_fit_every_cluster(nodes, partitions):
    try:
        extract = plan_extract(ExtractConfig(), nodes, partitions)
        assert fits([pool for pool in (extract.actors, extract.encoders) if pool], nodes)
        assert extract.actors.size <= max(1, partitions)
    except PlanError:
        assert nodes == [Node(1, 2)], "only a GPU machine without a CPU for decoding cannot split"
    score = plan_score(ScoreConfig(), nodes, partitions)
    assert fits([score], nodes)
    workers = plan_train(TrainConfig(), nodes) if nodes != [Node(1, 2)] else None
    if workers:
        assert fits([workers.pool], nodes)
    assert fits([Pool(plan_tune(TuneConfig(), nodes), 1.0)], nodes)


def test_any_accepted_extract_plan_fits():
    """Every combination of sizes is either placed or refused; none is accepted that cannot run."""
    accepted = refused = 0
    for nodes, actors, encoders, cpus, placement in itertools.product(
        CLUSTERS, ["auto", 1, 2, 5], ["auto", 1, 3], [0.25, 0.9, 1.0, 3.0], ["fused", "split"]
    ):
        settings = {"actors": actors, "encoders": encoders, "cpus_per_actor": cpus, "placement": placement}
        config = ExtractConfig.model_validate(settings)
        try:
            plan = plan_extract(config, nodes, 100)
        except PlanError:
            refused += 1
            continue
        accepted += 1
        assert fits([pool for pool in (plan.actors, plan.encoders) if pool], nodes), (config, nodes)
    assert accepted > 50
    assert refused > 50


def test_cpu_machines_fuse_and_gpu_machines_split():
    assert plan_extract(ExtractConfig(), [Node(4)], 9).placement == "fused"
    plan = plan_extract(ExtractConfig(), [Node(16, 2)], 9)
    assert plan.placement == "split"
    assert plan.encoders == Pool(2, 1.0, 1.0)
    assert plan.actors == Pool(9, 1.0), "as many as there are partitions"


@pytest.mark.parametrize(("cpus", "count", "each"), [(1, 1, 1.0), (2, 2, 1.0), (4, 2, 1.0), (64, 2, 1.0)])
def test_training_takes_two_workers_where_it_can(cpus, count, each):
    workers = plan_train(TrainConfig(), [Node(cpus)])
    assert (workers.count, workers.cpus, workers.gpu) == (count, each, False)


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(PlanError, match=r"train.workers 3 is more than the 2 GPU"):
        plan_train(TrainConfig(workers=3), [Node(8, 2)])
    assert plan_train(TrainConfig(workers=1), [Node(8, 2)]).gpu


def test_training_shares_a_cpu_among_the_workers_asked_for():
    workers = plan_train(TrainConfig(workers=3), [Node(1)])
    assert (workers.count, workers.cpus) == (3, 0.33)


def test_training_takes_every_gpu():
    workers = plan_train(TrainConfig(), [Node(8, 2), Node(8, 2)])
    assert (workers.count, workers.gpu) == (4, True)


@pytest.mark.parametrize(
    ("plan", "parts"),
    [
        (
            lambda: plan_extract(ExtractConfig(actors=4), [Node(2)], 9),
            ["extract.actors 4 × (1 CPU)", "needs 4 CPU", "has 2 CPU"],
        ),
        (
            lambda: plan_extract(ExtractConfig(placement="split"), [Node(1)], 9),
            ["extract.actors 1 × (1 CPU)", "extract.encoders 1 × (1 CPU)", "needs 2 CPU", "has 1 CPU"],
        ),
        (lambda: plan_extract(ExtractConfig(gpus_per_encoder=1), [Node(4)], 9), ["1 GPU", "0 GPU"]),
        (
            lambda: plan_train(TrainConfig(workers=3, cpus_per_worker=1.0), [Node(2)]),
            ["train.workers 3 × (1 CPU)", "needs 3 CPU"],
        ),
        (
            lambda: plan_tune(TuneConfig(cpus_per_trial=4), [Node(2), Node(2)]),
            ["tune.concurrent 1 × (4 CPU)", "2 node(s)"],
        ),
        (lambda: plan_score(ScoreConfig(actors=3), [Node(2)], 9), ["score.actors 3 × (1 CPU)"]),
    ],
)
def test_refusals_carry_the_arithmetic(plan, parts):
    with pytest.raises(PlanError) as caught:
        plan()
    for part in parts:
        assert part in str(caught.value)


def test_an_actor_must_fit_whole_on_one_node():
    assert places([Node(3), Node(3)], 2) == 2
    assert places([Node(10, 1)], 1, 0.5) == 2


def test_elastic_workers_start_with_what_fits_and_need_the_least():
    config = TrainConfig(workers=8, min_workers=2)
    plan = plan_train(config, [Node(2), Node(1.5)])
    assert (plan.count, plan.elastic, plan.cpus) == (3, (2, 8), 1.0)
    assert plan_train(config, [Node(64)]).count == 8
    with pytest.raises(PlanError, match=r"train.min_workers 2 × \(1 CPU\) needs 2 CPU"):
        plan_train(config, [Node(1)])


def test_the_memory_of_a_worker_is_its_share_of_a_quarter_of_the_smallest_node():
    nodes = [Node(4, memory=16e9), Node(2, memory=4e9)]
    plan = plan_train(TrainConfig(workers=6), nodes)
    assert plan_memory(TrainConfig(), plan, nodes) == 4e9 / 4 / 2
    assert plan_memory(TrainConfig(memory_budget_mb=100), plan, nodes) == 100e6
    assert plan_memory(TrainConfig(), plan_train(TrainConfig(workers=1), [Node(4)]), [Node(4)]) == float(
        "inf"
    )
