"""Speed on a network of 14 access points and a cloud, on which other simulators of edge computing have been measured.

Usage: python benchmarks/edge_14.py [--rho 0.6] [--repeats 15] [--policy least_queue] [--service parallel] [--cv CV]

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


def environment(rho: float, service: str = "parallel", cv: float | None = None) -> dict[str, Any]:
    """Return the scenario at an offered load, relative to the hosts' cores without the cloud.

    Args:
        rho: the load.
        service: `parallel`, or `shared` at the hosts and the cloud.
        cv: coefficient of variation of lognormal work; None: exponential work.
    """
    mean = INSTRUCTIONS_PER_SECOND
    work = {"exponential": mean} if cv is None else {"lognormal": {"mean": mean, "cv": cv}}
    names = [f"ap{i}" for i in range(ACCESS_POINTS)]
    host = {"instructions_per_second": INSTRUCTIONS_PER_SECOND, "cores": CORES, "client": True}
    return {
        "horizon_s": 1000,
        "service": service,
        "topology": {
            "kind": "manual",
            "nodes": [{"name": name} | host for name in names],
            "links": [[a, b] for i, a in enumerate(names) for b in names[:i]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e9, "latency_s": 0.015},
        "cloud": {
            "vms": 40,
            "service": service,
            "instructions_per_second": INSTRUCTIONS_PER_SECOND,
            "link": {"rate_bps": 1e9, "latency_s": 0.1},
        },
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": work}]},
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
    parser.add_argument("--policy", default="least_queue", help="a heuristic")
    parser.add_argument("--service", choices=("parallel", "shared"), default="parallel", help="of hosts and cloud")
    parser.add_argument("--cv", type=float, help="lognormal work with this coefficient of variation")
    arguments = parser.parse_args()
    described = environment(arguments.rho, arguments.service, arguments.cv)
    env = ArrivalEnv(build_scenario(load_environment(described)), 1)
    speeds, responses, tails = [], [], []
    for seed in range(arguments.repeats + 1):
        env.reset(held_out_keys(seed, 1))
        start = time.process_time()
        env.play(arguments.policy)
        speeds.append(float(env.state.episode["tasks_made"][0]) / (time.process_time() - start))
        responses.append(env.episode_metrics(0)["response_mean_s"])
        tails.append(env.episode_metrics(0)["response_p95_s"])
    # The first episode compiles.
    speed = statistics.median(speeds[1:])
    tail = f"95th percentile {statistics.mean(tails):.3f} s"
    print(f"mean response {statistics.mean(responses):.4f} s, {tail}, {len(responses)} episodes, {arguments.policy}")
    print(f"{speed / PUREEDGESIM:.1f} times the {PUREEDGESIM:,} tasks per CPU-second of PureEdgeSim")
    print(f"tasks per CPU-second: {speed:,.0f}")


if __name__ == "__main__":
    main()
