"""Speed on a network of 14 access points and a cloud, on which other simulators of edge computing have been measured.

Usage: python benchmarks/edge_14.py [--rho 0.6] [--repeats 15]

Every access point has a host of 2 cores and a client. Tasks arrive as a Poisson process, at 1.5 times the mean rate at
two access points and at half of it at two others; they need 1 s of a core on average, exponentially distributed. A
task runs on the host where it arrives, on another host, or on one of the 40 machines of the cloud, wherever the fewest
tasks are. One environment plays whole episodes of 1,000 s, and the rule decides inside the kernel.

PureEdgeSim (https://github.com/CharafeddineMechalikh/PureEdgeSim, commit 03bfc2e) did 101,000 to 111,000 tasks per
CPU-second on this scenario on the machine where this package is developed, with ties broken by the lowest index and
10 ms of access to every host, either way, which this environment leaves out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from offload_rllib.config import load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario

ACCESS_POINTS, CORES = 14, 2
WEIGHTS = {"ap0": 1.5, "ap1": 1.5, "ap12": 0.5, "ap13": 0.5}
INSTRUCTIONS_PER_SECOND = 1e9
PUREEDGESIM = 101_000


def environment(rho: float) -> dict[str, Any]:
    """Return the scenario at an offered load, relative to the hosts' cores without the cloud."""
    names = [f"ap{i}" for i in range(ACCESS_POINTS)]
    host = {"instructions_per_second": INSTRUCTIONS_PER_SECOND, "cores": CORES, "client": True}
    return {
        "horizon_s": 1000,
        "service": "parallel",
        "topology": {
            "kind": "manual",
            "nodes": [{"name": name} | host for name in names],
            "links": [[a, b] for i, a in enumerate(names) for b in names[:i]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e9, "latency_s": 0.015},
        "cloud": {
            "vms": 40,
            "instructions_per_second": INSTRUCTIONS_PER_SECOND,
            "link": {"rate_bps": 1e9, "latency_s": 0.1},
        },
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": INSTRUCTIONS_PER_SECOND}}]},
            "load": {"tasks_per_second_per_client": rho * CORES, "client_weights": WEIGHTS},
        },
        "decisions": {"max_hops": 1},
        "information": {"kind": "fresh"},
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rho", type=float, default=0.6, help="offered load")
    parser.add_argument("--repeats", type=int, default=15, help="the median of this many episodes is printed")
    arguments = parser.parse_args()
    env = ArrivalEnv(build_scenario(load_environment(environment(arguments.rho))), 1)
    speeds, responses = [], []
    for seed in range(arguments.repeats + 1):
        env.reset(held_out_keys(seed, 1))
        start = time.process_time()
        env.play("least_queue")
        speeds.append(float(env.state.episode["tasks_made"][0]) / (time.process_time() - start))
        responses.append(env.episode_metrics(0)["response_mean_s"])
    # The first episode compiles.
    speed = statistics.median(speeds[1:])
    print(f"mean response {statistics.mean(responses):.4f} s over {len(responses)} episodes, least_queue")
    print(f"{speed / PUREEDGESIM:.1f} times the {PUREEDGESIM:,} tasks per CPU-second of PureEdgeSim")
    print(f"tasks per CPU-second: {speed:,.0f}")


if __name__ == "__main__":
    main()
