"""Speed on QUEUE-14 of the suite, on which other simulators have been measured: one environment, a batch, and level 0.

Usage: python benchmarks/queue_14.py [--point fifo-0.6] [--policy least_queue] [--batch 16] [--repeats 7]

PureEdgeSim (https://github.com/CharafeddineMechalikh/PureEdgeSim, commit 03bfc2e), the fastest of the others, did
101,000 to 111,000 tasks per CPU-second on this network at rho 0.6 with the rule of the fewest tasks, on the machine
where this package is developed. The figures are medians; `times` is relative to its 111,000.
"""

from __future__ import annotations

import argparse
import statistics
import time

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.suite.conformance import conform
from offload_rllib.suite.scenarios import places

PUREEDGESIM = 111_000


def speed(env: ArrivalEnv, policy: str, repeats: int) -> float:
    """Return the median of the tasks per CPU-second, over whole episodes of new seeds."""
    found = []
    for seed in range(repeats + 1):
        env.reset(held_out_keys(seed, env.num_envs))
        start = time.process_time()
        env.play(policy)
        found.append(float(env.state.episode["tasks_made"].sum()) / (time.process_time() - start))
    return statistics.median(found[1:])  # the first episode compiles


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", default="fifo-0.6", help="of QUEUE-14")
    parser.add_argument("--policy", default="least_queue", help="a rule")
    parser.add_argument("--batch", type=int, default=16, help="environments of the batch")
    parser.add_argument("--repeats", type=int, default=7, help="medians are shown")
    arguments = parser.parse_args()
    (place,) = places([f"queue_14/{arguments.point}"])
    scenario = build_scenario(place.environment())
    figures = {
        f"{arguments.policy}, one environment": speed(ArrivalEnv(scenario, 1), arguments.policy, arguments.repeats),
        f"{arguments.policy}, {arguments.batch} environments": speed(
            ArrivalEnv(scenario, arguments.batch), arguments.policy, arguments.repeats
        ),
    }
    for found in conform(place):
        figures[f"level 0, {found.rule}, every task logged"] = found.tasks_per_cpu_s
    for what, value in figures.items():
        print(f"{value:12,.0f} tasks per CPU-second, {value / PUREEDGESIM:5.1f} times PureEdgeSim: {what}")


if __name__ == "__main__":
    main()
