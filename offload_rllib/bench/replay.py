"""The speed of DDQN and of its replay, compared with RLlib's DQN and its prioritised multi-agent replay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from offload_rllib.bench.speed import Speed, compared
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.vector import vector_env
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.replay import ReplayBuffer
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENT = "ether_12"
ENVS = 8
ENV_STEPS = 160
UPDATES = 8
BATCH = 256
FILLING = 20  # rounds before anything is measured
FEATURES = 150
ACTIONS = 12
CAPACITY = 200_000


class Free(MultiAgentEnv):
    """Agents decide in turn, one a step; random observations, made once; reward 0; episodes of 1,000 steps."""

    def __init__(self, config: Any) -> None:
        """Make the spaces, of the sizes in `config`."""
        self.possible_agents = [f"n{i}" for i in range(config["agents"])]
        self.agents = list(self.possible_agents)
        box = spaces.Box(-1, 1, (config["features"],), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, box)
        self.action_spaces = dict.fromkeys(self.agents, spaces.Discrete(config["actions"]))
        self._seen = dict.fromkeys(self.agents, box.sample())
        self._step = 0
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin again."""
        self._step = 0
        return self._next(), {}

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:  # pyright: ignore[reportIncompatibleMethodOverride] - RLlib names another type
        """Continue."""
        self._step += 1
        ended = self._step == 1000
        seen = dict(self._seen) if ended else self._next()
        return seen, dict.fromkeys(seen, 0.0), {"__all__": False}, {"__all__": ended}, {}

    def _next(self) -> dict[Any, Any]:
        """Return what the agent observes whose turn it is."""
        agent = self.agents[self._step % len(self.agents)]
        return {agent: self._seen[agent]}  # pyright: ignore[reportReturnType] - RLlib's agents may be named by anything


def _to_shared(agent_id: Any, episode: Any, **kwargs: Any) -> str:
    return "shared"


def _our_round() -> Callable[[], int]:
    """Return a call that samples `ENV_STEPS` environment steps and takes `UPDATES` gradient steps."""
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
    algorithm: Any = algorithm_config(load_environment(ENVIRONMENT), policy, cpus=2).build_algo()
    for _ in range(FILLING):
        algorithm.training_step()
    replay = algorithm._replay["shared"]  # noqa: SLF001 - what is timed is a part of the algorithm
    choices = len(replay) / (FILLING * ENV_STEPS)
    algorithm.config = algorithm.config.copy(copy_frozen=False)
    algorithm.config.training(replay_ratio=UPDATES * BATCH / (choices * ENV_STEPS))
    return _round(algorithm)


def _rllibs_round() -> Callable[[], int]:
    """Return the same of RLlib's DQN; its default module takes no masks, so it plays an environment without."""
    sizes = vector_env(ENVIRONMENT)
    register_env("free", Free)
    config = DQNConfig()
    config.environment(
        "free",
        env_config={"agents": len(sizes.agents), "features": sizes.observation_size, "actions": sizes.num_actions},
    )
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS, rollout_fragment_length=ENV_STEPS // ENVS)
    config.multi_agent(policies={"shared"}, policy_mapping_fn=_to_shared)
    config.rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "relu", "head_fcnet_hiddens": []})
    config.learners(num_learners=0)
    config.training(
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
    config.debugging(log_level="ERROR")
    algorithm = config.build_algo()
    algorithm.training_step()
    return _round(algorithm)


def _round(algorithm: Any) -> Callable[[], int]:
    def work() -> int:
        algorithm.training_step()
        return ENV_STEPS

    return work


def ddqn(repeats: int) -> Iterator[Speed]:
    """Yield the speed of DDQN end to end at RLlib's replay ratio, in one process, on one thread."""
    ours, rllibs = _our_round(), _rllibs_round()
    torch.set_num_threads(1)
    yield compared("DDQN, relative to RLlib's DQN", ours, rllibs, repeats)


def _fragment(seed: int, *, steps: int, environments: int, agents: int, choice_share: float) -> Fragment:
    """Return random steps; episodes end every 1,000 steps."""
    rng = np.random.default_rng(seed)
    shape = (environments, agents)
    truncated = np.zeros((steps, environments), bool)
    truncated[999::1000] = True
    masks = np.zeros((steps + 1, *shape, ACTIONS), np.int8)
    masks[..., 0] = 1
    masks[..., 1:] = (rng.random((steps + 1, *shape)) < choice_share)[..., None]
    ended = int(truncated.sum())
    return Fragment(
        module_id="shared",
        agents=tuple(map(str, range(agents))),
        observations=rng.random((steps + 1, *shape, FEATURES), np.float32),
        masks=masks,
        actions=np.zeros((steps, *shape), np.int32),
        log_probabilities=np.zeros((steps, *shape), np.float32),
        rewards=rng.random((steps, *shape), np.float32),
        truncated=truncated,
        final_observations=rng.random((ended, agents, FEATURES), np.float32),
        final_masks=masks[0, 0][None].repeat(ended, 0),
    )


def replay(repeats: int) -> Iterator[Speed]:
    """Yield the time that a batch takes, from replay that is full."""
    filling = _fragment(0, steps=1000, environments=4, agents=12, choice_share=1.0)
    rng = np.random.default_rng(0)
    for kind, alpha in (("uniform", None), ("prioritised, with new priorities", 0.6)):
        buffer = ReplayBuffer(CAPACITY, FEATURES, ACTIONS, gamma=0.99, n_step=3, alpha=alpha)
        before = -1
        while before < len(buffer) < 0.95 * CAPACITY:
            before = len(buffer)
            buffer.add(filling.agent_steps_of())
        seconds = [_seconds_per_batch(buffer, rng, prioritised=alpha is not None) for _ in range(repeats + 1)]
        what = f"replay, a batch of {BATCH}, {kind}"
        yield Speed(what, 1e3 * statistics.median(seconds[1:]), None, None, "ms of CPU time")


def _seconds_per_batch(buffer: ReplayBuffer, rng: np.random.Generator, *, prioritised: bool, calls: int = 500) -> float:
    began = time.process_time()
    for _ in range(calls):
        drawn = buffer.sample(BATCH, beta=0.4)
        if prioritised:
            buffer.update_priorities(drawn.states, rng.random(BATCH))
    return (time.process_time() - began) / calls
