"""How often the intervals of comparisons hold the truth, by simulation: the table of docs/compare.md.

Usage: python benchmarks/interval_coverage.py [--trials 1000]

Values are made up of a part of the training seed, a part of the episode, and noise. 95 % are stated; with 1,000 trials
a share is known to 1.4 percentage points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from tabulate import tabulate

from offload_rllib.evaluation.statistics import mean_over_seeds_and_episodes, profile_band

EPISODES = 20
Draw = Callable[[np.random.Generator, int], np.ndarray]
# What seeds give [M, 1], and the mean of that.
SEEDS: dict[str, tuple[Draw, float]] = {
    "normal, as much as episodes": (lambda rng, m: rng.normal(size=(m, 1)), 0.0),
    "normal, a third of that": (lambda rng, m: 0.3 * rng.normal(size=(m, 1)), 0.0),
    "lognormal (sigma 1)": (lambda rng, m: rng.lognormal(0, 1, (m, 1)), float(np.exp(0.5))),
    "one in five fails, by ten spreads": (lambda rng, m: np.where(rng.random((m, 1)) < 0.2, 10.0, 0.0), 2.0),
}
COUNTS = (2, 5, 10, 20)
LOADS = 10
ALIKE = (0.0, 0.5, 0.9)


def coverage_of_means(of_seeds: Draw, truth: float, seeds: int, trials: int) -> float:
    """Return how often the interval of the mean over seeds and 20 episodes holds the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(trials):
        values = of_seeds(rng, seeds) + rng.normal(size=(1, EPISODES)) + rng.normal(size=(seeds, EPISODES))
        found = mean_over_seeds_and_episodes(values)
        held += found.low <= truth <= found.high
    return held / trials


def coverage_of_profiles(alike: float, episodes: int, trials: int) -> float:
    """Return how often the band of a profile over ten loads holds a share of one half.

    Args:
        alike: the correlation of an episode's ratios at two loads.
        episodes: how many.
        trials: of the simulation.
    """
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(trials):
        shared, own = rng.normal(size=(1, 1, episodes)), rng.normal(size=(1, LOADS, episodes))
        low, high = profile_band(np.sqrt(alike) * shared + np.sqrt(1 - alike) * own, [0.0])
        held += low[0] <= 0.5 <= high[0]
    return held / trials


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    rows = [
        [name, *(f"{100 * coverage_of_means(draw, truth, count, trials):.0f}" for count in COUNTS)]
        for name, (draw, truth) in SEEDS.items()
    ]
    print(tabulate(rows, ["mean; training seeds vary", *(f"{count} seeds" for count in COUNTS)], "github"))
    print()
    rows = [
        [f"{alike:g}", *(f"{100 * coverage_of_profiles(alike, episodes, trials // 2):.0f}" for episodes in (10, 20))]
        for alike in ALIKE
    ]
    print(tabulate(rows, ["profile over ten loads; correlation of loads", "10 episodes", "20 episodes"], "github"))


if __name__ == "__main__":
    main()
