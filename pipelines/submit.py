"""A stage as a Ray Job: this code and the config go to the cluster, its log and exit code come back."""

import asyncio
import tempfile
from pathlib import Path

from mmray.config import Config, dump_config, override
from mmray.errors import PlanError
from mmray.storage import absolute
from pipelines import console

__all__ = ["submit"]


def submit(stage: str, config: Config, address: str) -> int:
    """Run `mmray STAGE` on the cluster behind the dashboard at `address`; returns the job's exit code.

    The cluster's machines need mmray's dependencies (cluster/README.md), not mmray itself. Local paths
    of the config are made absolute: they must be the same files on every machine, or be s3://.

    Raises:
        PlanError: where no Ray dashboard answers, or it refuses the token.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise PlanError(
            f"no Ray cluster takes jobs at {address}: {str(error).strip().splitlines()[0]}; is its dashboard "
            "there, and does this shell have its token (RAY_AUTH_MODE=token, ~/.ray/auth_token)?"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(dump_config(_absolute(config)), encoding="utf-8")
        root = Path(__file__).parent.parent
        job = client.submit_job(
            entrypoint=f"python -m pipelines {stage} config.yaml",
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(root / "mmray"), str(root / "pipelines")],
                "excludes": ["__pycache__"],
            },
        )
    console.err.print(f"job {job} at {address}")
    asyncio.run(_stream_log(client, job))
    details = client.get_job_info(job)
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    if details.status != JobStatus.SUCCEEDED:
        console.err.print(f"job {job} {details.status.value.lower()}: {details.message}")
        return 1
    return 0


async def _stream_log(client, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        console.out.print(lines, end="", markup=False, soft_wrap=True)


def _absolute(config: Config) -> Config:
    paths = {"output": config.output, "samples.manifest": config.samples.manifest}
    return override(config, {dotted: absolute(path) for dotted, path in paths.items()})
