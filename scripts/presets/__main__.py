"""Train shipped learners on every preset of envs/, hold them against every rule, and write docs/presets.md.

Usage: python -m scripts.presets [--folder comparisons/presets] [--algorithms ALGORITHM ...] [--only PRESET ...]

Budget: a part is one learner on one preset, three trainings, and takes one core for two to ten minutes. Calls with
different parts can run at the same time. Ctrl-C saves the finished parts; the same command continues. The page holds
the parts that are finished, those of other machines as well, and counts the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from offload_rllib.cluster.connection import ClusterError, connect
from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError
from offload_rllib.config.loading import presets
from offload_rllib.training.train import TrainingError, quieten
from scripts.presets.page import write_page
from scripts.presets.plan import ALGORITHMS, fits, part_of
from scripts.results.study import run_study

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> int:
    """Run all parts and write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m scripts.presets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("comparisons/presets"), help="where the runs are kept")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS, help="run only these")
    parser.add_argument("--only", nargs="+", choices=sorted(presets("envs")), help="run only these presets")
    arguments = parser.parse_args()
    console = Console()
    quieten()
    try:
        with connect():  # once, for all parts
            if _run_parts(arguments, console):
                return 0
    except KeyboardInterrupt:
        pass  # while a rule was tuned; trainings save themselves
    except (ConfigError, ClusterError, TrainingError) as error:
        say_error(str(error))
        return 2
    console.print("interrupted; the same command goes on")
    return 130


def _run_parts(arguments: argparse.Namespace, console: Console) -> bool:
    """Run all parts, and write the page after each; return False after an interruption."""
    for algorithm in arguments.algorithms:
        for preset in arguments.only or sorted(presets("envs")):
            if not fits(preset, algorithm):
                continue
            part = part_of(preset, algorithm, console)
            if not run_study(part, arguments.folder, console):
                return False
            write_page(DOCS / "presets.md", arguments.folder)
    return True


if __name__ == "__main__":
    sys.exit(main())
