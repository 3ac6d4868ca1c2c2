"""What does not move is ended, and says where it stands; what waits for room is not."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from mmray.distributed.stall import StallGuard
from mmray.errors import StalledError


class Stuck:
    """Does partitions 0 and 1, and no other."""

    def __call__(self, block):
        if block["partition"][0].as_py() > 1:
            self.stands_here()
        return block

    def stands_here(self):
        time.sleep(1000)


def test_a_stage_that_hangs_ends_and_says_where(ray_cluster):
    from mmray.distributed import pools
    from mmray.distributed.admission import Pool

    stage = pools.Stage(Stuck, Pool(1, 1.0), {}, stall_timeout_s=4.0)
    done, start = [], time.monotonic()
    rows = pools.stream_partitions(range(6), lambda nodes, left: stage)
    with pytest.raises(StalledError) as caught:
        done += (row["partition"] for row in rows)
    assert sorted(done) == [0, 1]
    assert caught.value.exit_code == 75
    told = str(caught.value)
    assert "no partition was finished for 4 s (stall_timeout_s), though 1 actors work; in hand: 2, 3" in told
    assert "stands_here" in told or "py-spy may not look" in told
    assert time.monotonic() - start < 200


@dataclass
class RoomlessPool:
    """Of Ray Data, as the guard sees it."""

    running: int
    tasks: int
    _running_actors: dict[Any, Any] = field(default_factory=dict)

    def num_running_actors(self) -> int:
        return self.running

    def num_tasks_in_flight(self) -> int:
        return self.tasks


def test_waiting_for_room_is_no_stall():
    guard = StallGuard(0.05, lambda: [1, 2, 3])
    for waiting in (RoomlessPool(0, 0), RoomlessPool(2, 0)):
        time.sleep(0.1)
        guard.look([waiting])
    time.sleep(0.1)
    with pytest.raises(StalledError, match="in hand: 1, 2"):
        guard.look([RoomlessPool(2, 2)])
    StallGuard(None, lambda: []).look([RoomlessPool(1, 1)])
