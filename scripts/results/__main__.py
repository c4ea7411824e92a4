"""Train and compare everything that docs/results.md reports, and write the page.

Usage: python -m scripts.results [--folder comparisons/results] [--only NAME ...]

Budget: a training takes one core; on `ether_12` PPO's preset takes about half a minute of it, A2C's one, and DDQN's
nearly two. Calls with different parts, --only, can run at the same time. Ctrl-C saves the finished parts; the same
command continues. The page holds the parts that are finished, and names the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError
from offload_rllib.training.train import TrainingError
from scripts.results.plan import STUDIES
from scripts.results.study import check_folder, run_study, write_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"
HEAD = """\
<!-- Written by scripts/results. Do not edit: run it. -->

# Results

Every algorithm against every heuristic, on held-out episodes that all share. `NAME` plays greedily, `NAME (sampled)`
draws its actions. ± and [ ] are 95 % intervals over training seeds and episodes; differences are policy minus
reference, paired by episode, and in parentheses if they are not certain, adjusted for their number in the table.
[What the statistics are](compare.md#the-statistics). Rules stand with the defaults of their parameters, and, where a
part says so, with the value that [`tune-rule`](heuristics.md#tuning) found on training episodes. Tasks are decided
[when they arrive](decisions.md#when-and-about-what), and budgets are in decisions. Minutes of training are those of a
machine that was busy with other work. The page is written by `python -m scripts.results`.
"""


def main() -> int:
    """Run all studies and write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m scripts.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("comparisons/results"), help="where the runs are kept")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[study.name for study in STUDIES],
        help="run only these parts; what the folder holds of others must fit them, too",
    )
    arguments = parser.parse_args()
    console = Console()
    try:
        check_folder(STUDIES, arguments.folder)
        for study in STUDIES:
            if arguments.only is None or study.name in arguments.only:
                if not run_study(study, arguments.folder, console):
                    console.print("interrupted; the same command goes on")
                    return 130
                write_page(PAGE, HEAD, STUDIES, arguments.folder)
                console.print(f"written: {PAGE}", highlight=False)
    except (ConfigError, TrainingError) as error:
        say_error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
