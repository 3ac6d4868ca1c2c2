"""A Ray to run on: the one `RAY_ADDRESS` or `--address` names, else one started on this machine.

Ray is imported only when a stage connects: a finished stage, and every fault before it, answer without it.
An address is asked first by one call with a deadline of our own: Ray's client would wait for a silent port,
or end the process with a dump where the token is wrong.
"""

import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmray.config import ClusterConfig
from mmray.distributed.admission import Node
from mmray.distributed.waking import wake
from mmray.errors import PlanError, WorkerError

__all__ = ["connect", "nodes"]

ANSWER_S = 10.0
"""A cluster that does not answer one small call within it is taken for absent."""


def connect(address: str | None = None, cluster: ClusterConfig | None = None) -> None:
    """Connect to a cluster, or start a Ray of this machine's size; a no-op where Ray is up.

    Of a cluster that scales from nothing, the machines that `cluster` says are awaited.

    Raises:
        PlanError: if no cluster answers at the address, or not to us: which of these, in one line.
        WorkerError: where a Ray of this machine does not start in time, or no machines come.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    with _no_stderr():
        import ray
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _require_answer(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options |= {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        with _no_stderr(), _own_signals():
            ray.init(**options, job_config=_with_this_code())
    except Exception as error:
        # Ray raises a plain Exception where a node does not start in time, as on an overloaded machine.
        if (
            not isinstance(error, ConnectionError | RuntimeError | ValueError)
            and type(error) is not Exception
        ):
            raise
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        fault = " ".join(str(error).split())
        if "Version mismatch" in fault:
            where = f"the Ray cluster at {address} has other versions than this machine"
        late = "timed out" in fault and not address
        raise (WorkerError if late else PlanError)(f"{where}: {fault[:600]}") from error
    if address and cluster:
        wake(cluster)


def nodes() -> list[Node]:
    """What each live machine of the cluster offers."""
    import ray

    return [
        Node(*(node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU", "memory", "object_store_memory")))
        for node in ray.nodes()
        if node["Alive"]
    ]


# ------------------------------------------------------------------------------------ is it there


def _require_answer(address: str) -> None:
    """Ask the cluster whether it is there, lets us in and is of our version.

    Raises:
        PlanError: saying which of these it is not.
    """
    if address.startswith(("http://", "https://")):
        raise PlanError(
            f"{address} is a dashboard's address, which `mmray submit --address` takes; a stage takes the "
            "cluster's own, HOST:6379"
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 2**16):
        raise PlanError(f"{address!r} is no address of a Ray cluster (--address or RAY_ADDRESS): HOST:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        fault = error.strerror or str(error) or type(error).__name__
        raise PlanError(
            f"no Ray cluster answers at {address} (--address or RAY_ADDRESS): {fault}; is its head up, and "
            "is this its port (6379 unless `ray start --head` was given another)?"
        ) from None
    if not address.startswith("ray://") and os.environ.get("RAY_USE_TLS", "0") == "0":
        _ask_version(address)


def _ask_version(address: str) -> None:
    import grpc
    import ray
    from ray._private.authentication.grpc_authentication_client_interceptor import (
        SyncAuthenticationMetadataClientInterceptor,
    )
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with _no_stderr(), grpc.insecure_channel(address) as channel:
        asking = grpc.intercept_channel(channel, SyncAuthenticationMetadataClientInterceptor())
        request = gcs_service_pb2.CheckAliveRequest()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            alive = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(asking).CheckAlive(request, timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise PlanError(_refusal(address, error)) from None
    theirs = alive.ray_version
    if theirs and theirs != ray.__version__:
        raise PlanError(
            f"the Ray cluster at {address} is version {theirs}, this machine has {ray.__version__}: they "
            f"must be the same; pip install 'ray=={theirs}' here, or the other there"
        )


def _refusal(address: str, error: Any) -> str:
    import grpc

    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return (
            f"the Ray cluster at {address} wants its token: export RAY_AUTH_MODE=token, and put the token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN (`ray get-auth-token` shows it on the head)"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"what listens at {address} does not answer within {ANSWER_S:g} s: is it a Ray head?"
    fault = " ".join((error.details() or error.code().name).split())[:200]
    return f"what listens at {address} does not answer as a Ray cluster: {fault}"


# ------------------------------------------------------------------------------------ beside Ray


def _with_this_code() -> Any:
    """A job config by which workers import the mmray of this process.

    Ray puts the driver's working directory first on a worker's path, where any folder called mmray would be
    taken for it. So a folder that holds mmray alone goes before it; machines without it have their own.
    """
    from ray.job_config import JobConfig

    home = tempfile.mkdtemp(prefix="mmray-code-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    Path(home, "mmray").symlink_to(Path(__file__).parents[1], target_is_directory=True)

    class LastIsFirst(list):
        """Ray adds its folders at the end, and a worker puts each before those it has."""

        def extend(self, folders: Any) -> None:
            super().extend([*folders, home])

    return JobConfig(_py_driver_sys_path=LastIsFirst([home]))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the process's own handlers: Ray's would end it with a dump of its processes."""
    kept = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # only the main thread may
            for each, handler in kept.items():
                signal.signal(each, handler)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Keeps what Ray's core writes on the process's stderr when it starts off the screen."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
