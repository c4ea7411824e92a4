"""Play rules and trained policies on a testbed at three loads, beside the simulator, and write docs/testbed_results.md.

Usage: python -m scripts.testbed.comparison [--folder comparisons/testbed] [--only ENV ...] [--jobs N] [--page]

Needs the trained policies of `STUDIES`, made by `offload-rllib train ENV ALGORITHM --name ENV-ALGORITHM`, in --runs.
A call of `offload-rllib testbed` plays several policies of an environment and load, one after the other. Every play
that counts gets a folder of its own and is kept, so the same command continues after Ctrl-C. Plays that do not count,
because timers were late, are played again up to --tries times. Budget: 27 minutes for each environment and load, less
where --together is small and --jobs is large, and a twentieth of a core for each job.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.results import POLICY
from offload_rllib.reporting.testbed_page import verdict_table, write_testbed_report
from offload_rllib.testbed.analysis.differences import Differences
from offload_rllib.testbed.analysis.log import SIMULATOR, TASKS, TESTBED
from offload_rllib.testbed.results import RECORD, read_record
from scripts.testbed.sensitivity import Episode, read_played, section

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testbed_results.md"
LOADS = (0.5, 0.8, 1.1)
SIDES = (TESTBED, SIMULATOR)
RULES = ("shortest_finish", "size_interval", "least_queue", "power_of_two", "random", "local")
HEAD = """\
<!-- Written by scripts/testbed/comparison.py. Do not edit: run it. -->

# Testbed results

    python -m scripts.testbed.comparison

plays eight policies at three loads, on a [testbed](testbed.md) and in the simulator, with the same arrivals, and
writes this page. The policies are rules, and networks that were trained for a short time. Compute is emulated, and
senders shape the links. Differences are testbed minus simulator; [what the figures
are](testbed_comparison.md#the-figures).

Six of the eight policies meet every target at every load, in both networks. The other two, `least_queue` and
`power_of_two`, compare counts of tasks. There the order of two events a few milliseconds apart decides, and a decision
that falls otherwise changes later ones. No difference of the mean beyond a target is certain: the intervals for the
same tasks include 0. And the simulator itself moves about as far when its events are as late as those of the testbed:
see the parts on late events.
"""


@dataclass(frozen=True)
class Study:
    """What is played in one environment."""

    env: str
    speed: float
    rules: tuple[str, ...]
    trained: tuple[str, ...]
    episodes: int = 1
    loads: tuple[float, ...] = LOADS
    suffix: str = ""
    """Of the name of its folder."""

    @property
    def folder(self) -> str:
        """Name of its folder in that of the comparison."""
        return self.env + self.suffix

    @property
    def title(self) -> str:
        """Of its part of the page."""
        return f"{self.env}, {self.episodes} episodes" if self.suffix else self.env


# Slow enough for a machine that does much else.
STUDIES = (
    Study("ether_12", 5.0, RULES, ("ppo", "a2c")),
    Study("manual_5", 4.0, RULES, ("ppo", "a2c"), episodes=5),
)
# A cell that misses a target in one episode.
REPEATED = (Study("ether_12", 5.0, ("least_queue",), (), episodes=5, loads=(1.1,), suffix="_repeated"),)
# Rules that compare counts of tasks, and one that compares times: both are played with late events in the simulator.
SENSITIVE = ("shortest_finish", "least_queue", "power_of_two")


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
        return f"{self.study.folder}/rho_{self.rho:g}/{self.name}"


def cells_of(study: Study, runs: Path) -> list[Cell]:
    """Return what is played in an environment: all policies at a load before the next load."""
    policies = {rule: rule for rule in study.rules}
    policies |= {name: str(runs / f"{study.env}-{name}") for name in study.trained}
    return [Cell(study, rho, name, policy) for rho in study.loads for name, policy in policies.items()]


def groups_of(cells: Sequence[Cell], together: int) -> list[list[Cell]]:
    """Return the cells in groups of one environment and load, of so many at most."""
    of_load: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        of_load.setdefault((cell.study.folder, cell.rho), []).append(cell)
    return [each[i : i + together] for each in of_load.values() for i in range(0, len(each), together)]


def counts(folder: Path) -> bool:
    """Return whether a folder has a play that counts."""
    return (folder / RECORD).exists() and read_record(folder)["valid"]


def play(group: Sequence[Cell], folder: Path, tries: int) -> str:
    """Play cells of one environment and load until they count; return what happened in one line."""
    missing: list[Cell] = []
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(tries):
        missing = [cell for cell in group if not counts(folder / cell.folder)]
        if not missing:
            break
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run = Path(scratch) / "run"
            done = subprocess.run(_command(missing, run), check=False, capture_output=True, text=True)  # noqa: S603
            if not run.exists():
                return f"{missing[0].folder}, ...: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}"
            for place, cell in enumerate(missing):
                keep(run, place, folder / cell.folder, Path(scratch) / "one")
    bad = [cell.folder for cell in group if not counts(folder / cell.folder)]
    return f"do not count: {', '.join(bad)}" if bad else f"{group[0].folder}, ...: {len(group)} plays"


def keep(run: Path, place: int, folder: Path, scratch: Path) -> None:
    """Move the plays of one policy of a run to a folder of their own; one that does not count is replaced.

    Args:
        run: folder of the testbed.
        place: of the policy among those of the run.
        folder: where its plays go.
        scratch: a new folder on the same file system.
    """
    record = read_record(run)
    tasks = pd.read_parquet(run / TASKS)
    policies = list(dict.fromkeys(tasks[POLICY]))
    plays = [each for each in record["plays"] if each[POLICY] == policies[place]]
    scratch.mkdir()
    tasks[tasks[POLICY] == policies[place]].to_parquet(scratch / TASKS)
    record |= {"plays": plays, "valid": all(each["valid"] for each in plays)}
    (scratch / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch.rename(folder)


def _command(cells: Sequence[Cell], out: Path) -> list[str]:
    study, rho = cells[0].study, cells[0].rho
    options = ["--speed", f"{study.speed:g}", "--episodes", str(study.episodes), "--out", str(out)]
    load = ["--set", f"workload.load.rho={rho:g}"]
    policies = [cell.policy for cell in cells]
    return [sys.executable, "-m", "offload_rllib", "testbed", study.env, *policies, *load, *options]


def page_of(folder: Path, runs: Path, *, late: bool = True) -> Iterator[str]:
    """Yield the lines of the page: what is finished, and what is not; `late`: with plays of late events."""
    yield HEAD
    yield (
        f"Machine: {os.cpu_count()} cores, {platform.system()}; other processes used it at the same time. Plays whose "
        "timers were too late were played again.\n"
    )
    for study in sorted((*STUDIES, *REPEATED), key=lambda study: study.env):
        cells = cells_of(study, runs)
        there = [cell for cell in cells if (folder / cell.folder / RECORD).exists()]
        yield f"## {study.title}\n"
        if not there:
            yield "Not played yet.\n"
            continue
        folders = [folder / cell.folder for cell in there]
        plays = [play_ for path in folders for play_ in read_record(path)["plays"]]
        differences, _, _ = write_testbed_report(folders, folder / study.folder)
        played = f"at speed {_of_all(folders, 'speed')}, played on {_of_all(folders, 'created')}"
        yield f"{_episodes(study.episodes)} of each policy and load, {played}. {_timing(plays)}\n"
        if len(there) < len(cells):
            yield f"{len(cells) - len(there)} of {len(cells)} are not played yet.\n"
        if not study.suffix:
            yield from _markdown(verdict_table(differences.verdicts()))
        yield from _cases(differences)
        if not study.suffix:
            yield from _rankings(differences)
        episodes: dict[tuple[float, int], Episode] = {}
        sensitive = [
            read_played(study.env, cell.rho, cell.name, folder / cell.folder / TASKS, episodes)
            for cell in there
            if cell.name in SENSITIVE
        ]
        if sensitive and late:
            yield from section(sensitive)


def _of_all(folders: Sequence[Path], key: str) -> str:
    """Return the values of some plays' records as one text; times of day are left out."""
    values = sorted({read_record(path)[key] for path in folders})
    texts = [value[:10] if isinstance(value, str) else f"{value:g}" for value in values]
    return " to ".join(dict.fromkeys((texts[0], texts[-1])))


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
    yield "Mean and drops are testbed / simulator. Of the same tasks: those that finished on both sides.\n"
    titles = ("rho", "policy", "tasks", "mean, s", "difference", "of the same tasks, %", "p95, difference")
    yield f"| {' | '.join((*titles, 'dropped, %', 'distance'))} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in differences.cases.to_dict("records"):
        dropped = " / ".join(f"{100 * row[f'dropped_{side}']:.2f}" for side in SIDES)
        yield (
            f"| {row['load']:g} | {row['policy']} | {row['tasks_testbed']} "
            f"| {row['mean_testbed']:.2f} / {row['mean_simulator']:.2f} | {row['mean_difference']:+.1%} "
            f"| {_interval(row)} | {row['p95_difference']:+.1%} | {dropped} | {row['ks']:.3f} |"
        ).replace("%", " %")
    yield ""


def _interval(row: dict[str, float]) -> str:
    """Return the mean difference of the tasks that finished on both sides, with its 95 % interval, in one line."""
    mean, low, high = (100 * row[f"paired_{end}"] for end in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace(" ", "&nbsp;")


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
    parser.add_argument(
        "--only", nargs="+", choices=[study.folder for study in (*STUDIES, *REPEATED)], help="only these parts"
    )
    parser.add_argument("--jobs", type=int, default=1, help="testbeds at the same time")
    parser.add_argument("--together", type=int, default=8, help="policies of one call")
    parser.add_argument("--tries", type=int, default=3, help="how often a play that does not count is played")
    parser.add_argument("--page", action="store_true", help="play nothing, write the page")
    arguments = parser.parse_args()
    wanted = [study for study in (*STUDIES, *REPEATED) if arguments.only is None or study.folder in arguments.only]
    if not arguments.page:
        cells = [cell for study in wanted for cell in cells_of(study, arguments.runs)]
        groups = groups_of(cells, arguments.together)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            playing = [pool.submit(play, group, arguments.folder, arguments.tries) for group in groups]
            try:
                for number, done in enumerate(as_completed(playing), 1):
                    sys.stdout.write(f"{number} of {len(groups)}: {done.result()}\n")
                    sys.stdout.flush()
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                sys.stderr.write("interrupted; the same command continues\n")
                return 130
    text = "\n".join(page_of(arguments.folder, arguments.runs))
    with written_at_once(PAGE) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.stdout.write(f"written: {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
