"""Actors that serve other actors (encoders on GPUs), and a watch over what of a pool is lost.

    Ray Data's actors (CPUs)  ──ask: a slice──▶  servers (GPUs)
                              ◀─── answer ─────

A server belongs to no one that asks: it takes questions as they come, and Ray holds their arguments ready in
its node's object store while it works. One that dies is started again by Ray, and what it had in hand is
asked again.
"""

import contextlib
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmray import console
from mmray.distributed.admission import IN_FLIGHT, Pool, places
from mmray.distributed.stall import StallGuard
from mmray.errors import MmrayError, WorkerError

__all__ = ["Lost", "Servers", "constructed", "serving", "watch"]

RESTARTS = 4  # of one actor, while the others go on
RETRIES = 2  # of what an actor had in hand when it died
LOOK_S = 2.0  # between two looks at the cluster
ELSEWHERE_S = 20.0  # Ray may take so long to find a lost actor another place
SAY_S = 60.0  # between two lines on what is waited for


class Lost(WorkerError):  # noqa: N818 - what happened
    """Servers died again and again, or a node is gone whose actors find no other place."""


def constructed(code: type, arguments: Mapping[str, Any]) -> tuple[Any, Exception | None]:
    """An instance, or what its constructor raised: the driver raises it again, as it is."""
    try:
        return code(**arguments), None
    except MmrayError as fault:
        return None, fault
    except Exception as error:  # noqa: BLE001 - any: it ends the stage, with the place it came from
        error.add_note(f"while {code.__name__} started:\n{traceback.format_exc()}")
        return None, error


class _Server:
    """What runs in the actor of a server."""

    def __init__(self, code: type, arguments: Mapping[str, Any]):
        self.instance, self.fault = constructed(code, arguments)

    def ready(self) -> Exception | None:
        """What the constructor raised."""
        return self.fault

    def call(self, method: str, *arguments: Any) -> Any:
        """A method's result; after a restart the constructor may have failed."""
        if self.fault:
            raise self.fault
        return getattr(self.instance, method)(*arguments)


@contextlib.contextmanager
def serving(code: type, pool: Pool, arguments: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Handles of a pool's servers, all of which are ready; they end with the context.

    Raises:
        Exception: what a constructor raised.

    """
    import ray

    server = ray.remote(
        num_cpus=pool.cpus, num_gpus=pool.gpus, max_restarts=RESTARTS, max_task_retries=RETRIES
    )(_Server)
    handles = [server.remote(code, dict(arguments)) for _ in range(pool.size)]  # pyright: ignore
    try:
        pending = [handle.ready.remote() for handle in handles]
        said = time.monotonic()
        while pending:
            done, pending = ray.wait(pending, timeout=LOOK_S)
            if fault := next((fault for fault in ray.get(done) if fault), None):
                raise fault
            if pending and time.monotonic() - said > SAY_S:
                said = time.monotonic()
                console.err.print(f"waiting: {len(pending)} of {pool.size} {code.__name__} actors start")
        yield handles
    finally:
        for handle in handles:
            ray.kill(handle)  # pyright: ignore[reportArgumentType]


class Servers:
    """Servers as one that asks sees them: questions go to those that have fewest of its own."""

    def __init__(self, handles: Sequence[Any]):
        self.waiting = dict.fromkeys(handles, 0)
        self.open: deque[Answer] = deque()

    def ask(self, method: str, *arguments: Any) -> "Answer":
        """Begin a call; where `IN_FLIGHT` are open, the oldest is awaited first.

        Raises:
            Lost: where a server died again and again.

        """
        while len(self.open) >= IN_FLIGHT:
            self.open.popleft()()
        server = min(self.waiting, key=lambda handle: self.waiting[handle])
        answer = Answer(self, server, server.call.remote(method, *arguments))
        self.waiting[server] += 1
        self.open.append(answer)
        return answer


class Answer:
    """Of a server; awaited when it is called."""

    def __init__(self, servers: Servers, server: Any, reference: Any):
        self.servers = servers
        self.server = server
        self.reference = reference
        self.value: Any = None

    def __call__(self) -> Any:
        """The method's result."""
        import ray
        from ray.exceptions import RayActorError

        if self.reference is not None:
            reference, self.reference = self.reference, None
            self.servers.waiting[self.server] -= 1
            try:
                self.value = ray.get(reference)
            except RayActorError as error:
                raise Lost(f"an actor that encodes died again and again: {error}") from error
        return self.value


def watch(pool: Pool, beside: Pool | None, guard: StallGuard) -> type:
    """A callback of Ray Data that says when actors are replaced, and ends a run that waits for a lost node.

    `beside` are the servers, which need their places too; `guard` is asked whether anything moves.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    from mmray.distributed.admission import without
    from mmray.distributed.connect import nodes

    class Watch(ExecutionCallback):
        def before_execution_starts(self, executor: Any) -> None:
            self.looked = self.said = time.monotonic()
            self.size, self.restarting, self.lacking_since = len(nodes()), 0, None

        def on_execution_step(self, executor: Any) -> None:
            now = time.monotonic()
            if now - self.looked < LOOK_S:
                return
            self.looked = now
            guard.look([*filter(None, map(_pool_of, executor._topology or ()))])
            restarting = sum(_restarting(operator) for operator in executor._topology or ())
            if restarting > self.restarting:
                console.err.print("an actor died; Ray starts it again, the others go on")
            self.restarting = restarting
            here = nodes()
            left = without(here, beside) if beside else here
            room = places(left, pool.cpus, pool.gpus) if left is not None else 0
            if len(here) >= self.size or room >= pool.size:
                self.lacking_since = None
            elif self.lacking_since is None:
                self.lacking_since = now
            elif now - self.lacking_since > ELSEWHERE_S:
                raise Lost(f"{self.size - len(here)} of {self.size} nodes are gone")

    return Watch


def _pool_of(operator: Any) -> Any:
    return getattr(operator, "_actor_pool", None)


def _restarting(operator: Any) -> int:
    pool = _pool_of(operator)
    return pool.num_restarting_actors() if pool else 0
