"""A stage as a Ray Job: this code and the config go to the cluster, its log and exit code come back.

The job does not need the command that submitted it: a connection that is cut is made again, Ctrl-C leaves
the job running, and `mmray logs` comes back to it.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmray import console
from mmray.config import Config, dump_config
from mmray.distributed.jobs import ENDED, client_of, follow_job, free_name, start_job
from mmray.errors import LockedError, PlanError
from mmray.stages.job import ENVIRONMENT, NEEDS
from mmray.storage.strict_json import dumps

__all__ = ["environment_file", "submit"]

DASHBOARD = "http://127.0.0.1:8265"
WRITE = ("extract", "import-features", "train", "tune", "compare", "score", "run")
"""Stages that hold their output's lock: of one output one runs at a time."""


def submit(
    stage: str,
    config: Config,
    config_path: str,
    address: str | None = None,
    options: Sequence[str] = (),
    *,
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
    pip: Sequence[str] = (),
    wait: bool = True,
    as_json: bool = False,
) -> int:
    """Run `mmray STAGE` on the cluster behind the dashboard at `address`; returns the job's exit code.

    What travels: this mmray, the config, modules of yours that its features name, `environment` (beside what
    `cluster.env` names), and the names of the packages to install (`pip`, `cluster.pip`). The `python` of the
    cluster's machines must have mmray's dependencies (cluster/README.md). Local paths of the config are
    absolute: they must be the same files on every machine, or be s3://.

    `options` are the stage's own, as on its command line; `name` is the job's id (`PROJECT-STAGE-N` without
    one). With `wait=False` it returns 0 as soon as the cluster has taken the job. With `as_json` the log goes
    to stderr, and stdout gets {job, address, status, exit_code}.

    Raises:
        PlanError: where no Ray dashboard answers, or it refuses the token or the job, or a variable that
            `cluster.env` names is not set.
        LockedError: where a job of this output runs; it is named.
        WorkerError: where the dashboard is out of reach for `OUTAGE_S`.
    """
    address = address or config.cluster.address or DASHBOARD
    sent = {**_named(config.cluster.env), **(environment or {})}
    packages = [*config.cluster.pip, *pip]
    client = client_of(address)
    job = name or free_name(client, f"{config.name}-{stage}")
    if stage in WRITE:
        _require_alone(client, config, address)
    settings = config.cluster
    with tempfile.TemporaryDirectory() as folder:
        file = _pack(config, config_path, sent, Path(folder))
        start_job(
            client,
            entrypoint=shlex.join(["python", "-m", "mmray.stages.job", stage, file, *options]),
            submission_id=job,
            metadata={
                "project": config.name,
                "stage": stage,
                "output": config.output,
                "config": hashlib.sha256(Path(folder, file).read_bytes()).hexdigest()[:16],
                "user": os.environ.get("USER", ""),
            },
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(Path(__file__).parents[1])],
                "excludes": ["__pycache__"],
                "env_vars": {"MMRAY_SUBMITTED_AS": f"{shlex.quote(config_path)} --address {address}"},
                **({"worker_process_setup_hook": "mmray.stages.job.take_environment"} if sent else {}),
                **({"pip": packages} if packages else {}),
            },
            entrypoint_num_cpus=settings.driver_cpus,
            entrypoint_resources=settings.driver_resources or None,
            entrypoint_label_selector=settings.driver_labels or None,
        )
    console.err.print(f"job {job} at {address}; it goes on without this command", markup=False)
    if wait:
        code = follow_job(client, job, address, console.err if as_json else console.out)
    else:
        code = 0
        if not as_json:
            console.out.print(
                f"{job}\n  log      mmray logs -f {job} --address {address}\n"
                f"  end it   mmray stop {job} --address {address}",
                markup=False,
                soft_wrap=True,
            )
    if as_json:
        told = client.get_job_status(job).value.lower()
        told = {"job": job, "address": address, "status": told, "exit_code": code if wait else None}
        print(dumps(told))
    return code


# ------------------------------------------------------------------------------------ what travels


def environment_file(path: str) -> dict[str, str]:
    """`NAME=value` lines, as Docker reads them: # begins a comment, quotes around a value are dropped.

    Raises:
        PlanError: with the number of the line that is none; its text, which may hold a key, is not shown.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not (equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip())):
            raise PlanError(f"{path}, line {number}: is not NAME=value")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def _named(names: Sequence[str]) -> dict[str, str]:
    """Values of environment variables, of here."""
    if unset := [name for name in names if name not in os.environ]:
        raise PlanError(f"not set here, so not to be sent along: {', '.join(unset)} (--env, cluster.env)")
    return {name: os.environ[name] for name in names}


def _pack(config: Config, config_path: str, environment: Mapping[str, str], folder: Path) -> str:
    """Put what goes along into a folder; the config's name in it."""
    file = Path(config_path).name
    Path(folder, file).write_text(dump_config(config), encoding="utf-8")
    try:
        needs = importlib.metadata.requires("mmray") or []
    except importlib.metadata.PackageNotFoundError:
        needs = []
    Path(folder, NEEDS).write_text(json.dumps(needs), encoding="utf-8")
    if environment:
        Path(folder, ENVIRONMENT).write_text(json.dumps(dict(environment)), encoding="utf-8")
    for module in _own_modules(config):
        skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
        if module.is_dir():
            shutil.copytree(module, folder / module.name, ignore=skipped)
        else:
            shutil.copy(module, folder)
    return file


def _own_modules(config: Config) -> Iterator[Path]:
    """Files and packages that features name as `module:function` and that are no installed package's."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    installed = [
        Path(path).resolve() for path in (*installed, *site.getsitepackages(), site.getusersitepackages())
    ]
    named = [re.match(r"([A-Za-z_]\w*)(\.\w+)*:[A-Za-z_]\w*", text) for text in _texts(config)]
    for name in dict.fromkeys(match[1] for match in named if match):
        found = importlib.util.find_spec(name) if name not in sys.modules else sys.modules[name].__spec__
        if found is None or found.origin is None or name == "mmray":
            continue
        origin = Path(found.origin).resolve()
        if not any(origin.is_relative_to(path) for path in installed):
            yield origin.parent if origin.name == "__init__.py" else origin


def _texts(config: Config) -> Iterator[str]:
    """Every text of the features' settings."""
    waiting: list[Any] = [feature.model_dump(mode="json") for feature in config.features.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _require_alone(client: Any, config: Config, address: str) -> None:
    """Refuse a second job on one output before it starts: the lock would, when it is there.

    Raises:
        LockedError: naming the first.
    """
    for each in client.list_jobs():
        told = each.metadata or {}
        if told.get("output") != config.output or told.get("stage") not in WRITE:
            continue
        if each.submission_id and each.status.value not in ENDED:
            job = each.submission_id
            raise LockedError(
                f"{config.output}: job {job} (mmray {told['stage']}, {each.status.value.lower()}) is at work "
                f"on it; follow it: mmray attach {job} --address {address}; end it: mmray stop {job} "
                f"--address {address}"
            )
