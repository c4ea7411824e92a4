"""Run the experiments of the PeersimGym paper (arXiv 2403.17637), and what it left out; `docs/paper.md` reads them.

    python -m scripts.paper --quick           # under 10 minutes on 2 cores
    python -m scripts.paper                   # the standard budget, under 2 hours
    python -m scripts.paper --as-published    # the paper's networks and training; --estimate says how long

What is done stays in the folder; the same command continues.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError
from scripts.paper.estimate import estimated_hours, hours_by_folder
from scripts.paper.plan import BUDGETS, Budget
from scripts.paper.report import print_report, write_report
from scripts.paper.run import run


def _budget(*, quick: bool, as_published: bool) -> Budget:
    if quick and as_published:
        raise ConfigError("give --quick or --as-published, not both")
    return BUDGETS["quick" if quick else "as_published" if as_published else "standard"]


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer settings, shorter training, three seeds.")] = False,
    as_published: Annotated[bool, typer.Option("--as-published", help="The paper's networks and training.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Measure the hours of the training, and stop.")] = False,
    measured: Annotated[
        Path | None, typer.Option(help="Estimate training and playing by a finished run in this folder, and stop.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; by default paper/BUDGET. Goes on if it exists.")] = None,
) -> None:
    """Run, or continue, a reproduction, and write its tables and figures."""
    console = Console()
    try:
        budget = _budget(quick=quick, as_published=as_published)
        if estimate or measured is not None:
            hours = estimated_hours(budget, console) if measured is None else hours_by_folder(measured, budget)
            for label, each in hours.items():
                console.print(f"{label}: {each:,.2f} hours of one core")
            what = "training" if measured is None else "training and playing"
            console.print(f"{what} in all: {sum(hours.values()):,.1f} hours of one core")
            return
        folder = out or Path("paper") / budget.name
        began = time.monotonic()
        run(folder, budget, console)
        console.print(f"{time.monotonic() - began:,.0f} s in this call")
        print_report(folder, console)
        for path in write_report(folder):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
    except ConfigError as error:
        say_error(str(error))
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    sys.exit(typer.run(main))
