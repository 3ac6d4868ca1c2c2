"""The dashboard's jobs: one is started, found, followed to its end, stopped.

A job does not need the command that follows it: a connection that is cut is made again from the last line,
Ctrl-C leaves the job running.
"""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from mmray import console
from mmray.errors import PlanError, WorkerError

__all__ = ["ENDED", "client_of", "follow", "follow_job", "free_name", "jobs", "start_job", "stop"]

AGENT_S = 60.0
"""On a busy machine a head that has just been started takes tens of seconds."""
SILENT_S = 60.0
"""A log that says nothing for so long: is the job still there?"""
OUTAGE_S = 600.0
"""A dashboard that cannot be reached for so long is given up; the job goes on."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def follow(job: str, address: str, *, to_the_end: bool = True) -> int:
    """Print a job's log; with `to_the_end` wait for it and return its exit code, else 0.

    Raises:
        PlanError: where no Ray dashboard answers, or it knows no such job.
        WorkerError: where the dashboard is out of reach for `OUTAGE_S`.
    """
    client = client_of(address)
    _require_job(client, job, address)
    if to_the_end:
        return follow_job(client, job, address, console.out)
    console.out.print(client.get_job_logs(job), end="", markup=False, soft_wrap=True)
    return 0


def jobs(address: str) -> list[dict[str, Any]]:
    """The cluster's jobs, the newest last: {job, status, project, stage, user, started, seconds}.

    Raises:
        PlanError: where no Ray dashboard answers.
    """
    found = [each for each in client_of(address).list_jobs() if each.submission_id]
    now = time.time() * 1000
    return [
        {
            "job": each.submission_id,
            "status": each.status.value.lower(),
            **{key: (each.metadata or {}).get(key) for key in ("project", "stage", "user")},
            "started": datetime.fromtimestamp(each.start_time / 1000, UTC).isoformat(timespec="seconds"),
            "seconds": round(((each.end_time or now) - each.start_time) / 1000),
        }
        for each in sorted(found, key=lambda each: each.start_time or 0)
    ]


def stop(job: str, address: str) -> str:
    """End a job, as SIGTERM does: what is finished stays; returns its status now.

    Raises:
        PlanError: where no Ray dashboard answers, or it knows no such job.
    """
    client = client_of(address)
    _require_job(client, job, address)
    client.stop_job(job)
    return client.get_job_status(job).value.lower()


# ------------------------------------------------------------------------------------ the dashboard


def client_of(address: str) -> Any:
    """A client of the cluster's job server, once it has answered."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
    # Ray's client would take these before the address it is given.
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    try:
        if not address.startswith(("http://", "https://")):
            raise ValueError("it must be the dashboard's, http://HOST:8265")
        return JobSubmissionClient(address, headers=_headers())
    except AuthenticationError:
        raise PlanError(
            f"the Ray cluster at {address} wants its token: export RAY_AUTH_MODE=token, and put the token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN (`ray get-auth-token` shows it on the head)"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        fault = str(error).strip().splitlines()[0].rstrip(".")
        raise PlanError(f"no Ray cluster takes jobs at {address} (--address): {fault}") from None


def _headers() -> dict[str, str] | None:
    """Headers for an ingress that authenticates, where Ray's own client takes them from: RAY_JOB_HEADERS.

    Raises:
        ValueError: where it is no JSON of texts; it is not shown.
    """
    given = os.environ.get("RAY_JOB_HEADERS")
    if not given:
        return None
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError('RAY_JOB_HEADERS must be a JSON object: {"Authorization": "Bearer …"}')
    return found


def free_name(client: Any, stem: str) -> str:
    """`PROJECT-STAGE-N`, with the first N that no job of the cluster has."""
    taken = {each.submission_id for each in client.list_jobs()}
    return next(name for n in range(1, len(taken) + 2) if (name := f"{stem}-{n}") not in taken)


def _require_job(client: Any, job: str, address: str) -> None:
    known = [each.submission_id for each in client.list_jobs() if each.submission_id]
    if job not in known:
        raise PlanError(f"no job {job!r} at {address}; there are: {', '.join(known[-8:]) or 'none'}")


def start_job(client: Any, **job: Any) -> str:
    """The job's id. The dashboard answers before the agent that starts jobs is there: it is awaited."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                lines = [line for line in str(error).splitlines() if re.search(r"\w", line)]
                fault = lines[-1].strip() if lines else "it does not say why"
                raise PlanError(f"the Ray cluster does not take the job: {fault}") from None
            if time.monotonic() > deadline:
                raise PlanError(
                    f"the Ray head has no agent that starts jobs, even after {AGENT_S:g} s; its "
                    "dashboard_agent.log says why. If another Ray of that machine has port 52365, start "
                    "this one with --dashboard-agent-listen-port 0"
                ) from None
            time.sleep(1.0)


# ------------------------------------------------------------------------------------ its log


def follow_job(client: Any, job: str, address: str, out: Console) -> int:
    """Print the log, each line once, until the job has ended; returns its exit code."""
    try:
        asyncio.run(_print_log(client, job, address, out))
    except KeyboardInterrupt:
        console.err.print(
            f"\njob {job} goes on; come back: mmray logs -f {job} --address {address}; "
            f"end it: mmray stop {job} --address {address}",
            markup=False,
            soft_wrap=True,
        )
        raise
    details = _patiently(lambda: client.get_job_info(job), job, address)
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    if details.status.value != "SUCCEEDED":
        console.err.print(f"job {job} {details.status.value.lower()}: {details.message}", markup=False)
        return 1
    return 0


async def _print_log(client: Any, job: str, address: str, out: Console) -> None:
    """A log comes from its beginning whenever it is asked for: what was printed is passed over."""
    printed = 0
    while True:
        passed = 0
        try:
            async for text in _until_silent(client.tail_job_logs(job)):
                new = text[max(0, printed - passed) :]
                passed += len(text)
                if new:
                    out.print(new, end="", markup=False, soft_wrap=True)
                printed = max(printed, passed)
        except (OSError, RuntimeError, ValueError) as error:  # aiohttp's are OSErrors or ValueErrors
            logging.getLogger(__name__).debug("the log of %s was cut: %s", job, error)
        if _patiently(lambda: client.get_job_status(job), job, address).value in ENDED:
            rest = _patiently(lambda: client.get_job_logs(job), job, address)[printed:]
            out.print(rest, end="", markup=False, soft_wrap=True)
            return
        await asyncio.sleep(1.0)


async def _until_silent(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The same, ended where nothing comes for `SILENT_S`: a dead connection looks like a quiet job."""
    while True:
        try:
            yield await asyncio.wait_for(anext(lines), SILENT_S)
        except (StopAsyncIteration, TimeoutError):
            return


def _patiently(ask: Callable[[], Any], job: str, address: str) -> Any:
    """What the dashboard answers, asked again while it cannot be reached.

    Raises:
        WorkerError: after `OUTAGE_S`.
    """
    start, told = time.monotonic(), False
    while True:
        try:
            return ask()
        except (OSError, RuntimeError) as error:  # requests' are OSErrors, Ray's client's RuntimeErrors
            fault = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if time.monotonic() - start > OUTAGE_S:
            raise WorkerError(
                f"{address} cannot be reached for {OUTAGE_S:g} s; job {job} may go on: mmray logs -f {job} "
                f"--address {address}. The last fault: {fault}"
            )
        if not told:
            console.err.print(f"{address} does not answer, trying again: {fault}", markup=False)
            told = True
        time.sleep(1.0)
