"""Speed of the simulator: choices and tasks per CPU-second, what large networks cost, a reset, and the start-up.

Usage: python benchmarks/simulator.py [--repeats 5] [--envs 64]

A choice is a decision about a task; steps in which an agent has none count for nothing. Where an environment is
stepped, actions are random valid ones, drawing them is not timed, and observations, masks and rewards are written.
Where a rule plays inside the kernels nothing is observed.
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
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.scenario import build_scenario

# Links that wait, lose and jitter, nodes that fail, an account of energy.
EVERYTHING: dict[str, Any] = {
    "links": {
        "kind": "fixed",
        "rate_bps": 1e7,
        "latency_s": {"lognormal": {"mean": 5.18e-3, "cv": 0.544, "least": 1.18e-3}},
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


AT_ONCE = {"when": "arrival", "max_hops": 2}
# Decisions of each form.
FORMS = {"arrival": AT_ONCE, "interval": {"when": "interval", "interval_s": 1.0, "max_hops": 2}}


def environment(graph: nx.Graph, *, features: bool) -> dict[str, Any]:
    """Return a network of equal nodes, every one with a client, at 0.8 tasks per second each and rho 0.8.

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


def run(env: Any, seed: int) -> dict[str, float]:
    """Play one episode of random valid actions step by step; return choices, tasks, events and CPU-seconds."""
    env.reset(held_out_keys(seed, env.num_envs))
    seconds = 0.0
    while not env.truncated.all():
        actions = env.heuristic_actions("random")
        start = time.process_time()
        env.step(actions)
        seconds += time.process_time() - start
    return counted(env, seconds)


def play(env: ArrivalEnv, seed: int) -> dict[str, float]:
    """Play one episode under a rule inside the kernels."""
    env.reset(held_out_keys(seed, env.num_envs))
    start = time.process_time()
    env.play("shortest_finish")
    return counted(env, time.process_time() - start)


def step_from_python(env: ArrivalEnv, seed: int) -> dict[str, float]:
    """Keep every task of an episode, one call for each decision; the loop is timed, too."""
    env.reset(held_out_keys(seed, env.num_envs))
    keep = np.zeros(env.num_envs, np.int32)
    start = time.process_time()
    while not env.step(keep):
        pass
    return counted(env, time.process_time() - start)


def counted(env: Any, seconds: float) -> dict[str, float]:
    """Return what has happened in the episodes of an environment."""
    episode = env.state.episode
    return {
        "choices": float(episode["choices"].sum()),
        "tasks": float(episode["tasks_made"].sum()),
        "events": float(episode["events"].sum()),
        "seconds": seconds,
    }


def rate(results: list[dict[str, float]], kind: str) -> float:
    """Return the median rate per CPU-second of some runs."""
    return statistics.median(result[kind] / result["seconds"] for result in results)


def print_rates(label: str, results: list[dict[str, float]]) -> None:
    """Print the rates of some runs."""
    print(
        f"{label}: {rate(results, 'choices'):,.0f} choices, {rate(results, 'tasks'):,.0f} tasks, "
        f"{rate(results, 'events'):,.0f} events per CPU-second"
    )


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# Nodes, environments, and length of an episode of the networks that are compared in size. A call of a kernel costs as
# much as several choices: networks are compared where a call makes one choice, where it makes many, and without calls.
SIZES = ((12, 1, 200), (12, 64, 200), (100, 1, 200), (1_000, 1, 20), (10_000, 1, 5), (10_000, 16, 2))


def print_sizes(repeats: int) -> None:
    """Print what networks of equal degree cost, stepped and played under a rule inside the kernels, in turn.

    Args:
        repeats: how often each is; medians are printed.
    """
    envs, builds = [], []
    for nodes, count, horizon_s in SIZES:
        content = environment(nx.random_regular_graph(3, nodes, seed=0), features=True) | {"horizon_s": horizon_s}
        start = time.process_time()
        env = ArrivalEnv(build_scenario(load_environment(content)), count)
        env.reset(held_out_keys(0, count))
        builds.append(time.process_time() - start)
        envs.append(env)
        run(env, 0)
        play(env, 0)
    costs = []
    for how in (run, play):
        results = [[how(env, 1 + repeat) for env in envs] for repeat in range(repeats)]
        costs.append([1e6 / rate([row[i] for row in results], "choices") for i in range(len(SIZES))])
    batch = SIZES.index((12, 64, 200))
    for i, (nodes, count, _) in enumerate(SIZES):
        env = envs[i]
        arrays = (*env.state, *env.scenario.arrays, env.observations, env.masks, env.rewards)
        kilobytes = sum(np.asarray(array).nbytes for array in arrays) / 1024 / nodes / count
        stepped, played = (of_how[i] for of_how in costs)
        print(
            f"{nodes:,} nodes x {count}: build {builds[i]:.2f} CPU-seconds, {kilobytes:.1f} KB of arrays per node; "
            f"{stepped:.2f} us per choice when stepped ({stepped / costs[0][batch]:.2f} times 12 nodes x 64), "
            f"{played:.2f} us under a rule inside the kernels ({played / costs[1][batch]:.2f} times)"
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

    count, repeats = arguments.envs, arguments.repeats
    usual = environment(nx.frucht_graph(), features=True)
    contents = {
        "ether_12": load_environment("ether_12"),
        "12 nodes, plain": environment(nx.frucht_graph(), features=False),
        "12 nodes, broadcasts, deadlines": usual,
        "12 nodes, contention, loss, jitter, failures, energy too": usual | EVERYTHING,
    }
    runs: dict[str, list[dict[str, float]]] = {}
    played: list[tuple[str, Callable[[int], dict[str, float]]]] = []
    for label, content in contents.items():
        for form, decisions in FORMS.items():
            config = load_environment(load_environment(content).model_dump(mode="json") | {"decisions": decisions})
            env = batch_of(build_scenario(config), count)
            played.append((f"{label} x {count}, {form}", lambda seed, env=env: run(env, seed)))
            if label == "ether_12" and form == "arrival":
                alone = ArrivalEnv(build_scenario(config), 1)
                played.append((f"{label} x 1, a rule inside the kernels", lambda seed, env=alone: play(env, seed)))
                played.append(
                    (f"{label} x 1, stepped from Python", lambda seed, env=alone: step_from_python(env, seed))
                )
                played.append((f"{label} x {count}, a rule inside the kernels", lambda seed, env=env: play(env, seed)))
    for label, action in played:
        action(0)  # compiles, and lets the arrays grow to their size
        runs[label] = []
    for repeat in range(repeats):
        for label, action in played:
            runs[label].append(action(1 + repeat))
    for label, results in runs.items():
        print_rates(label, results)

    print_sizes(repeats)
    keys = held_out_keys(0, count)
    env = batch_of(build_scenario(load_environment(usual)), count)
    resets = [timed(lambda: env.reset(keys)) for _ in range(20)]
    print(f"reset of {count} environments: {1e3 * statistics.median(resets):.2f} ms")
    print(f"start-up, default environment in a new process: {min(start_up() for _ in range(3)):.2f} CPU-seconds")
    print(f"choices per CPU-second: {rate(runs[f'ether_12 x {count}, arrival'], 'choices'):,.0f}")


if __name__ == "__main__":
    main()
