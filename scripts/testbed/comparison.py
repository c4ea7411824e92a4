"""Play rules and trained policies on a testbed at three loads, beside the simulator, and write docs/testbed_results.md.

Usage: python -m scripts.testbed.comparison [--folder comparisons/testbed] [--only ENV ...] [--jobs N] [--page]

Needs the trained policies of `TRAINED`, made by `offload-rllib train ENV ALGORITHM --name ENV-ALGORITHM`, in --runs.
Each environment, load and policy is one call of `offload-rllib testbed` with a folder of its own. Finished ones are
kept, so the same command continues after Ctrl-C. A play that does not count, because timers were late, is set aside and
played again up to --tries times. Budget: about 70 minutes divided by --jobs, at a tenth to a quarter of a core each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload_rllib.reporting.testbed_page import verdict_table, write_testbed_report
from offload_rllib.testbed.analysis.differences import TARGETS, Differences

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testbed_results.md"
LOADS = (0.5, 0.8, 1.1)
RULES = ("shortest_finish", "size_interval", "least_queue", "power_of_two", "random", "local")
TRAINED = ("ppo", "a2c")
HEAD = """\
<!-- Written by scripts/testbed/comparison.py. Do not edit: run it. -->

# Testbed results

Eight policies at three loads, on a [testbed](testbed.md) and in the simulator, with the same arrivals: six rules, and
two networks that were trained for a short time. Compute is emulated, and senders shape the links. Differences are
testbed minus simulator; [what the figures are](testbed_comparison.md#the-figures). The page is written by
`python -m scripts.testbed.comparison`.
"""


@dataclass(frozen=True)
class Study:
    """What is played in one environment."""

    env: str
    speed: float
    episodes: int


STUDIES = (Study("ether_12", 20.0, 1), Study("manual_5", 10.0, 3))


@dataclass(frozen=True)
class Cell:
    """One policy at one load in one environment."""

    study: Study
    rho: float
    name: str
    policy: str
    """A rule, or the folder of a run."""

    @property
    def folder(self) -> str:
        """Its folder, below that of the comparison."""
        return f"{self.study.env}/rho_{self.rho:g}/{self.name}"


def cells_of(study: Study, runs: Path) -> list[Cell]:
    """Return what is played in an environment: all policies at a load before the next load."""
    policies = {rule: rule for rule in RULES} | {name: str(runs / f"{study.env}-{name}") for name in TRAINED}
    return [Cell(study, rho, name, policy) for rho in LOADS for name, policy in policies.items()]


def play(cell: Cell, folder: Path, tries: int) -> str:
    """Play a cell until it counts; return what happened in one line."""
    out = folder / cell.folder
    for number in range(tries):
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(_command(cell, out), check=False, capture_output=True, text=True)  # noqa: S603
            if not out.exists():
                return f"{cell.folder}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}"
        if record_of(out)["valid"]:
            return f"{cell.folder}: counts, after {number} of {tries} tries that did not" if number else cell.folder
        if number + 1 < tries:
            aside = folder / "set_aside" / cell.folder
            aside.parent.mkdir(parents=True, exist_ok=True)
            out.rename(aside.with_name(f"{aside.name}-{len(list(aside.parent.glob(f'{aside.name}-*')))}"))
    return f"{cell.folder}: does not count"


def _command(cell: Cell, out: Path) -> list[str]:
    study = cell.study
    options = ["--speed", f"{study.speed:g}", "--episodes", str(study.episodes), "--out", str(out)]
    load = ["--set", f"workload.load.rho={cell.rho:g}"]
    return [sys.executable, "-m", "offload_rllib", "testbed", study.env, cell.policy, *load, *options]


def record_of(folder: Path) -> dict[str, Any]:
    """Return `testbed.json` of a folder."""
    return json.loads((folder / "testbed.json").read_text(encoding="utf-8"))


def page_of(folder: Path, runs: Path) -> Iterator[str]:
    """Yield the lines of the page: what is finished, and what is not."""
    yield HEAD
    yield (
        f"Machine: {os.cpu_count()} cores, {platform.system()}; other processes used it at the same time. Plays whose "
        "timers were too late were played again.\n"
    )
    for study in STUDIES:
        cells = cells_of(study, runs)
        there = [cell for cell in cells if (folder / cell.folder / "testbed.json").exists()]
        yield f"## {study.env}\n"
        if not there:
            yield "Not played yet.\n"
            continue
        folders = [folder / cell.folder for cell in there]
        plays = [play_ for path in folders for play_ in record_of(path)["plays"]]
        differences, _, _ = write_testbed_report(folders, folder / study.env)
        yield f"{_episodes(study.episodes)} of each policy and load, at speed {study.speed:g}. {_timing(plays)}\n"
        if len(there) < len(cells):
            missing = ", ".join(cell.folder for cell in cells if cell not in there)
            yield f"Not played: {missing}.\n"
        yield from _markdown(verdict_table(differences.verdicts()))
        yield from _cases(differences)
        yield from _rankings(differences)


def _episodes(count: int) -> str:
    return "One held-out episode" if count == 1 else f"{count} held-out episodes"


def _timing(plays: Sequence[dict[str, Any]]) -> str:
    late = [play_["timer_lateness_ms"] for play_ in plays]
    worst_p99 = max(each["p99"] for each in late)
    decision = max(play_["decision_ms"]["p99"] for play_ in plays if play_["decision_ms"])
    counted = sum(play_["valid"] for play_ in plays)
    memory = max(node["resident_bytes"] or 0 for play_ in plays for node in play_["nodes"].values())
    cpu = max(play_["cpu_share"] for play_ in plays)
    return (
        f"{counted} of {len(plays)} plays count. Timers were late by {min(each['mean'] for each in late):.2f} to "
        f"{max(each['mean'] for each in late):.2f} ms on average, and by at most {worst_p99:.1f} ms at the 99th "
        f"percentile of a play. Decisions took at most {decision:.2f} ms at the 99th percentile, a node at most "
        f"{memory / 1e6:.0f} MB, and all nodes together at most {cpu:.2f} cores."
    )


def _markdown(table: Any) -> Iterator[str]:
    yield f"| {' | '.join(map(str, table.columns))} |"
    yield f"|{'|'.join(['---'] * len(table.columns))}|"
    for row in table.itertuples(index=False):
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def _cases(differences: Differences) -> Iterator[str]:
    titles = ("rho", "policy", "tasks", "mean, testbed", "simulator", "difference", "p95, difference")
    yield f"| {' | '.join((*titles, 'dropped, testbed', 'simulator', 'distance'))} |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in differences.cases.to_dict("records"):
        yield (
            f"| {row['load']:g} | {row['policy']} | {row['tasks_testbed']} | {row['mean_testbed']:.2f} s "
            f"| {row['mean_simulator']:.2f} s | {row['mean_difference']:+.1%} | {row['p95_difference']:+.1%} "
            f"| {row['dropped_testbed']:.2%} | {row['dropped_simulator']:.2%} | {row['ks']:.3f} |"
        ).replace("%", " %")
    yield ""


def _rankings(differences: Differences) -> Iterator[str]:
    yield "| rho | tau | pairs that differ with certainty on both sides | the other way round | order, testbed |"
    yield "|---|---|---|---|---|"
    for row in differences.rankings.to_dict("records"):
        yield f"| {row['load']:g} | {row['tau']:.3f} | {row['certain']} | {row['opposite']} | {row['order_testbed']} |"
    yield ""


def main() -> int:
    """Play what is missing, and write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m scripts.testbed.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path("comparisons/testbed"), help="where the plays are kept")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the trained policies are")
    parser.add_argument("--only", nargs="+", choices=[study.env for study in STUDIES], help="only these environments")
    parser.add_argument("--jobs", type=int, default=1, help="testbeds at the same time")
    parser.add_argument("--tries", type=int, default=3, help="how often a play that does not count is played")
    parser.add_argument("--page", action="store_true", help="play nothing, write the page")
    arguments = parser.parse_args()
    wanted = [study for study in STUDIES if arguments.only is None or study.env in arguments.only]
    if not arguments.page:
        cells = [cell for study in wanted for cell in cells_of(study, arguments.runs)]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            playing = [pool.submit(play, cell, arguments.folder, arguments.tries) for cell in cells]
            try:
                for number, done in enumerate(as_completed(playing), 1):
                    sys.stdout.write(f"{number} of {len(cells)}: {done.result()}\n")
                    sys.stdout.flush()
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                sys.stderr.write("interrupted; the same command continues\n")
                return 130
    PAGE.write_text("\n".join(page_of(arguments.folder, arguments.runs)), encoding="utf-8")
    sys.stdout.write(f"written: {PAGE}; {len(TARGETS)} targets\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
