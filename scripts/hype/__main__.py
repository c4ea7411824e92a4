"""Compare five published learning methods for offloading with rules, our learners and a bound; write docs/hype.md.

    python -m scripts.hype --folder F               # the study: about an hour of one core
    python -m scripts.hype --folder F --only 'ether_12-*-0'
    python -m scripts.hype --folder F --collect     # its tables, figures and data, as far as it has come
    python -m scripts.hype --page                   # the page from the data in docs/images alone

What is done stays in the folder; the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError
from scripts.hype.collect import DOCS, collect, write_page
from scripts.hype.plan import Budget
from scripts.hype.run import run


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m scripts.hype", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("comparisons/hype"), help="where the pieces are kept")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="do the pieces with such names alone")
    parser.add_argument("--collect", action="store_true", help="write page, figures and data from the folder")
    parser.add_argument("--page", action="store_true", help="write page and figures from the data of the docs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where page and data are written")
    budget = Budget()
    for key in ("decisions", "seeds", "episodes"):
        parser.add_argument(f"--{key}", type=int, default=getattr(budget, key))
    given = parser.parse_args(arguments)
    console = Console()
    try:
        budget = Budget(given.decisions, given.seeds, given.episodes)
        if given.collect:
            collect(given.folder, budget, given.docs)
        if given.collect or given.page:
            console.print(f"written: {write_page(given.docs)}", highlight=False, soft_wrap=True)
        else:
            run(given.folder, budget, given.only, console)
    except ConfigError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
