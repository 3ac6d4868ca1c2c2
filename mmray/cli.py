"""The command line: `mmray STAGE CONFIG [section.key=value …]`.

Exit codes: 0 done; 1 a fault the user can act on, told in one line or list; 2 wrong usage; 130 interrupted.
A command reads the config before it imports what does the work, so that help, `init` and a config fault
answer at once.
"""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmray.errors import MmrayError

if TYPE_CHECKING:
    from mmray.config import Config

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="mmray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multimodal media to features, fusion models, sweeps and predictions, on Ray.",
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The project's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="section.key=value", help="Settings in place of the file's."),
]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without one, a Ray is started here."),
]
Json = Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Of extract: do the rows that failed again, and only them.")
]


class Stage(StrEnum):
    """What can be submitted to a cluster."""

    extract = "extract"
    train = "train"
    tune = "tune"
    compare = "compare"
    score = "score"
    report = "report"
    run = "run"


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder for the clips and all results.")] = "runs/demo",
    clips: Annotated[int, typer.Option(min=40, help="How many clips to generate.")] = 240,
    address: Address = None,
) -> None:
    """Generate small clips and take them through every stage: minutes on two cores, no network."""
    from mmray.stages.demo import run_demo

    run_demo(out, clips, address)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path()) -> None:
    """Write a commented starter config, mmray.yaml."""
    from mmray.storage.filesystem import Storage

    target = folder / "mmray.yaml"
    if target.exists():
        raise MmrayError(f"{target} is already there; it is left as it is")
    Storage().write(str(target), files("mmray.assets").joinpath("starter.yaml").read_bytes())
    typer.echo(f"wrote {target}\nedit it, then: mmray check {target}")


@app.command()
def check(config: ConfigPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check config, storage, manifest and labels, decode a few samples, show the plan; needs no cluster."""
    loaded = _load(config, overrides)
    from mmray.stages.check import check as run_check
    from mmray.stages.check import show

    _tell(run_check(loaded), as_json, lambda findings: show(findings, str(config)))


@app.command()
def extract(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Media → feature table, on Ray Data; a table begun is continued, a finished one is left."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.extract import extract as run_extract

    summary = run_extract(loaded, address, retry_failed=retry_failed)
    _tell(summary, as_json, lambda done: console.show("extract", done, str(config)))


@app.command("import-features")
def import_features(config: ConfigPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Features made elsewhere (.pkl, .npz, .h5, tables) → feature table, on this machine."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.import_features import import_features as run_import

    _tell(run_import(loaded), as_json, lambda done: console.show("import", done, str(config)))


@app.command()
def train(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Feature table → fusion model and its test metrics, on Ray Train."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.train import train as run_train

    _tell(run_train(loaded, address), as_json, lambda done: console.show("train", done, str(config)))


@app.command()
def tune(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Search the settings in `tune.space`, on Ray Tune; writes the best config."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.tune import tune as run_tune

    _tell(run_tune(loaded, address), as_json, lambda done: console.show("tune", done, str(config)))


@app.command()
def compare(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Several models and seeds → one table of what each is worth, as Ray tasks; goes on where it was."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.compare import compare as run_compare

    _tell(run_compare(loaded, address), as_json, lambda done: console.show("compare", done, str(config)))


@app.command()
def score(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Feature table + model → prediction table, on Ray Data."""
    loaded = _load(config, overrides)
    from mmray import console
    from mmray.stages.score import score as run_score

    _tell(run_score(loaded, address), as_json, lambda done: console.show("score", done, str(config)))


@app.command()
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """All that was done so far as one HTML page."""
    loaded = _load(config, overrides)
    from mmray.stages.report import write_report
    from mmray.storage.filesystem import Storage

    typer.echo(f"report: {write_report(loaded.output, Storage(loaded.storage), loaded)}")


@app.command()
def run(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Extract, train, score and report, one after the other."""
    loaded = _load(config, overrides)
    from mmray.stages.run import run_all, run_stages

    if as_json:
        typer.echo(json.dumps(dict(run_stages(loaded, address)), ensure_ascii=False))
    else:
        run_all(loaded, str(config), address)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A project's output, a table or a model.")],
    as_json: Json = False,
) -> None:
    """What a table or a model holds: counts, schema, failures by reason.

    For s3:// the endpoint and the keys are the environment's.
    """
    from mmray.stages.inspect import inspect as run_inspect
    from mmray.stages.inspect import show

    _tell(run_inspect(path), as_json, show)


@app.command()
def submit(
    stage: Annotated[Stage, typer.Argument(metavar="STAGE", help=f"One of {', '.join(Stage)}.")],
    config: ConfigPath,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http://…:8265.")
    ] = "http://127.0.0.1:8265",
    retry_failed: RetryFailed = False,
) -> None:
    """Run a stage as a Ray Job: uploads code and config, streams the log, returns its exit code."""
    if retry_failed and stage != Stage.extract:
        raise typer.BadParameter("--retry-failed is an option of extract alone")
    loaded = _load(config, overrides)
    from mmray.stages.submit import submit as run_submit

    options = ["--retry-failed"] if retry_failed else []
    raise typer.Exit(run_submit(stage.value, loaded, str(config), address, options))


def _load(path: Path, overrides: list[str] | None) -> "Config":
    from mmray.config import load_config

    return load_config(path, overrides or [])


def _tell(summary: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """A summary as one line of JSON for scripts, or as a person reads it."""
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        show(summary)


def main() -> None:
    """Entry point of the `mmray` command."""
    try:
        app(prog_name="mmray")
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; what is finished stays", err=True)
        raise
