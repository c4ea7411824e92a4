"""Growing networks: building, memory, run time per decision, and what a pointer policy learns from a fixed budget.

Usage: python benchmarks/large_networks.py FOLDER [--nodes 12 31 100 1000 10000] [--decisions 204800] [--episodes 5]

Open question 2 of the PeersimGym paper asks for these. Every network is of the same kind: a random geometric graph of
constant density at rho 0.8, three quarters sensors with clients, one quarter servers. So only its size differs. On each
a pointer policy of 2 x 32 is trained by PPO in one process. It plays held-out episodes, with drawn actions, beside all
rules, and beside the policy that was trained on the smallest network. Each size has a process of its own. Results are
kept in FOLDER, and a run that was interrupted continues with what is missing. Scores of large networks take most of the
time.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray
import torch

from offload_rllib.config import EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.evaluation.statistics import paired_difference
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

SIZES = (12, 31, 100, 1000, 10_000)
# There is neither a cloud nor a recording.
RULES = tuple(name for name in HEURISTICS if name not in ("always_cloud", "recorded"))
ORACLE = "shortest_finish_oracle"
STEPPED, WARM_UP = 400, 100
MEMORY_BYTES = 24 * 2**30


class Training(NamedTuple):
    """How a size is trained: larger networks have a larger share of their agents' decisions in one environment."""

    environments: int
    batch: int
    """Decisions: at least five of each agent on average, for an agent's reward is known when it decides again."""


def training_of(nodes: int) -> Training:
    """Return how a network is trained."""
    return Training(8 if nodes <= 12 else 2 if nodes <= 48 else 1, max(5120, 5 * nodes))


def environment(nodes: int) -> EnvironmentConfig:
    """Return the network of so many nodes: `geometric_20` at the same density, with at most eight destinations."""
    side = 100 * math.sqrt(nodes / 20)
    return load_environment(
        "geometric_20",
        [
            f"topology.nodes={nodes}",
            f"topology.area_m=[{side}, {side}]",
            "decisions={when: arrival, max_hops: 2, max_destinations: 8}",
            "workload.load={rho: 0.8}",
            "horizon_s=240",
        ],
    )


def policy(nodes: int, decisions: int) -> PolicyConfig:
    """Return the policy set, trained in this process."""
    training = training_of(nodes)
    return load_policy_config(
        "ppo",
        [
            "network={kind: pointer, hidden: [32, 32]}",
            "training.runners=0",
            f"training.envs_per_runner={training.environments}",
            f"algorithm.batch_env_steps={training.batch}",
            f"training.env_steps={decisions}",
        ],
    )


def _resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def simulated(scenario: BuiltScenario) -> dict[str, float]:
    """Return CPU-seconds of choices, stepped one environment at a time and by a rule inside the kernels, and sizes."""
    env: Any = batch_of(scenario, 1)
    spent_s = 0.0
    env.reset(held_out_keys(1, 1))
    for step in range(STEPPED + WARM_UP):
        if env.truncated.all():
            env.reset(held_out_keys(step + 2, 1))
        actions = env.heuristic_actions("random")
        began = time.process_time()
        env.step(actions)
        spent_s += (time.process_time() - began) * (step >= WARM_UP)
    keys = held_out_keys(1, 1)
    env.reset(keys)
    env.play("shortest_finish")  # compiled, and with room for its tasks
    env.reset(keys)
    began = time.process_time()
    env.play("shortest_finish")
    played_s = time.process_time() - began
    choices = int(env.state.episode["choices"].sum())
    return {
        "stepped_us": 1e6 * spent_s / STEPPED,
        "rule_us": 1e6 * played_s / choices,
        "choices_of_episode": choices,
        "state_mb": sum(array.nbytes for array in env.state) / 1e6,
    }


def trained(config: EnvironmentConfig, nodes: int, decisions: int, folder: Path) -> dict[str, float]:
    """Train, save the policy into a folder, and return CPU-seconds and memory."""
    before_mb = _resident_mb()
    algorithm: Any = algorithm_config(config, policy(nodes, decisions), cpus=1).build_algo()
    torch.set_num_threads(1)
    built_mb, spent_s = _resident_mb(), 0.0
    try:
        while algorithm.env_steps < decisions:
            began = time.process_time()
            algorithm.train()
            spent_s += time.process_time() - began
        folder.mkdir(exist_ok=True)
        algorithm.save_checkpoint(str(folder))
        done = int(algorithm.env_steps)
    finally:
        algorithm.stop()
    return {
        "training_us": 1e6 * spent_s / done,
        "training_cpu_s": spent_s,
        "decisions": done,
        "environments_mb": built_mb - before_mb,
        "training_mb": _peak_mb() - before_mb,
    }


def scored(config: EnvironmentConfig, policies: list[Path], episodes: int) -> dict[str, Any]:
    """Return the scores [episodes] of rules, and of trained policies that draw their actions."""
    contenders = [
        contender
        for contender in make_contenders([*RULES, *map(str, policies)])
        if contender.name in RULES or not contender.deterministic
    ]
    played = evaluate(config, contenders, episodes=episodes)
    return {"scores_s": {each.name: played.of(each.name, "score_mean_s").tolist() for each in contenders}}


def measure(root: Path, nodes: int, smallest: int, decisions: int, episodes: int) -> None:
    """Measure what is missing of one size in this process, and keep each part as soon as it is known."""
    quieten()
    config, path = environment(nodes), root / f"{nodes}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"nodes": nodes}
    if "state_mb" not in found:
        began = time.process_time()
        scenario = build_scenario(config)
        found |= {"build_s": time.process_time() - began, "agents": len(scenario.agents), **simulated(scenario)}
        path.write_text(json.dumps(found, indent=1))
    if "training_us" not in found:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        found |= trained(config, nodes, decisions, root / f"policy_{nodes}")
        ray.shutdown()
        path.write_text(json.dumps(found, indent=1))
    if episodes:
        found |= scored(config, [root / f"policy_{size}" for size in dict.fromkeys((smallest, nodes))], episodes)
        path.write_text(json.dumps(found, indent=1))


def _is_done(path: Path, episodes: int) -> bool:
    found = json.loads(path.read_text()) if path.exists() else {}
    return "training_us" in found and ("scores_s" in found or not episodes)


def _row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def report(results: list[dict[str, Any]]) -> None:
    """Print the tables, and the size at which training would fill the memory."""
    _row("nodes", "agents", "build, CPU-s", "state, MB", "rule, us", "stepped, us", "training, us", "training, MB")
    _row("---:", *["---:"] * 7)
    for found in results:
        _row(
            f"{found['nodes']:,}",
            f"{found['agents']:,}",
            f"{found['build_s']:.2f}",
            f"{found['state_mb']:.1f}",
            *(f"{found[name]:.2f}" for name in ("rule_us", "stepped_us")),
            *(f"{found[name]:.0f}" if name in found else "" for name in ("training_us", "training_mb")),
        )
    smallest = results[0]["nodes"]
    print()
    _row("nodes", "decisions", "of each agent", "best rule", "its score, s", "trained here, s", f"on {smallest}, s",
         "trained here - best rule, s", f"on {smallest} - best rule, s", "oracle, s")  # fmt: skip
    _row("---:", "---:", "---:", "---", *["---:"] * 6)
    for found in results:
        if "scores_s" not in found:
            continue
        scores = found["scores_s"]
        best = min(set(RULES) - {ORACLE}, key=lambda rule: float(np.mean(scores[rule])))
        here, small = (f"policy_{size}{SAMPLED}" for size in (found["nodes"], smallest))
        differences = [paired_difference(np.array(scores[name]), np.array(scores[best])) for name in (here, small)]
        _row(
            f"{found['nodes']:,}",
            f"{found['decisions']:,}",
            f"{found['decisions'] / found['agents']:,.0f}",
            f"`{best}`",
            *(f"{np.mean(scores[name]):.2f}" for name in (best, here, small)),
            *(f"{each.mean:+.2f} [{each.low:+.2f}, {each.high:+.2f}]" for each in differences),
            f"{np.mean(scores[ORACLE]):.2f}",
        )
    results = [found for found in results if "training_mb" in found]
    if len(results) > 1:
        first, last = results[0], results[-1]
        per_node = 1e6 * (last["training_mb"] - first["training_mb"]) / (last["nodes"] - first["nodes"])
        print(f"\n{per_node / 1e3:,.1f} kB of training per node: {MEMORY_BYTES / per_node:,.0f} nodes in 24 GiB")


def main() -> None:
    """Measure the sizes that are missing, each in a process of its own, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--decisions", type=int, default=204_800, help="of each training")
    parser.add_argument("--episodes", type=int, default=5, help="held-out ones, of each policy; 0: no scores")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root, sizes = arguments.folder.resolve(), sorted(arguments.nodes)
    root.mkdir(parents=True, exist_ok=True)
    if arguments.alone:
        measure(root, arguments.alone, sizes[0], arguments.decisions, arguments.episodes)
        return
    for nodes in sizes:
        if not _is_done(root / f"{nodes}.json", arguments.episodes):
            command = [sys.executable, *sys.argv, "--alone", str(nodes)]
            subprocess.run(command, check=True)  # noqa: S603 - this program itself
    report([json.loads((root / f"{nodes}.json").read_text()) for nodes in sizes])


if __name__ == "__main__":
    main()
