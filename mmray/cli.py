"""The command line: `mmray STAGE CONFIG [section.key=value …]`.

A stage is a row of `STAGES`; its command calls the function of that name in `mmray`. The config is read
before anything that does work is imported, so that help, `init` and a config fault answer at once.

Exit codes: 0 done; 1 a fault the user can mend, told in one line or list; 2 wrong usage; 75 try again (a node
lost, storage out of reach); 130 and 143 ended by Ctrl-C or SIGTERM.
"""

import atexit
import os
import signal
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

import mmray
from mmray.cli_jobs import job_commands
from mmray.errors import MmrayError

__all__ = ["STAGES", "Stage", "main"]

CONFIG = click.Argument(["config"], metavar="CONFIG", type=click.Path(path_type=Path))
OPTIONAL_CONFIG = click.Argument(
    ["config"], metavar="[CONFIG]", type=click.Path(path_type=Path), required=False
)
OVERRIDES = click.Argument(["overrides"], metavar="[section.key=value]…", nargs=-1)
ADDRESS = click.Option(
    ["--address"], envvar="RAY_ADDRESS", help="A Ray cluster; without one, a Ray is started here."
)
JSON = click.Option(["--json", "as_json"], is_flag=True, help="The summary as JSON on stdout.")


JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="The same as JSON on stdout.")


def _print_reference(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mmray.config.reference import reference

        click.echo(reference(), nl=False)
        ctx.exit()


REFERENCE = click.Option(
    ["--reference"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_reference,
    help="Print every key of the config with its meaning, as Markdown, and end.",
)
RETRY_FAILED = click.Option(
    ["--retry-failed"], is_flag=True, help="Do the rows that failed again, and only them."
)


def _log_format(ctx: click.Context, param: click.Parameter, value: str) -> None:
    if value == "json":  # before the console is made
        os.environ["MMRAY_LOG_FORMAT"] = value


LOG_FORMAT = click.Option(
    ["--log-format"],
    type=click.Choice(["text", "json"]),
    default="text",
    is_eager=True,
    expose_value=False,
    callback=_log_format,
    help="Of stderr: progress and notes as text, or an object a line.",
)


@dataclass(frozen=True)
class Stage:
    """A command that takes a config: what it does, whether it runs on Ray, and options of its own.

    An option is an argument of the stage's function, given only where it is set.
    """

    name: str
    does: str
    on_ray: bool = True
    options: tuple[click.Option, ...] = ()
    needs_config: bool = True


STAGES = (
    Stage(
        "check",
        "Look before you run: all faults that can be found now. Config, storage, samples and labels; a few "
        "samples decoded and encoded; the plan. With --address each machine of the cluster is asked.",
        options=(REFERENCE,),
    ),
    Stage(
        "extract",
        "Media → features, on Ray Data. What is there is left, what is missing is done.",
        options=(RETRY_FAILED,),
    ),
    Stage(
        "import-features",
        "Features made elsewhere → feature tables. Reads .pkl, .npz, .h5, tables.",
        on_ray=False,
    ),
    Stage("train", "Features → a fusion model and its metrics, on Ray Train."),
    Stage("tune", "Search settings, on Ray Tune; writes the best config."),
    Stage("compare", "Models × seeds → one table of what each is worth."),
    Stage(
        "score",
        "Features and model → predictions, on Ray Data. Of a config's samples by its model, or by --model; "
        "or, with --model, --samples and --output, of any samples, straight from media.",
        options=(
            click.Option(
                ["--model"],
                metavar="MODEL",
                multiple=True,
                help="Folder of a trained model, local or s3://; several: side by side and as an ensemble.",
            ),
            click.Option(
                ["--samples"], metavar="SOURCE", help="A manifest, tar shards or a folder of media."
            ),
            click.Option(["--output"], metavar="OUT", help="Where features and predictions go."),
        ),
        needs_config=False,
    ),
    Stage(
        "explain",
        "Why the model says what it says: what each modality and step adds, robustness, nearest samples.",
        on_ray=False,
        options=(
            click.Option(["--split"], help="Of which rows.  [default: test]"),
            click.Option(["--rows"], type=click.IntRange(1), help="At most so many.  [default: 1000]"),
            click.Option(["--samples"], type=click.IntRange(0), help="Step by step.  [default: 12]"),
        ),
    ),
    Stage("report", "All that was done so far as one HTML page.", on_ray=False),
    Stage("run", "Extract, train, score, evaluate and report, one after the other."),
)


class Journey(click.Group):
    """Commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    "mmray", cls=Journey, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(mmray.__version__, prog_name="mmray")
def app() -> None:
    """Multimodal media to features, fusion models, sweeps and predictions, on Ray."""


@app.command()
@click.option("--out", default="runs/demo", show_default=True, help="Folder for the clips and all results.")
@click.option("--clips", type=click.IntRange(min=40), default=240, show_default=True, help="How many.")
@click.option("--address", envvar="RAY_ADDRESS", help="A Ray cluster; without one, a Ray is started here.")
def demo(out: str, clips: int, address: str | None) -> None:
    """All stages on small generated clips. Minutes on two cores, no network."""
    from mmray.stages.demo import run_demo

    run_demo(out, clips, address)


@app.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=".")
def init(folder: Path) -> None:
    """Write a commented starter config, mmray.yaml."""
    from mmray.storage.filesystem import Storage

    target = folder / "mmray.yaml"
    if target.exists():
        raise MmrayError(f"{target} is already there; it is left as it is")
    Storage().write(str(target), files("mmray.assets").joinpath("starter.yaml").read_bytes())
    click.echo(f"wrote {target}\nedit it, then: mmray check {target}")


def _command(stage: Stage) -> click.Command:
    """`mmray STAGE CONFIG [section.key=value …]`."""

    def run(config: Path | None, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
        if config is None and not any(options.get(option.name or "") for option in stage.options):
            raise click.UsageError("Missing argument 'CONFIG'.")
        loaded = None if config is None else mmray.load_config(config, overrides)
        function = getattr(mmray, stage.name.replace("-", "_"))
        given = {name: value for name, value in options.items() if value}
        if stage.name == "run" and not as_json:
            given["show"] = lambda name, summary: _show(name, summary, str(config))
        summary = function(**given) if loaded is None else function(loaded, **given)
        if as_json:
            _echo_json(summary)
        elif stage.name != "run":
            _show(stage.name, summary, "" if config is None else str(config))

    address = (ADDRESS,) if stage.on_ray else ()
    config = CONFIG if stage.needs_config else OPTIONAL_CONFIG
    params = [config, OVERRIDES, *address, *stage.options, JSON, LOG_FORMAT]
    brief = stage.does.partition(". ")[0].rstrip(".")
    return click.Command(stage.name, callback=run, params=list(params), help=stage.does, short_help=brief)


for _stage in STAGES:
    app.add_command(_command(_stage))


@app.command()
@click.argument("what", metavar="CONFIG|PREDICTIONS")
@click.argument("overrides", metavar="[section.key=value]…", nargs=-1)
@click.option("--by", multiple=True, metavar="COLUMN", help="A column of subgroups; may be given again.")
@click.option("--against", metavar="PREDICTIONS", help="Another model's, of the same samples.")
@click.option("--split", help="What subgroups are of: train, val, test, or all.  [default: test]")
@click.option("--output", metavar="OUT", help="Where the tables go.  [default: OUTPUT/evaluations/NAME]")
@JSON_FLAG
def evaluate(what: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """What predictions are worth: every metric with its interval, by split and by subgroup.

    Of a config's model, or of a folder of predictions. Calibration, confusion, the most wrong rows; another
    model's predictions beside them.
    """
    from mmray.stages.evaluate import is_config

    if overrides and not is_config(what):
        raise click.UsageError("a folder of predictions has no settings to override")
    judged = mmray.load_config(what, overrides) if is_config(what) else what
    found = mmray.evaluate(judged, **{name: value for name, value in options.items() if value})
    if as_json:
        _echo_json(found)
    else:
        _show("evaluate", found, what)


@app.command()
@click.argument("model", metavar="MODEL")
@click.argument("output", metavar="OUT")
@click.option("--with-encoders", is_flag=True, help="Also the weights that its features are made with.")
@JSON_FLAG
def export(model: str, output: str, with_encoders: bool, as_json: bool) -> None:
    """A trained model as a folder of its own, its fusion as torch.export and ONNX graphs, checked."""
    manifest = mmray.export(model, output, with_encoders=with_encoders)
    if as_json:
        _echo_json(manifest)
    else:
        _show("export", manifest, "")


@app.command()
@click.argument("output", metavar="OUTPUT")
@click.option("--ids", required=True, metavar="FILE", help="A file with an id a line.")
@JSON_FLAG
def forget(output: str, ids: str, as_json: bool) -> None:
    """Remove samples from every table of a project, and say which models had learned from them."""
    found = mmray.forget(output, ids)
    if as_json:
        _echo_json(found)
    else:
        _show("forget", found, "")


@app.command()
@click.argument("path", metavar="PATH")
@JSON_FLAG
@click.option("--pii", is_flag=True, help="Of a config's output: what can tell who a person is.")
def inspect(path: str, as_json: bool, pii: bool) -> None:
    """What a table or a model holds.

    Counts, schema, failures by reason; with --pii, columns and files that can identify people.
    For s3:// the endpoint and the keys are the environment's.
    """
    from mmray.stages.inspect import identifying, show, show_identifying
    from mmray.stages.inspect import inspect as look

    found: Any = identifying(path) if pii else look(path)
    if as_json:
        _echo_json(found)
    elif pii:
        show_identifying(found)
    else:
        show(found)


@app.command()
@click.argument("path", metavar="CONFIG|PATH")
@click.option("--watch", is_flag=True, help="Again every 10 s, until nobody is at work; Ctrl-C ends it.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON on stdout.")
def status(path: str, watch: bool, as_json: bool) -> None:
    """How far a project is, from storage alone.

    Of a config, or an output folder, local or s3://. Who is at work, files done of all, failures by reason,
    rows a second, time left, and when anything was written last.
    """
    from mmray.stages.status import WATCH_S, show
    from mmray.stages.status import status as look

    while True:
        found = look(path)
        if as_json:
            _echo_json(found)
        else:
            show(found)
        if not watch or found["at_work"] is None:
            return
        time.sleep(WATCH_S)


@app.command()
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[section.key=value]…", nargs=-1)
@click.option("--rows", type=click.FloatRange(min=1), help="Samples of the larger run: 1e8; default: these.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON on stdout.")
def plan(config: Path, overrides: tuple[str, ...], rows: float | None, as_json: bool) -> None:
    """What a larger run will take and cost, by what a small one took.

    The rates are those of the config's last extraction, the machines and prices those of `cluster.nodes`.
    """
    from mmray.stages.plan import plan as find
    from mmray.stages.plan import show

    planned = find(mmray.load_config(config, overrides), rows=None if rows is None else round(rows))
    if as_json:
        _echo_json(planned)
    else:
        show(planned)


for _each in job_commands([stage.name for stage in STAGES]):
    app.add_command(_each)


# ------------------------------------------------------------------------------------ what is told


def _show(stage: str, summary: Any, config: str) -> None:
    """A stage's summary as a person reads it."""
    if stage == "check":
        from mmray.stages.check import show

        show(summary, config)
        return
    if stage in ("evaluate", "explain", "export", "forget"):
        import_module(f"mmray.stages.{stage}").show(summary)
        return
    from mmray import console

    console.show(stage, summary, config)


def _echo_json(value: Any) -> None:
    """One line of strict JSON, for scripts."""
    from mmray.storage.strict_json import dumps

    click.echo(dumps(value))


# ------------------------------------------------------------------------------------ how it ends


def main() -> NoReturn:
    """Entry point of the `mmray` command."""
    ended_by = _end_on_signals()
    try:
        app(prog_name="mmray", standalone_mode=False)
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except MmrayError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        number = ended_by[0] if ended_by else signal.SIGINT
        said = "terminated" if number == signal.SIGTERM else "interrupted"
        click.echo(f"{said}; what is finished stays", err=True)
        code = 128 + number
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process with this code, and nothing else's.

    What Python does at its end is done here (exit handlers, among them Ray's; the streams), but for its last
    step. There libraries take down what is in memory while threads of their own still use it: pyarrow's, with
    S3, ended one command of some hundreds with `terminate called` and SIGABRT, its work and message done.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it, or its disk is full: Python's own code for that
            code = code or 120
    os._exit(code)


def _end_on_signals() -> list[int]:
    """Ctrl-C and SIGTERM unwind the stage; a second one, while it unwinds, ends the process at once.

    Returns a list that will hold the signal. Both are raised as KeyboardInterrupt: the only exception of a
    handler that Ray lets out of its waits. What Ray started here ends with this process, however it ends.
    """
    ended_by: list[int] = []

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    def unwind(number: int, frame: FrameType | None) -> None:
        ended_by.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, at_once)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, unwind)
    return ended_by
