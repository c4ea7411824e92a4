"""The speed of sampling and training on this machine, compared with RLlib's own runner and learner.

Tasks are decided when they arrive, so that an environment step is one choice.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from rich.console import Console
from rich.table import Table

from offload_rllib.bench.replay import ddqn, replay
from offload_rllib.bench.speed import Speed, Work, compared
from offload_rllib.cluster.connection import connect
from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.sharing import PolicyMapping, assign_in
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.scenario import build_scenario
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

ENVIRONMENT = "ether_12"
# Environments per runner at which each runner was fastest here; with 64 ours was 9 % slower, with 256 7 %.
ENVIRONMENTS, STOCK_ENVIRONMENTS = 128, 16
LARGE_NODES = 1024


def grid_environment(nodes: int) -> dict[str, Any]:
    """Return a square grid of at least so many nodes, a quarter of them with clients, without deadlines."""
    side = math.isqrt(nodes - 1) + 1
    described = [
        {
            "name": f"n{x}_{y}",
            "instructions_per_second": 1e6,
            "client": (x + y) % 4 == 0,
            "position_m": [float(x), float(y)],
        }
        for x in range(side)
        for y in range(side)
    ]
    right = [[f"n{x}_{y}", f"n{x + 1}_{y}"] for x in range(side - 1) for y in range(side)]
    up = [[f"n{x}_{y}", f"n{x}_{y + 1}"] for x in range(side) for y in range(side - 1)]
    return {
        "horizon_s": 200,
        "topology": {"kind": "manual", "nodes": described, "links": right + up},
        "links": {"kind": "fixed", "rate_bps": 1e7},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 1e6}, "bits_in": 1e5}]},
            "load": {"rho": 0.6},
        },
    }


def sampling_runner(
    environment: EnvironmentConfig, environments: int, *overrides: str, stock: bool = False
) -> BatchedEnvRunner | MultiAgentEnvRunner:
    """Return a runner of this process, with the preset `ppo`, or RLlib's own.

    Args:
        environment: what it samples.
        environments: how many of them.
        overrides: of the policy.
        stock: whether it is RLlib's.
    """
    policy = load_policy_config(
        "ppo",
        [
            "training.runners=0",
            f"training.envs_per_runner={environments}",
            f"algorithm.batch_env_steps={environments * 100}",
            "algorithm.minibatch_steps=64",
            *overrides,
        ],
    )
    config = algorithm_config(environment, policy, cpus=2)
    return (MultiAgentEnvRunner if stock else BatchedEnvRunner)(config=config, worker_index=0)


def _runner(environment: EnvironmentConfig, environments: int, *overrides: str, stock: bool = False) -> Work:
    """Return a call that samples `steps` steps of every environment in this process."""
    runner = sampling_runner(environment, environments, *overrides, stock=stock)
    steps = 50 if stock else 200

    def sample() -> int:
        runner.sample(num_timesteps=environments * steps)
        runner.get_metrics()
        return environments * steps

    return sample


def _trainer(config: AlgorithmConfig) -> Work:
    algorithm = config.build_algo()

    def iterate() -> int:
        algorithm.train()
        return config.train_batch_size_per_learner

    return iterate


def _stock_ppo(environment: EnvironmentConfig) -> AlgorithmConfig:
    """Return RLlib's own PPO with its own runner and learner, and our network and hyperparameters."""
    policy = load_policy_config("ppo", ["training.runners=0", f"training.envs_per_runner={STOCK_ENVIRONMENTS}"])
    algorithm: Any = policy.algorithm
    assignment = assign_in(policy.sharing, build_scenario(environment))
    config = PPOConfig()
    config.environment("offload", env_config={"env": environment.model_dump(mode="json")}, disable_env_checking=True)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=STOCK_ENVIRONMENTS)
    config.training(
        lr=algorithm.lr,
        num_epochs=algorithm.epochs,
        minibatch_size=algorithm.minibatch_steps,
        train_batch_size_per_learner=algorithm.batch_env_steps,
        use_kl_loss=False,
    )
    config.multi_agent(policies=list(assignment.policies), policy_mapping_fn=PolicyMapping(assignment))
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=MaskedActorCritic, model_config=policy.network.model_dump())
    )
    config.debugging(log_level="ERROR")
    return config


def sampling(repeats: int) -> Iterator[Speed]:
    """Yield the speeds of sampling in one process, on one thread."""
    environment = load_environment(ENVIRONMENT)
    yield compared(
        "sampling, shared policy",
        _runner(environment, ENVIRONMENTS),
        _runner(environment, STOCK_ENVIRONMENTS, stock=True),
        repeats,
    )
    per_node = "sharing=per_node"
    yield compared(
        "sampling, one policy per node",
        _runner(environment, ENVIRONMENTS, per_node),
        _runner(environment, STOCK_ENVIRONMENTS, per_node, stock=True),
        repeats,
    )
    large = load_environment(grid_environment(LARGE_NODES))
    pointer = ("network.kind=pointer", "network.hidden=[32, 32]")
    yield compared(f"sampling, {LARGE_NODES} nodes, pointer 2 x 32", _runner(large, 4, *pointer), None, repeats)


def training(repeats: int) -> Iterator[Speed]:
    """Yield the speeds of whole training iterations in one process, on one thread."""
    environment = load_environment(ENVIRONMENT)
    alone = ["training.runners=0", "training.envs_per_runner=8"]
    policy = load_policy_config("ppo", alone)
    ours = _trainer(algorithm_config(environment, policy, cpus=2))
    torch.set_num_threads(1)
    stock_runner = load_policy_config("ppo", [*alone, "training.env_runner=stock"])
    yield compared(
        "PPO, RLlib's runner but our learner",
        ours,
        _trainer(algorithm_config(environment, stock_runner, cpus=2)),
        repeats,
    )
    torch.set_num_threads(1)
    yield compared("PPO, all of RLlib's", ours, _trainer(_stock_ppo(environment)), repeats)


def runners(repeats: int) -> Iterator[Speed]:
    """Yield how much faster two runner processes sample than one, by the clock."""
    environment = load_environment(ENVIRONMENT)
    environments, steps = 64, 1000
    overrides = [f"training.envs_per_runner={environments}", f"algorithm.batch_env_steps={environments * 2}"]
    policy = load_policy_config("ppo", [*overrides, "algorithm.minibatch_steps=64", "training.runners=2"])
    config = algorithm_config(environment, policy, cpus=2)
    remote: Any = ray.remote(num_cpus=0)(BatchedEnvRunner)
    actors = [remote.remote(config=config, worker_index=i + 1) for i in range(2)]

    def speed(count: int) -> float:
        began = time.perf_counter()
        # What is measured is sampling, not the copy of a batch to this process.
        ray.get([actor.apply.remote(_sample_and_drop, environments * steps) for actor in actors[:count]])
        return count * environments * steps / (time.perf_counter() - began)

    try:
        speed(2)
        pairs = [(speed(2), speed(1)) for _ in range(repeats)]
    finally:
        for actor in actors:
            ray.kill(actor)
    two, one = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    yield Speed("two runners, relative to one", two, one, ratio, "choices per second")


def _sample_and_drop(runner: BatchedEnvRunner, num_timesteps: int) -> None:
    runner.sample(num_timesteps=num_timesteps)


PARTS: dict[str, Callable[[int], Iterator[Speed]]] = {
    "sampling": sampling,
    "training": training,
    "ddqn": ddqn,
    "replay": replay,
    "runners": runners,
}


def shown(value: float) -> str:
    """Return a figure with a sensible number of digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bench(console: Console, parts: list[str], repeats: int) -> list[Speed]:
    """Measure and print a table, a line as soon as it is known; return its lines."""
    quieten()
    torch.set_num_threads(1)
    speeds = []
    with connect():
        for part in parts:
            for speed in PARTS[part](repeats):
                speeds.append(speed)
                beside = "" if speed.ratio is None else f"; compared with {speed.stock:,.0f}: {speed.ratio:.1f} times"
                console.print(f"{speed.what}: {shown(speed.ours)}{beside}", highlight=False)
    table = Table(title=f"Speed of this machine: medians of {repeats}, each pair run in turn")
    for name in ("what", "here", "compared with", "ratio", "unit"):
        table.add_column(name, justify="left" if name in ("what", "unit") else "right")
    for speed in speeds:
        stock = "" if speed.stock is None else f"{speed.stock:,.0f}"
        ratio = "" if speed.ratio is None else f"{speed.ratio:.1f}"
        table.add_row(speed.what, shown(speed.ours), stock, ratio, speed.unit)
    console.print(table)
    return speeds
