"""`offload-rllib testbed` and `testbed-report`: the nodes of an environment as real processes, beside the simulator."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from offload_rllib.commands.cluster_options import AddressOption
from offload_rllib.commands.environment_options import (
    EnvArgument,
    HeldOutSeedOption,
    SetOption,
    TrustOption,
    WeightsOption,
    changes_of,
)
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.names import plain_name

if TYPE_CHECKING:
    from offload_rllib.testbed.hosts import Placement


def play_testbed(
    env: EnvArgument,
    policies: Annotated[
        list[str],
        typer.Argument(metavar="POLICY...", help="Heuristics, or folders of runs; each plays the same arrivals."),
    ],
    set_: SetOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    speed: Annotated[float, typer.Option(help="Seconds of the scenario per real second.")] = 20.0,
    episodes: Annotated[int, typer.Option(min=1, help="Held-out episodes that each policy plays.")] = 1,
    held_out_seed: HeldOutSeedOption = 0,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Trained policies draw their actions, instead of taking the best.")
    ] = False,
    compute: Annotated[
        str, typer.Option(help="A server is busy by a timer (emulate), by real work (burn), or by a program (command).")
    ] = "emulate",
    command: Annotated[
        str, typer.Option(help="With --compute command: the program that runs for each task, with its arguments.")
    ] = "",
    network: Annotated[
        str,
        typer.Option(
            help="Who keeps to the rates of links: senders (shaped), the kernel (namespaces), or the real links (real)."
        ),
    ] = "shaped",
    hosts: Annotated[
        Path | None, typer.Option(help="YAML that says which nodes are on which node of a Ray cluster.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65000, help="First of the ports that nodes listen on; 0: free ones.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must not exist.")] = None,
    address: AddressOption = None,
) -> None:
    """Play policies with a process for every node, and in the simulator, on the same arrivals."""
    from offload_rllib.reporting.testbed_page import PAGE, conclusion, write_testbed_report
    from offload_rllib.testbed.play import play
    from offload_rllib.testbed.results import read_record, table_of_run
    from offload_rllib.testbed.setup import Options

    environment = load_environment(env, changes_of(set_, weights), trust=trust)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress, _placed(hosts, address) as placement:
        try:
            folder = play(
                environment,
                policies,
                label=plain_name(Path(env).stem),
                options=Options(speed, compute, tuple(shlex.split(command)), network),
                episodes=episodes,
                seed=held_out_seed,
                sampled=sampled,
                out=out,
                placement=placement,
                first_port=port,
                progress=progress,
            )
        except KeyboardInterrupt:
            progress.stop()
            say("interrupted: all processes of the testbed have ended, and nothing was written")
            raise typer.Exit(130) from None
    record = read_record(folder)
    if record["valid"]:
        console.print(table_of_run(folder))
    differences, records, _ = write_testbed_report([folder], folder, drop_s=environment.score.drop_s or 0.0)
    say(conclusion(differences, records)[1])
    say(f"page: {folder / PAGE}")
    say(f"results: {folder}")
    for one in record["plays"]:
        for reason in one["reasons"]:
            say(f"invalid: {one['policy']}, episode {one['episode']}: {reason}")
    for each in records:
        for note in each.notes:
            say(f"note: {note}")
    if not record["valid"]:
        raise typer.Exit(1)


def report_testbed(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of testbeds, or Parquet files of tasks; together they are one report."
        ),
    ],
    drop: Annotated[
        float, typer.Option("--drop", min=0.0, help="Least score of a task that did not finish, as in score.drop_s.")
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; is made. Default: that of the first log.")
    ] = None,
) -> None:
    """Compare the tasks of a testbed with those of the simulator: figures, distributions, parts, order of policies."""
    from offload_rllib.reporting.testbed_page import conclusion, verdict_table, write_testbed_report

    for path in logs:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
    folder = out or (logs[0] if logs[0].is_dir() else logs[0].parent)
    differences, records, paths = write_testbed_report(logs, folder, drop_s=drop)
    verdicts = verdict_table(differences.verdicts())
    table = Table(title="testbed minus simulator")
    for column in verdicts.columns:
        table.add_column(column, overflow="fold")
    for row in verdicts.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print(table)
    for note in differences.notes:
        say(f"note: {note}")
    say(conclusion(differences, records)[1])
    for what, path in paths.items():
        say(f"{what}: {path}")


@contextmanager
def _placed(hosts: Path | None, address: str | None) -> Iterator[Placement]:
    """Give the placement of the nodes: on this machine, or by a file on the nodes of a Ray cluster."""
    from offload_rllib.testbed.hosts import Placement, here, read_hosts

    if hosts is None:
        if address is not None:
            raise ConfigError("--address needs --hosts: the file that says which node is where")
        yield here()
        return
    file = read_hosts(hosts)
    from offload_rllib.cluster.connection import RayOptions, connect
    from offload_rllib.testbed.ray_hosts import RayLauncher

    with connect(RayOptions(address=address)) as cluster:
        yield Placement(RayLauncher(cluster, file.port), file, str(hosts))
