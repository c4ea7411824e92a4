"""Train and compare everything that docs/results.md reports, and write the page.

Usage: python scripts/make_results.py [--folder comparisons/results] [--only NAME]

Budget: about two hours on one core. Ctrl-C saves what was done; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from offload_rllib.experiment.results import Study, run_study, section, write_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"
SHARINGS = ("shared", "per_device", "per_node")
STUDIES = (
    Study(
        "ether_12",
        "The paper's network under Alibaba jobs",
        "ether_12",
        ("ppo", "a2c", "ddqn"),
        SHARINGS,
        changes=("training.env_steps=160000",),
    ),
    Study("herd_20", "Twenty equal nodes with old news", "herd_20", ("ppo_herd", "a2c_herd"), reference="keep_first"),
)
HEAD = """\
<!-- Written by scripts/make_results.py. Do not edit: run it. -->

# Results

Every algorithm against every heuristic, on held-out episodes that all share. `NAME` plays greedily, `NAME (sampled)`
draws its actions. ± and [ ] are 95 % intervals over training seeds and episodes; differences are policy minus
reference, paired by episode, and in parentheses if their interval includes 0.
[What the statistics are](compare.md#the-statistics). The page is written by `python scripts/make_results.py`.
"""


def main() -> int:
    """Run all studies and write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("comparisons/results"), help="where the runs are kept")
    parser.add_argument("--only", choices=[study.name for study in STUDIES], help="one part; the page is not written")
    arguments = parser.parse_args()
    console = Console()
    sections = []
    for study in STUDIES:
        if arguments.only not in (None, study.name):
            continue
        done = run_study(study, arguments.folder, console)
        if done is None:
            console.print("interrupted; the same command goes on")
            return 130
        if arguments.only is None:
            sections.append(section(study, *done, images=PAGE.parent / "images"))
    if arguments.only is None:
        write_page(PAGE, HEAD, sections)
        console.print(f"written: {PAGE}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
