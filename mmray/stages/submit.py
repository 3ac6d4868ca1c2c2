"""A stage as a Ray Job: this code and the config go to the cluster, its log and exit code come back."""

import asyncio
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmray import console
from mmray.config import Config, dump_config
from mmray.errors import PlanError

__all__ = ["submit"]

AGENT_S = 60.0
"""On a busy machine a head that has just been started takes tens of seconds."""


def submit(stage: str, config: Config, config_path: str, address: str, options: Sequence[str] = ()) -> int:
    """Run `mmray STAGE` on the cluster behind the dashboard at `address`; returns the job's exit code.

    `options` are the stage's own, as on its command line.
    The `python` of the cluster's machines must have mmray's dependencies (cluster/README.md); mmray itself
    is uploaded, and wins over one that is installed there. Local paths of the config are made absolute:
    they must be the same files on every machine, or be s3://.

    Raises:
        PlanError: where no Ray dashboard answers, or it refuses the token or the job.
    """
    from ray.job_submission import JobStatus

    client = _client(address)
    with tempfile.TemporaryDirectory() as folder:
        name = Path(config_path).name
        Path(folder, name).write_text(dump_config(config), encoding="utf-8")
        package = Path(__file__).parents[1]
        job = _submit_job(
            client,
            entrypoint=shlex.join(["python", "-m", "mmray", stage, name, *options]),
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(package)],
                "excludes": ["__pycache__"],
            },
        )
    console.err.print(f"job {job} at {address}; it goes on without this command, `ray job stop` ends it")
    asyncio.run(_print_log(client, job))
    details = client.get_job_info(job)
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    if details.status != JobStatus.SUCCEEDED:
        console.err.print(f"job {job} {details.status.value.lower()}: {details.message}", markup=False)
        return 1
    return 0


def _client(address: str) -> Any:
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
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise PlanError(
            f"the Ray cluster at {address} wants its token: export RAY_AUTH_MODE=token, and put the token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN (`ray get-auth-token` shows it on the head)"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        fault = str(error).strip().splitlines()[0].rstrip(".")
        raise PlanError(f"no Ray cluster takes jobs at {address} (--address): {fault}") from None


def _submit_job(client: Any, **job: Any) -> str:
    """The job's id. The dashboard answers before the agent that starts jobs is there: it is awaited."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise PlanError(f"the Ray cluster does not take the job: {error}") from None
            if time.monotonic() > deadline:
                raise PlanError(
                    f"the Ray head has no agent that starts jobs, even after {AGENT_S:g} s; its "
                    "dashboard_agent.log says why. If another Ray of that machine has port 52365, start "
                    "this one with --dashboard-agent-listen-port 0"
                ) from None
            time.sleep(1.0)


async def _print_log(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        console.out.print(lines, end="", markup=False, soft_wrap=True)
