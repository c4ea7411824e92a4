"""What a sweep costs beside training: CPU seconds of every process that it starts, by what they are for.

Usage: python benchmarks/tune_overhead.py [--sweep ppo] [--trials 2] [--env-steps 2200000]

By default two PPO trials side by side, each of more than a minute of CPU time (of more steps on a faster machine).
Every second the CPU time of each process that descends from the sweep's is read; what a process spent after the last
reading before it ended is lost, so that sums are up to a second per process too small. What of a trial's process was
training the trial reports itself (`training_cpu_s` of the leaderboard: from sampling to the update, without validation,
checkpoints and start). The last line is the share of training in the CPU time of the trials' processes.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

TRIALS, LEADER, SERVICES = "processes of trials", "process of the sweep", "Ray's services"
# As Ray names its workers; what they run stands behind, and is another name while they wait.
WORKER = "ray::"


def purpose_of(process: psutil.Process, leader: int) -> str:
    """Return what a process is for; a worker that is not named yet counts with Ray's services."""
    if process.pid == leader:
        return LEADER
    return TRIALS if " ".join(process.cmdline()).startswith(WORKER) else SERVICES


def watch(command: list[str], folder: Path) -> dict[str, float]:
    """Run a sweep to its end; return the CPU seconds of its processes by purpose."""
    spent: dict[tuple[int, float], float] = {}
    purposes: dict[tuple[int, float], str] = {}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - this script's own command
        leader = psutil.Process(running.pid)
        while running.poll() is None:
            for process in [leader, *leader.children(recursive=True)]:
                try:
                    key, times = (process.pid, process.create_time()), process.cpu_times()
                    spent[key] = times.user + times.system
                    if purposes.get(key) != TRIALS:
                        purposes[key] = purpose_of(process, leader.pid)
                except psutil.Error:
                    continue
            time.sleep(1)
    if running.returncode:
        raise SystemExit((folder / "log.txt").read_text(encoding="utf-8"))
    totals: dict[str, float] = dict.fromkeys((TRIALS, LEADER, SERVICES), 0.0)
    for key, seconds in spent.items():
        totals[purposes[key]] += seconds
    return totals


def main() -> None:
    """Run the sweep in a scratch folder and print where the CPU time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="ppo", help="a preset of tune_configs/, or a file")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--env-steps", type=int, default=2_200_000, help="of each trial")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tune-overhead-") as scratch:
        name = Path(scratch) / "sweep"
        command = [sys.executable, "-m", "offload_rllib", "tune", arguments.sweep, "--name", str(name)]
        command += ["--set", f"budget.trials={arguments.trials}", "--set", f"budget.env_steps={arguments.env_steps}"]
        began = time.monotonic()
        totals = watch([*command, "--set", "scheduler=none"], Path(scratch))
        wall_s = time.monotonic() - began
        with (name / "leaderboard.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    each = [float(row["training_cpu_s"]) for row in rows if row["training_cpu_s"]]
    training_s = sum(each)
    print(
        f"{len(each)} trials, {', '.join(f'{seconds:.0f}' for seconds in each)} CPU seconds of training; {wall_s:.0f} s"
    )
    for purpose, seconds in totals.items():
        print(f"{purpose}: {seconds:.1f} CPU seconds")
    print(f"share of training in all of that: {training_s / sum(totals.values()):.1%}")
    print(f"share of training in the processes of trials: {training_s / totals[TRIALS]:.1%}")


if __name__ == "__main__":
    main()
