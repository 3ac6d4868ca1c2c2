"""The commands on a cluster's jobs: submit, jobs, logs, attach, stop. They know of stages by name only."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

import mmray

__all__ = ["job_commands"]

DASHBOARD = click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    default="http://127.0.0.1:8265",
    show_default=True,
    help="The cluster's dashboard.",
)


@click.command()
@click.argument("stage", metavar="STAGE", type=click.STRING)
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[section.key=value]…", nargs=-1)
@click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    help="The cluster's dashboard; without one cluster.address of the config, else http://127.0.0.1:8265.",
)
@click.option("--name", help="The job's id; without one PROJECT-STAGE-N.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the cluster has the job.")
@click.option("--retry-failed", is_flag=True, help="Of extract: do the rows that failed again.")
@click.option("--env", "env", metavar="NAME", multiple=True, help="An environment variable to send along.")
@click.option("--env-file", metavar="FILE", help="NAME=value lines to send along.")
@click.option("--pip", metavar="PACKAGE", multiple=True, help="A package to install for the job.")
@click.option("--json", "as_json", is_flag=True, help="The log to stderr; how it ended as JSON on stdout.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Of the job's log.")
def submit(
    stage: str,
    config: Path,
    overrides: tuple[str, ...],
    address: str | None,
    name: str | None,
    no_wait: bool,
    retry_failed: bool,
    env: tuple[str, ...],
    env_file: str | None,
    pip: tuple[str, ...],
    as_json: bool,
    log_format: str,
) -> NoReturn:
    """Run a stage on a cluster, as a Ray Job.

    Uploads code, config, modules of yours that features name, and the environment variables asked for (their
    values stand in no log or list of jobs); streams the log, returns the stage's exit code. A cut connection
    is made again; Ctrl-C leaves the job running.
    """
    if retry_failed and stage != "extract":
        raise click.BadParameter("--retry-failed is an option of extract alone")
    if unset := [variable for variable in env if variable not in os.environ]:
        raise click.BadParameter(f"not set here: {', '.join(unset)}", param_hint="--env")
    loaded = mmray.load_config(config, overrides)
    from mmray.stages.submit import environment_file
    from mmray.stages.submit import submit as run_submit

    sent = {**(environment_file(env_file) if env_file else {}), **{each: os.environ[each] for each in env}}
    code = run_submit(
        stage,
        loaded,
        str(config),
        address,
        [
            *(["--retry-failed"] if retry_failed else []),
            *(["--log-format=json"] if log_format == "json" else []),
        ],
        name=name,
        environment=sent,
        pip=pip,
        wait=not no_wait,
        as_json=as_json,
    )
    sys.exit(code)


@click.command()
@DASHBOARD
@click.option("--json", "as_json", is_flag=True, help="The same as JSON on stdout.")
def jobs(address: str, as_json: bool) -> None:
    """The cluster's jobs, the newest last."""
    from mmray.distributed.jobs import jobs as find

    found = find(address)
    if as_json:
        from mmray.storage.strict_json import dumps

        click.echo(dumps(found))
        return
    for each in found:
        told = f"{each['job']:<32} {each['status']:<10} {each['started']}  {each['seconds']} s"
        click.echo(f"{told}  {each['user'] or ''}".rstrip())


@click.command()
@click.argument("job", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; returns its exit code.")
@DASHBOARD
def logs(job: str, follow: bool, address: str) -> NoReturn:
    """A job's log."""
    from mmray.distributed.jobs import follow as tail

    sys.exit(tail(job, address, to_the_end=follow))


@click.command()
@click.argument("job", metavar="ID")
@DASHBOARD
def attach(job: str, address: str) -> NoReturn:
    """Follow a job again: its log from the start, then its exit code, as `submit` would."""
    from mmray.distributed.jobs import follow as tail

    sys.exit(tail(job, address))


@click.command()
@click.argument("job", metavar="ID")
@DASHBOARD
def stop(job: str, address: str) -> None:
    """End a job; what is finished stays."""
    from mmray.distributed.jobs import stop as end

    click.echo(f"{job}: {end(job, address)}")


def job_commands(stages: Sequence[str]) -> list[click.Command]:
    """The commands, in the order in which they are used; `stages` are those that can be submitted."""
    submit.params[0].type = click.Choice(stages)
    return [submit, jobs, logs, attach, stop]
