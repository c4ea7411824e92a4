"""What a second thread brings to one runner: its environments in two halves, each stepped by a thread of its own.

Usage: python benchmarks/sampling_threads.py [--repeats 9] [CASE ...]

Every row is measured in turn: one runner on one thread; the same environments in two runners of half the size, each on
a thread of this process; and one runner whose matrix products have two threads. Kernels and matrix products run without
the interpreter's lock, and the Python between them needs it. A thread that finds the lock taken sleeps until it is
free; such handovers are counted as voluntary context switches.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from offload_rllib.bench.sampling import grid_environment, sampling_runner
from offload_rllib.config import load_environment
from offload_rllib.training.train import quieten

POINTER = ("network.kind=pointer", "network.hidden=[32, 32]")
NODES = 1024


class Case(NamedTuple):
    """What is sampled."""

    environment: Any
    """A preset's name, or a description."""
    environments: int
    steps: int
    """Of each environment, in a sample."""
    overrides: tuple[str, ...] = ()
    """Of the environment."""
    policy: tuple[str, ...] = ()
    """Overrides of the policy."""


CLOCK = ("decisions={when: interval, max_hops: 2}",)
CASES = {
    "ether_12, 64 environments": Case("ether_12", 64, 500),
    "ether_12, 512 environments": Case("ether_12", 512, 100),
    "ether_12, pointer 2 x 32, 64 environments": Case("ether_12", 64, 300, policy=POINTER),
    "ether_12, pointer 2 x 32, 512 environments": Case("ether_12", 512, 50, policy=POINTER),
    "ether_12 with a clock, 64 environments": Case("ether_12", 64, 500, CLOCK),
    f"{NODES} nodes, pointer 2 x 32, 8 environments": Case(grid_environment(NODES), 8, 600, policy=POINTER),
    f"{NODES} nodes, pointer 2 x 32, 64 environments": Case(grid_environment(NODES), 64, 75, policy=POINTER),
}


class Figures(NamedTuple):
    """Of one sample."""

    choices_per_s: float
    choices_per_cpu_s: float
    switches_per_step: float
    """Voluntary context switches for each step of all environments."""


def _runner(case: Case, environments: int) -> Any:
    return sampling_runner(load_environment(case.environment, case.overrides), environments, *case.policy)


def _measured(pool: ThreadPoolExecutor, runners: list[Any], steps: int, matrix_threads: int) -> Figures:
    """Sample with all runners at once, each on a thread of the pool."""

    def sample(runner: Any) -> int:
        torch.set_num_threads(matrix_threads)  # it holds for the calling thread
        return sum(int(part.choices.sum()) for part in runner.sample(num_timesteps=runner.num_envs * steps))

    began_s, cpu_s = time.perf_counter(), time.process_time()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    choices = sum(pool.map(sample, runners))
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches
    return Figures(choices / wall_s, choices / cpu_s, switches / steps)


def compared(case: Case, repeats: int) -> list[list[Figures]]:
    """Return the figures of the three ways, each measured so many times in turn after a warm-up."""
    one, halves = [_runner(case, case.environments)], [_runner(case, case.environments // 2) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        ways: list[Callable[[], Figures]] = [
            lambda: _measured(pool, one, case.steps, 1),
            lambda: _measured(pool, halves, case.steps, 1),
            lambda: _measured(pool, one, case.steps, 2),
        ]
        rounds = [[way() for way in ways] for _ in range(repeats + 1)]
    return [list(figures) for figures in zip(*rounds[1:], strict=True)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"accepted: {', '.join(CASES)}; all by default")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"case '{unknown[0]}': accepted: {', '.join(CASES)}")
    quieten()
    print("choices per second (per CPU-second), medians; ratios are medians of the rounds; handovers per step")
    for name in arguments.cases or CASES:
        ways = compared(CASES[name], arguments.repeats)
        shown = []
        for way in ways:
            wall, cpu, switches = (statistics.median(column) for column in zip(*way, strict=True))
            ratio = statistics.median(
                ours.choices_per_s / base.choices_per_s for ours, base in zip(way, ways[0], strict=True)
            )
            shown.append(f"{wall:,.0f} ({cpu:,.0f}) x{ratio:.2f}, {switches:.1f}")
        print(f"{name}: one {shown[0]} | two halves {shown[1]} | matrix products {shown[2]}", flush=True)


if __name__ == "__main__":
    main()
