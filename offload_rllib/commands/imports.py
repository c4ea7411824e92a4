"""Verbs that carry over files of other simulators and of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from offload_rllib.commands.terminal import console, say

if TYPE_CHECKING:
    from offload_rllib.scenario.peersim_import import Imported

ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
YamlOption = Annotated[Path, typer.Option(help="The YAML to write; files that it needs are put beside it.")]


def import_trace(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="azure: Azure Functions 2021; google: task_events of 2011.")
    ],
    file: Annotated[Path, typer.Argument(help="The CSV file, compressed with gzip or not.")],
    out: Annotated[Path, typer.Option(help="The recording to write, a CSV file.")],
    instructions_per_second: Annotated[
        float, typer.Option(help="Speed of the core on which the tasks ran; with google of the machine.")
    ] = 1e9,
    force: ForceOption = False,
) -> None:
    """Convert a trace of a cluster to a recording for `arrivals.kind: replay`."""
    from offload_rllib.scenario.imports.traces import import_trace as convert
    from offload_rllib.scenario.imports.traces import write_recording

    text, trace = convert(kind, file, instructions_per_second)
    write_recording(text, out, force=force)
    arrivals = trace.arrivals
    say(f"{len(arrivals):,} tasks in {arrivals[-1].time_s - arrivals[0].time_s:,.1f} s")
    for why, count in trace.left_out.items():
        say(f"left out, {why}: {count:,}")
    say(f"written: {out}")


def import_edgecloudsim(
    edge_devices: Annotated[Path, typer.Argument(metavar="EDGE_DEVICES.xml", help="Its sites.")],
    applications: Annotated[Path, typer.Argument(metavar="APPLICATIONS.xml", help="Its applications.")],
    devices: Annotated[int, typer.Option(help="Number of mobile devices.")],
    out: YamlOption,
    force: ForceOption = False,
) -> None:
    """Convert EdgeCloudSim's sites and applications to an environment."""
    from offload_rllib.scenario.imports.edgecloudsim import import_edgecloudsim as convert

    _write(convert(edge_devices, applications, devices, out.stem), out, force=force)


def import_topo4mec(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="Its network.")],
    tasks: Annotated[Path, typer.Argument(metavar="TASKS.csv", help="Its tasks.")],
    out: YamlOption,
    force: ForceOption = False,
) -> None:
    """Convert a data set in the form of Topo4MEC to an environment that replays its tasks."""
    from offload_rllib.scenario.imports.topo4mec import import_topo4mec as convert

    _write(convert(config, tasks, out.stem), out, force=force)


def _write(imported: Imported, out: Path, *, force: bool) -> None:
    """Write an environment, and report how each key was handled."""
    from offload_rllib.scenario.peersim_import import write_imported

    written = write_imported(imported, out, force=force)
    listing = Table()
    for column in ("key", "value", "fate", "here"):
        listing.add_column(column, overflow="fold")
    for note in imported.notes:
        listing.add_row(note.key, note.value, note.fate, note.why)
    console.print(listing)
    for name in written:
        say(f"written: {name}")
