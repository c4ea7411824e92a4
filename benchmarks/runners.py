"""Choices per second with 0, 1, 2 and 4 runners and with a learner apart, and the bytes that larger networks send.

Usage: python benchmarks/runners.py [--repeats 7] [--env ether_12] [--policy ppo]

All trainings are there at the same time, and one iteration of each is done in turn, so that what else the machine does
meets all of them. Shown are medians. `scaling.py --runners` measures what more runners would give, and `scaling.py`
what several learners give, which sample by themselves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from offload_rllib.bench.sampling import grid_environment
from offload_rllib.cluster.connection import connect
from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.envs.vector import vector_env
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

# Runners and learners; 0: in the trainer's process.
SHAPES = ((0, 0), (1, 0), (2, 0), (4, 0), (2, 1))
NODES = (1024, 10_000)
# Of a cluster's network, bytes per second: 10 Gbit/s.
NETWORK_BYTES_PER_S = 1.25e9


@dataclass(frozen=True)
class Iteration:
    """What one iteration took, s."""

    wall: float
    sampling: float
    """Waiting for samples, by the clock; in the trainer's process without runners."""
    learning: float
    """Learning and handing out the weights, by the clock."""
    trainer_cpu: float
    gathering_cpu: float
    """Of `trainer_cpu`: asking runners, reading what they give, handing out the weights."""
    runners_cpu: float
    learners_cpu: float

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes."""
        return self.trainer_cpu + self.runners_cpu + self.learners_cpu


class Training:
    """A training whose iterations are timed."""

    def __init__(self, environment: EnvironmentConfig, policy: str, runners: int, learners: int) -> None:
        """Build it; all processes together reserve less than two CPUs of Ray's count."""
        self.runners, self.learners = runners, learners
        changes = [f"training.runners={runners}", f"training.learners={learners}"]
        changes += ["training.cpus_per_runner=0.1", "training.envs_per_runner=4"]
        config = algorithm_config(environment, load_policy_config(policy, changes), cpus=2)
        self.algorithm: Any = config.build_algo()
        self.env_steps = int(config.total_train_batch_size)
        self.sample_bytes = 0
        self._spent: dict[str, tuple[float, float]] = {}
        for part in ("sample", "learn", "sync_weights"):
            setattr(self.algorithm, part, partial(self._timed, part, getattr(self.algorithm, part)))

    def _timed(self, part: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work(*arguments, **options)
        self._spent[part] = time.perf_counter() - wall, time.process_time() - cpu
        if part == "sample":
            self.sample_bytes = sum(bytes_of(steps) for steps in done)
        return done

    def _cpu_of_others(self) -> tuple[float, float]:
        def spent(_: Any) -> float:
            return time.process_time()

        runners = self.algorithm.env_runner_group.foreach_env_runner(spent, local_env_runner=False)
        if not self.learners:
            return sum(runners), 0.0
        return sum(runners), sum(answer.get() for answer in self.algorithm.learner_group.foreach_learner(spent))

    def iterate(self) -> Iteration:
        """Do one iteration."""
        runners, learners = self._cpu_of_others()
        wall, cpu = time.perf_counter(), time.process_time()
        self.algorithm.train()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        runners_after, learners_after = self._cpu_of_others()
        sampling, gathering = self._spent["sample"]
        learning, _ = self._spent["learn"]
        return Iteration(
            wall=wall,
            sampling=sampling,
            learning=learning,
            trainer_cpu=cpu,
            gathering_cpu=self._spent["sync_weights"][1] + (gathering if self.runners else 0.0),
            runners_cpu=runners_after - runners,
            learners_cpu=learners_after - learners,
        )

    def weight_bytes(self) -> int:
        """Return the bytes of the weights that every runner is given in every iteration."""
        state = self.algorithm.env_runner_group.local_env_runner.module.get_state(inference_only=True)
        return sum(array.nbytes for module in state.values() for array in module.values())


def bytes_of(steps: AgentSteps) -> int:
    """Return the bytes of the arrays of a sample."""
    return sum(array.nbytes for array in vars(steps).values() if isinstance(array, np.ndarray))


def median(values: Any) -> float:
    """Return the median of values."""
    return statistics.median(values)


def table(head: str, rows: list[str]) -> str:
    """Return a Markdown table with figures to the right."""
    return "\n".join([f"| {head} |", "|---" + "|---:" * head.count("|") + "|", *rows])


def measured(trainings: list[Training], repeats: int) -> tuple[str, list[list[Iteration]]]:
    """Return the table of what was measured, and the iterations of every training."""
    for training in trainings:
        training.iterate()  # compiles, connects
    rounds = [[training.iterate() for training in trainings] for _ in range(repeats)]
    by_training = [list(iterations) for iterations in zip(*rounds, strict=True)]
    rows = []
    for place, (training, iterations) in enumerate(zip(trainings, by_training, strict=True)):
        steps = training.env_steps
        sampled = [first.sampling / own.sampling for first, own in zip(by_training[1], iterations, strict=True)]
        faster = [first.wall / own.wall for first, own in zip(by_training[1], iterations, strict=True)]
        processes = max(training.runners, 1)
        shown = ("", "") if place == 0 else (f"{median(sampled):.2f}", f"{median(sampled) / processes:.0%}")
        rows.append(
            f"| {training.runners} + {training.learners} | {steps / median(i.wall for i in iterations):,.0f} "
            f"| {median(faster):.2f} | {steps / median(i.sampling for i in iterations):,.0f} "
            f"| {shown[0]} | {shown[1]} "
            f"| {steps / median(i.cpu for i in iterations):,.0f} "
            f"| {median(i.runners_cpu / i.cpu for i in iterations):.0%} "
            f"| {median((i.trainer_cpu + i.learners_cpu) / i.cpu for i in iterations):.0%} |"
        )
    head = (
        "runners + learners | choices/s | beside 1 + 0 | sampling alone, choices/s | beside 1 + 0 "
        "| efficiency | choices per CPU-s | CPU in runners | CPU in trainer and learners"
    )
    return table(head, rows), by_training


@dataclass(frozen=True)
class Costs:
    """What a choice costs, from the measurements."""

    sampling_s: float
    """CPU seconds of a runner per choice."""
    learning_s: float
    """CPU seconds of the learner per choice."""
    gathering_s: float
    """CPU seconds of the trainer per runner and iteration."""
    choice_bytes: float
    weight_bytes: int


def costs_of(trainings: list[Training], by_training: list[list[Iteration]]) -> Costs:
    """Return what a choice costs; what one more runner costs the trainer is from 1 and 4 of them."""
    of = {(training.runners, training.learners): place for place, training in enumerate(trainings)}
    one, four = by_training[of[1, 0]], by_training[of[4, 0]]
    steps = trainings[of[1, 0]].env_steps
    per_runner = median((b.gathering_cpu - a.gathering_cpu) / 3 for a, b in zip(one, four, strict=True))
    return Costs(
        sampling_s=median(i.runners_cpu for i in one) / steps,
        learning_s=median(i.trainer_cpu - i.gathering_cpu for i in one) / steps,
        gathering_s=max(per_runner, 0.0),
        choice_bytes=trainings[of[1, 0]].sample_bytes / steps,
        weight_bytes=trainings[of[1, 0]].weight_bytes(),
    )


def sizes_of_networks(costs: Costs) -> str:
    """Return a table of what larger networks of nodes send, from the shapes of their arrays."""
    rows = []
    for nodes in NODES:
        env = vector_env(load_environment(grid_environment(nodes)), 1)
        # float32 observations, log-probabilities and rewards, int8 masks, int32 actions; agent, environment, time until
        # the successor and its row in 8 bytes each.
        choice = 4 * env.observation_size + env.num_actions + 3 * 4 + 4 * 8
        rows.append(
            f"| {nodes:,} | {len(env.agents):,} | {choice:,} | {8000 * choice / 1e6:.1f} "
            f"| {NETWORK_BYTES_PER_S / choice:,.0f} | {1 / costs.learning_s:,.0f} |"
        )
    head = (
        "nodes of the environment | agents | bytes per choice | MB per batch of 8,000 "
        "| choices/s through the network | choices/s through the learner"
    )
    return table(head, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--policy", default="ppo")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    environment = load_environment(options.env)
    with connect(), ExitStack() as stack:
        trainings = []
        for runners, learners in SHAPES:
            trainings.append(Training(environment, options.policy, runners, learners))
            stack.callback(trainings[-1].algorithm.stop)
        load = os.getloadavg()[0]
        print(f"{options.env}, {options.policy}: batches of {trainings[0].env_steps:,} choices, ", end="")
        print(f"{os.cpu_count()} CPUs, load before {load:.1f}, medians of {options.repeats}\n")
        shown, by_training = measured(trainings, options.repeats)
        print(shown, flush=True)
        costs = costs_of(trainings, by_training)
    steps = trainings[0].env_steps
    print(
        f"\nsampling {costs.sampling_s * 1e6:.3f} us of CPU per choice, learning {costs.learning_s * 1e6:.2f} us, "
        f"{costs.gathering_s * 1e3:.2f} ms per runner and iteration in the trainer; {costs.choice_bytes:.0f} bytes "
        f"per choice ({costs.choice_bytes * steps / 1e6:.1f} MB per iteration), {costs.weight_bytes:,} bytes "
        f"of weights per runner\n"
    )
    print(sizes_of_networks(costs))


if __name__ == "__main__":
    main()
