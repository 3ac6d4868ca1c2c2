"""A cluster that sleeps: its autoscaler is asked for machines, which are awaited before a stage is planned.

A pool that is at work grows with the cluster by itself; to be planned at all it needs the first machines.
"""

import math
import time

from mmray import console
from mmray.config import ClusterConfig
from mmray.errors import WorkerError

__all__ = ["wake"]

LOOK_S = 1.0
SAY_S = 60.0
WAKE_S = 1200.0
"""A machine of a cloud, image included, is there within some minutes, a scarce one later or never."""


def wake(cluster: ClusterConfig) -> None:
    """Wait for `cluster.wait_for_cpus` and `wait_for_gpus`; for one CPU at least.

    Raises:
        WorkerError: where they have not come within `WAKE_S`.
    """
    from ray.autoscaler.sdk import request_resources

    wanted = {"CPU": max(cluster.wait_for_cpus, 1e-3), "GPU": cluster.wait_for_gpus}
    start, said = time.monotonic(), -math.inf
    while lacking := [(kind, n) for kind, n in wanted.items() if _there(kind) + 1e-6 < n]:
        now = time.monotonic()
        if now - said > SAY_S:
            asked = ", ".join(f"{math.ceil(n)} {kind}s, {_there(kind):g} are there" for kind, n in lacking)
            if math.isinf(said):
                gpus = [{"GPU": 1}] * math.ceil(wanted["GPU"])
                request_resources(num_cpus=math.ceil(wanted["CPU"]), bundles=gpus)
            said = now
            console.err.print(f"waiting: the cluster's autoscaler was asked for {asked}", soft_wrap=True)
        if now - start > WAKE_S:
            kinds = " and ".join(kind for kind, _ in lacking)
            raise WorkerError(
                f"no machines came within {WAKE_S:g} s that have {kinds}s: does the cluster have an "
                "autoscaler, and a kind of such machines (`ray status` on its head)?"
            )
        time.sleep(LOOK_S)
    if not math.isinf(said):
        request_resources(num_cpus=0, bundles=[])  # from here on what runs keeps its machines


def _there(kind: str) -> float:
    import ray

    return sum(node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"])
