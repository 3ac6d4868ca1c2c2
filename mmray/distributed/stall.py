"""A run in which nothing moves ends and says what it waits for: partitions, actors, where in the code.

Waiting for room on the cluster is no stall: the clock runs only while actors have work in hand.
"""

import importlib.metadata
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from mmray.errors import StalledError

__all__ = ["StallGuard"]

DUMPED = 3
"""Actors whose stacks are shown."""
DUMP_S = 30.0
SHOWN = 12  # lines of each


class StallGuard:
    """Told when a partition is done (`moved`); asked now and then (`look`) whether that is too long ago."""

    def __init__(self, limit_s: float | None, in_hand: Callable[[], Sequence[int]]):
        """`in_hand` are the partitions that are not done, those first which were begun first."""
        self.limit_s, self.in_hand = limit_s, in_hand
        self.last = time.monotonic()

    def moved(self) -> None:
        """A partition is done."""
        self.last = time.monotonic()

    def look(self, pools: Sequence[Any]) -> None:
        """Look at Ray Data's pools of actors.

        Raises:
            StalledError: where they work and nothing was done for too long.
        """
        busy = [pool for pool in pools if pool.num_running_actors() and pool.num_tasks_in_flight()]
        if not busy:
            self.moved()
        if self.limit_s is None or time.monotonic() - self.last <= self.limit_s:
            return
        tasks = sum(pool.num_tasks_in_flight() for pool in busy)
        partitions = ", ".join(map(str, self.in_hand()[:tasks]))
        actors = [actor for pool in busy for actor in pool._running_actors]
        raise StalledError(
            f"no partition was finished for {self.limit_s:g} s (stall_timeout_s), though {len(actors)} "
            f"actors work; in hand: {partitions}. What they do:\n{_dumps(actors[:DUMPED])}\nrun the same "
            "command again to go on; where it stalls again, `mmray check` tries a few samples by themselves"
        )


def _dumps(actors: Sequence[Any]) -> str:
    """Where in the code these actors are, as far as py-spy may look."""
    import ray
    from ray._private.state import state
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    told = []
    for actor in actors:
        about = state.actor_table(actor._actor_id.hex())
        pid, node = about.get("Pid"), about.get("Address", {}).get("NodeID")
        where = f"process {pid} on {about.get('Address', {}).get('IPAddress')}"
        if not (pid and node):
            continue
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        look = ray.remote(num_cpus=0, max_retries=0)(_dump).options(scheduling_strategy=there)
        done, _ = ray.wait([look.remote(pid)], timeout=DUMP_S)
        told += [f"  {where}", *(ray.get(done[0]) if done else ["    does not answer"])]
    return "\n".join(told)


def _dump(pid: int) -> list[str]:
    """Runs on the actor's machine."""
    try:  # comes with ray[default]
        files = importlib.metadata.files("py-spy") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    spy = next((file.locate() for file in files if file.name == "py-spy"), None)
    if spy is None:
        return ["    py-spy is not there to look"]
    done = subprocess.run(
        [str(spy), "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=DUMP_S
    )
    if done.returncode:
        return [f"    py-spy may not look: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}"]
    threads = done.stdout.split("\nThread ")[1:]
    main = next((each for each in threads if "mmray/" in each), threads[0] if threads else done.stdout)
    return [f"    {line.strip()}" for line in main.splitlines()[1 : SHOWN + 1]]
