"""Speed of DDQN end to end, beside RLlib's own DQN with its prioritised multi-agent replay.

Usage: python benchmarks/ddqn.py [--rounds 5] [--skip-rllib]

Both sample 160 environment steps of 12 agents, then take 8 gradient steps on 256 transitions drawn by priority, for a
network of two hidden layers of 64. DDQN steps `ether_12`; RLlib's DQN, whose default module takes no masks, an
environment of as many agents, observations and actions that costs nothing. Figures are CPU seconds of this process,
medians of the rounds after the first ones.
"""

# RLlib declares its attributes as optional, or by base types that lack what is there.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportCallIssue=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from typing import Any

import numpy as np
import ray
from gymnasium import spaces
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.rllib import register_environments
from offload_rllib.envs.vector import vector_env
from offload_rllib.experiment.algorithm_config import algorithm_config

ENVS = 8
ENV_STEPS = 160
UPDATES = 8
BATCH = 256
WARM_UP = 3


class Free(MultiAgentEnv):
    """Random observations, made once; reward 0; episodes of 1,000 steps."""

    def __init__(self, config: Any) -> None:
        """Make the spaces, of the sizes in `config`."""
        self.possible_agents = [f"n{i}" for i in range(config["agents"])]
        self.agents = list(self.possible_agents)
        box = spaces.Box(-1, 1, (config["features"],), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, box)
        self.action_spaces = dict.fromkeys(self.agents, spaces.Discrete(config["actions"]))
        self._seen = dict.fromkeys(self.agents, box.sample())
        self._zeros = dict.fromkeys(self.agents, 0.0)
        self._step = 0
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:  # noqa: ARG002 - RLlib's signature
        """Begin anew."""
        self._step = 0
        return dict(self._seen), {}

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:  # noqa: ARG002 - RLlib's signature
        """Go on."""
        self._step += 1
        ended = {"__all__": self._step == 1000}
        return dict(self._seen), dict(self._zeros), {"__all__": False}, ended, {}


def _shared(agent_id: Any, episode: Any, **kwargs: Any) -> str:  # noqa: ARG001 - RLlib's signature
    return "shared"


def seconds_per_round(algorithm: Any, rounds: int) -> float:
    """Return the CPU seconds of one training step."""
    seconds = []
    for i in range(WARM_UP + rounds):
        start = time.process_time()
        algorithm.training_step()
        if i >= WARM_UP:
            seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are timed")
    parser.add_argument("--skip-rllib", action="store_true", help="time DDQN alone")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_environments()
    register_env("free", Free)
    sizes = vector_env("ether_12", 1)

    policy = load_policy_config(
        "ddqn",
        [
            f"algorithm.sample_env_steps={ENV_STEPS}",
            f"algorithm.batch_transitions={BATCH}",
            "algorithm.learning_starts=1",
            "training.runners=0",
            f"training.envs_per_runner={ENVS}",
        ],
    )
    ours = algorithm_config(load_environment("ether_12"), policy, cpus=2).build_algo()
    for _ in range(20):
        ours.training_step()  # compiles, and fills replay
    replay = ours._replay["shared"]  # noqa: SLF001 - what is timed is a part of the algorithm
    choices = len(replay) / (20 * ENV_STEPS)
    ours.config = ours.config.copy(copy_frozen=False)
    ours.config.training(replay_ratio=UPDATES * BATCH / (choices * ENV_STEPS))
    mine = seconds_per_round(ours, arguments.rounds)
    ours.stop()
    print(f"{choices:.2f} choices per environment step; DDQN: {1e3 * mine:.1f} ms per round")
    if not arguments.skip_rllib:
        config = (
            DQNConfig()
            .environment(
                "free",
                env_config={
                    "agents": len(sizes.agents),
                    "features": sizes.observation_size,
                    "actions": sizes.num_actions,
                },
            )
            .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS, rollout_fragment_length=ENV_STEPS // ENVS)
            .multi_agent(policies={"shared"}, policy_mapping_fn=_shared)
            .rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "relu", "head_fcnet_hiddens": []})
            .learners(num_learners=0)
            .training(
                train_batch_size_per_learner=BATCH,
                training_intensity=UPDATES * BATCH / ENV_STEPS,
                num_steps_sampled_before_learning_starts=0,
                replay_buffer_config={
                    "type": "MultiAgentPrioritizedEpisodeReplayBuffer",
                    "capacity": 100_000,
                    "alpha": 0.6,
                    "beta": 0.4,
                },
            )
            .debugging(log_level="ERROR")
        )
        theirs_algorithm = config.build_algo()
        theirs = seconds_per_round(theirs_algorithm, arguments.rounds)
        theirs_algorithm.stop()
        print(f"RLlib's DQN: {1e3 * theirs:.1f} ms per round, {theirs / mine:.0f} times as long")
    print(f"DDQN: {ENV_STEPS / mine:,.0f} environment steps per CPU-second with {UPDATES / ENV_STEPS:g} updates each")


if __name__ == "__main__":
    main()
