"""Speed of the simulator: agent decisions per CPU-second, what large networks cost, a reset, and the start-up.

Usage: python benchmarks/simulator.py [--repeats 5]

Decisions are random valid actions; drawing them is not timed. Observations, masks and rewards are written.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario

# Links that wait, lose and jitter, nodes that fail, an account of energy.
EVERYTHING: dict[str, Any] = {
    "links": {
        "kind": "fixed",
        "rate_bps": 1e7,
        "latency_s": {"lognormal": {"shape": 0.635, "loc": 1.18e-3, "scale": 3.27e-3}},
        "jitter_s": {"uniform": [0, 0.002]},
        "loss_probability": 0.01,
        "contention": "fifo",
    },
    "failures": {
        "tasks": "returned",
        "laws": [{"time_to_failure_s": {"exponential": 100}, "time_to_repair_s": {"exponential": 5}}],
    },
    "energy": {"kind": "power", "devices": [{"idle_w": 2, "core_busy_w": 3, "transmit_w": 0.1}]},
}


def environment(graph: nx.Graph, *, features: bool) -> dict[str, Any]:
    """Return a network of equal nodes, every one with a client, at 0.8 tasks per decision and rho 0.8.

    Args:
        graph: its links.
        features: with broadcasts and deadlines, or with fresh information and none.
    """
    return {
        "horizon_s": 200,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": f"n{i}", "instructions_per_second": 1e6, "client": True, "queue_capacity": 20}
                for i in range(len(graph))
            ],
            "links": [[f"n{a}", f"n{b}"] for a, b in graph.edges],
        },
        "links": {"kind": "fixed", "rate_bps": 1e7, "latency_s": 0.01},
        "workload": {
            "jobs": {
                "kind": "mix",
                "types": [{"instructions": {"exponential": 1e6}, "bits_in": {"uniform": [1e5, 1e6]}, "bits_out": 1e5}],
            },
            "load": {"tasks_per_second_per_client": 0.8},
            "deadline_s": {"uniform": [10, 20]} if features else None,
        },
        "score": {"drop_s": None if features else 200},
        "information": {"kind": "broadcast" if features else "fresh"},
    }


def run(env: VectorEnv, seed: int) -> dict[str, float]:
    """Play one episode of random valid actions and return decisions, events, choices and CPU seconds."""
    env.reset(held_out_keys(seed, env.num_envs))
    seconds = 0.0
    done = False
    while not done:
        actions = env.heuristic_actions("random")
        start = time.process_time()
        done = env.step(actions)
        seconds += time.process_time() - start
    episode = env.state.episode
    return {
        "decisions": float(env.num_envs * len(env.agents) * env.steps_per_episode),
        "events": float(episode["events"].sum()),
        "choices": float(episode["choices"].sum()),
        "seconds": seconds,
    }


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def print_sizes(repeats: int, of_batch: float) -> None:
    """Print what networks of equal degree cost, one environment each, beside 12 nodes in one and in a batch.

    Args:
        repeats: the networks play in turn, this many times; medians are printed.
        of_batch: decisions per CPU-second of 12 nodes in a batch.
    """
    sizes = (12, 100, 1_000, 10_000)
    built, builds = [], []
    for nodes in sizes:
        content = environment(nx.random_regular_graph(3, nodes, seed=0), features=True)
        start = time.process_time()
        env = VectorEnv(build_scenario(load_environment(content)), 1)
        env.reset(held_out_keys(0, 1))
        builds.append(time.process_time() - start)
        built.append(env)
        run(env, 0)
    results = [[run(env, 1 + repeat) for env in built] for repeat in range(repeats)]
    costs = [statistics.median(row[i]["seconds"] / row[i]["decisions"] for row in results) for i in range(len(sizes))]
    for nodes, env, build_s, cost_s in zip(sizes, built, builds, costs, strict=True):
        arrays = (*env.state, *env.scenario.arrays, env.observations, env.masks, env.rewards)
        kilobytes = sum(np.asarray(array).nbytes for array in arrays) / 1024 / nodes
        print(
            f"{nodes:,} nodes x 1: build {build_s:.2f} CPU-seconds, {kilobytes:.1f} KB of arrays per node, "
            f"{1 / cost_s:,.0f} decisions per CPU-second, {cost_s / costs[0]:.2f} times the cost of one at 12 nodes "
            f"x 1, {cost_s * of_batch:.2f} times that in the batch"
        )


def start_up() -> float:
    """Return the CPU-seconds that a new process takes to import the package and to build the default environment."""
    program = "import offload_rllib; offload_rllib.vector_env('ether_12')"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - no input
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="the median of this many episodes is printed")
    parser.add_argument("--envs", type=int, default=64)
    arguments = parser.parse_args()

    rates = {}
    usual = environment(nx.frucht_graph(), features=True)
    envs = {
        label: VectorEnv(build_scenario(load_environment(content)), arguments.envs)
        for label, content in (
            ("plain", environment(nx.frucht_graph(), features=False)),
            ("broadcasts, deadlines", usual),
            ("contention, loss, jitter, failures, energy too", usual | EVERYTHING),
        )
    }
    for env in envs.values():
        run(env, 0)  # compiles, and lets the arrays grow to their size
    runs = {label: [] for label in envs}
    for repeat in range(arguments.repeats):
        for label, env in envs.items():
            runs[label].append(run(env, 1 + repeat))
    for label, results in runs.items():
        for kind in ("events", "choices", "decisions"):
            rates[label, kind] = statistics.median(result[kind] / result["seconds"] for result in results)
        print(
            f"12 nodes x {arguments.envs}, {label}: {rates[label, 'events']:,.0f} events, "
            f"{rates[label, 'choices']:,.0f} choices, {rates[label, 'decisions']:,.0f} decisions per CPU-second"
        )

    smallest = envs["broadcasts, deadlines"]
    print_sizes(arguments.repeats, rates["broadcasts, deadlines", "decisions"])
    keys = held_out_keys(0, arguments.envs)
    resets = [timed(lambda: smallest.reset(keys)) for _ in range(20)]
    print(f"reset of {arguments.envs} environments: {1e3 * statistics.median(resets):.2f} ms")
    print(f"start-up, default environment in a new process: {min(start_up() for _ in range(3)):.2f} CPU-seconds")
    print(f"decisions per CPU-second: {rates['broadcasts, deadlines', 'decisions']:,.0f}")


if __name__ == "__main__":
    main()
