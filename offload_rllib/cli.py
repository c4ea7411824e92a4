"""The command line: one verb per use. Everything here is a thin call of the package's functions."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from offload_rllib.commands.bound import bound
from offload_rllib.commands.calibrate import calibrate
from offload_rllib.commands.check import check
from offload_rllib.commands.compare import compare
from offload_rllib.commands.environment_options import EnvArgument, SetOption, TrustOption
from offload_rllib.commands.evaluate import evaluate
from offload_rllib.commands.front import front
from offload_rllib.commands.home import ensure_home
from offload_rllib.commands.imports import import_edgecloudsim, import_topo4mec, import_trace
from offload_rllib.commands.init import init
from offload_rllib.commands.record import record
from offload_rllib.commands.replay import replay
from offload_rllib.commands.report import report
from offload_rllib.commands.serve import serve
from offload_rllib.commands.serve_env import serve_env
from offload_rllib.commands.status import status
from offload_rllib.commands.suite import app as suite_app
from offload_rllib.commands.terminal import console, say, say_error
from offload_rllib.commands.testbed import play_testbed, report_testbed
from offload_rllib.commands.train import train
from offload_rllib.commands.tune import tune
from offload_rllib.commands.tune_rule import tune_rule
from offload_rllib.commands.watch import watch
from offload_rllib.config import ConfigError, load_environment, load_policy_config, presets
from offload_rllib.config.loading import nearest
from offload_rllib.simulator.heuristics import DESCRIPTIONS
from offload_rllib.version import __version__

# Errors of running that are reported in one message.
REPORTED = ("TrainingError", "TrainerLostError", "ClusterError", "ServiceError", "TestbedError")

# ray and torch take seconds to import: only the verbs that need them do.

app = typer.Typer(
    help="Train and compare task-offloading policies for edge networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


for verb in (
    init,
    train,
    status,
    watch,
    evaluate,
    compare,
    front,
    report,
    replay,
    record,
    tune,
    bound,
    check,
    serve,
    calibrate,
):
    app.command()(verb)
app.command("tune-rule")(tune_rule)
app.command("serve-env")(serve_env)
app.command("testbed-report")(report_testbed)
app.command("testbed")(play_testbed)
app.command("import-trace")(import_trace)
app.command("import-edgecloudsim")(import_edgecloudsim)
app.command("import-topo4mec")(import_topo4mec)
app.add_typer(suite_app, name="suite")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a checkpoint.")],
    format_: Annotated[str, typer.Option("--format", help="Format of the file; so far: onnx.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="The file; by default RUN.onnx here. Several policies: one file each.")
    ] = None,
) -> None:
    """Write a trained policy as a file for other programs."""
    from offload_rllib.policies.export import FORMATS, export_onnx
    from offload_rllib.policies.saved import load_saved_policy
    from offload_rllib.runs.lookup import trained_policy_folder

    if format_ not in FORMATS:
        raise ConfigError(f"--format '{format_}': accepted: {', '.join(FORMATS)}")
    policy = load_saved_policy(trained_policy_folder(run))
    for name, path in export_onnx(policy, output or Path(f"{run.resolve().name}.{format_}")).items():
        say(f"policy '{name}': {path}")


@app.command()
def envs() -> None:
    """List the environments."""
    _list("environment", {name: load_environment(path).description for name, path in presets("envs").items()})


@app.command()
def policies() -> None:
    """List the policies: trainable ones, and heuristics."""
    _list("trainable", {name: load_policy_config(path).description for name, path in presets("policies").items()})
    _list("heuristic", DESCRIPTIONS)


@app.command()
def show(
    env: EnvArgument,
    set_: SetOption = None,
    trust: TrustOption = False,
    out: Annotated[
        Path | None, typer.Option(help="The picture to write, .png, .svg or .pdf; by default ENV.png here.")
    ] = None,
) -> None:
    """Print the numbers of an environment's network and load, and draw its topology."""
    from offload_rllib.reporting.network_picture import draw, picture_format
    from offload_rllib.reporting.topology import print_numbers
    from offload_rllib.scenario import build_scenario

    environment = load_environment(env, set_ or (), trust=trust)
    path = out or Path(f"{Path(env).stem}.png")
    picture_format(path)
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    shown = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*shown, console=console, transient=True) as spinning:  # large networks take minutes
        step = spinning.add_task("building the network and its load", total=None)
        scenario = build_scenario(environment)
        spinning.update(step, visible=False)
        print_numbers(scenario, console)
        spinning.add_task("drawing", total=None)
        draw(scenario, path, environment.description or Path(env).stem)
    say(f"picture: {path}")


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help="sampling, training, ddqn, replay, runners; by default all."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each figure; medians are shown.")] = 5,
) -> None:
    """Measure how fast this machine samples and trains, compared with RLlib's own runner and learner."""
    from offload_rllib.bench.sampling import PARTS
    from offload_rllib.bench.sampling import bench as measure

    for part in parts or ():
        if part not in PARTS:
            raise ConfigError(f"'{part}' is not a part of the benchmark.{nearest(part, PARTS)}")
    measure(console, parts or list(PARTS), repeats)


@app.command("import-peersim")
def import_peersim(
    file: Annotated[Path, typer.Argument(help="PeersimGym's configuration: JSON, a Python dictionary, or its file.")],
    out: Annotated[Path | None, typer.Option(help="The YAML to write; by default FILE's name here, as .yaml.")] = None,
    as_coded: Annotated[
        bool, typer.Option("--as-coded", help="Also serve and offer the newest task first, in ticks, as its code does.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Convert a configuration of PeersimGym to an environment, and report how each key was handled."""
    from offload_rllib.scenario.peersim_import import import_peersim as convert
    from offload_rllib.scenario.peersim_import import write_imported

    path = out or Path(f"{file.stem}.yaml")
    imported = convert(file, path.stem, as_coded=as_coded)
    written = write_imported(imported, path, force=force)
    for fate in dict.fromkeys(note.fate for note in imported.notes):
        listing = Table(title=fate, title_justify="left")
        for column in ("key", "value", "here"):
            listing.add_column(column, overflow="fold")
        for note in imported.notes:
            if note.fate == fate:
                listing.add_row(note.key, note.value, note.why)
        console.print(listing)
    for name in written:
        say(f"written: {name}")


def _list(kind: str, descriptions: dict[str, str]) -> None:
    listing = Table()
    listing.add_column(kind, no_wrap=True)
    listing.add_column("what it is")
    for name, description in descriptions.items():
        listing.add_row(name, description)
    console.print(listing)


def main() -> None:
    """Run the command line.

    What the user got wrong is one message and exit code 2; what the machine refuses (a folder, a full disk) or a
    training run that failed is one message and exit code 1.
    """
    ensure_home()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII: a ? beats an error
    try:
        app()
    except ConfigError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 1)
    except RuntimeError as error:
        # Their classes are not imported here: that would load ray and torch.
        if type(error).__name__ not in REPORTED:
            raise
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    say_error(message)
    sys.exit(code)
