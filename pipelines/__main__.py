"""The command line: `mmray STAGE CONFIG [section.key=value …]`.

Exit codes: 0 done; 1 a fault the user can act on, told in one line or list; 2 wrong usage. Only what a
command needs is imported, so that help, `init` and a config fault answer at once.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmray.errors import MmrayError

if TYPE_CHECKING:
    from mmray.config import Config

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
    typer.Argument(metavar="[section.key=value]…", help="Settings in place of the file's."),
]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without one, a Ray is started here."),
]
Json = Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")]


class Stage(StrEnum):
    """What can be submitted to a cluster."""

    extract = "extract"
    train = "train"
    tune = "tune"
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
    from pipelines.demo import run_demo

    run_demo(out, clips, address)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path()) -> None:
    """Write a commented starter config, mmray.yaml."""
    target = folder / "mmray.yaml"
    if target.exists():
        raise MmrayError(f"{target} is already there; it is left as it is")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text((Path(__file__).parent / "starter.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"wrote {target}\nedit it, then: mmray check {target}")


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Check config, storage and manifest, decode a few samples, show the plan; needs no cluster."""
    from pipelines.check import check as run_check

    run_check(_load(config, overrides), str(config))


@app.command()
def extract(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Media → feature table, on Ray Data; a table begun is continued, a finished one is left."""
    from pipelines.extract import extract as run_extract

    _end(run_extract(_load(config, overrides), address), "extract", config, as_json)


@app.command()
def train(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Feature table → fusion model and its test metrics, on Ray Train."""
    from pipelines.train import train as run_train

    _end(run_train(_load(config, overrides), address), "train", config, as_json)


@app.command()
def tune(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Search the settings in `tune.space`, on Ray Tune; writes the best config."""
    from pipelines.tune import tune as run_tune

    _end(run_tune(_load(config, overrides), address), "tune", config, as_json)


@app.command()
def score(
    config: ConfigPath, overrides: Overrides = None, address: Address = None, as_json: Json = False
) -> None:
    """Feature table + model → prediction table, on Ray Data."""
    from pipelines.score import score as run_score

    _end(run_score(_load(config, overrides), address), "score", config, as_json)


@app.command()
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """All that was done so far as one HTML page."""
    from mmray.storage import Storage
    from pipelines.report import write_report

    loaded = _load(config, overrides)
    typer.echo(f"report: {write_report(loaded.output, Storage(loaded.storage), loaded)}")


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, address: Address = None) -> None:
    """Extract, train, score and report, one after the other."""
    from pipelines.run import run_all

    run_all(_load(config, overrides), str(config), address)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A project's output, a table or a model.")],
) -> None:
    """What a table or a model holds: counts, schema, failures by reason."""
    from pipelines.inspect import inspect as run_inspect

    run_inspect(path)


@app.command()
def submit(
    stage: Stage,
    config: ConfigPath,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http://…:8265.")
    ] = "http://127.0.0.1:8265",
) -> None:
    """Run a stage as a Ray Job: uploads code and config, streams the log, returns its exit code."""
    from pipelines.submit import submit as run_submit

    raise typer.Exit(run_submit(stage.value, _load(config, overrides), address))


def _load(path: Path, overrides: list[str] | None) -> "Config":
    from mmray.config import load_config

    return load_config(path, overrides or [])


def _end(summary: dict[str, Any], stage: str, config: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    from pipelines import console

    console.show(stage, summary, str(config))


def main() -> None:
    """Entry point of the `mmray` command."""
    try:
        app()
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
