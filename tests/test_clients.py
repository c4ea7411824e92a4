"""What other people's libraries find: RLlib's own algorithms, Gymnasium's wrappers, series of episodes, a study."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from helpers.environments import small_environment
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import offload_rllib
from offload_rllib.algorithms.a2c import A2CConfig
from offload_rllib.config import ConfigError
from offload_rllib.envs.central import ENV_ID
from offload_rllib.policies.module import MaskedActorCritic

STEPS = 40  # of an episode of `small_environment`
SHORT = ["horizon_s=40", "warmup_s=0", "drain_s=0"]


def key_of(env: Any) -> int:
    """Return which episode an environment plays."""
    return int(env.unwrapped._batch.state.episode[0]["key"])


def keys_of(envs: list[Any], episodes: int = 2) -> list[int]:
    keys = []
    for env in envs:
        for _ in range(episodes):
            env.reset()
            keys.append(key_of(env))
    return keys


def test_figures_of_an_episode_stand_beside_what_gymnasium_records() -> None:
    env = RecordEpisodeStatistics(gymnasium.make(ENV_ID, env=small_environment()))
    env.reset(seed=0)
    info: dict[str, Any] = {}
    total, ended = 0.0, False
    while not ended:
        _, reward, _, ended, info = env.step(np.zeros(4, int))
        total += float(reward)
    assert info["episode"]["r"] == pytest.approx(total)
    assert info["episode"]["l"] == STEPS
    assert info["figures"]["score_mean_s"] > 0


def test_gymnasiums_vector_carries_the_figures() -> None:
    envs = SyncVectorEnv([lambda: RecordEpisodeStatistics(offload_rllib.gym_env(small_environment()))] * 2)
    envs.reset()
    info: dict[str, Any] = {}
    for _ in range(STEPS):
        info = envs.step(np.zeros((2, 4), int))[-1]
    scores = info["figures"]["score_mean_s"]
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
    assert info["episode"]["l"].tolist() == [STEPS, STEPS]


@pytest.mark.parametrize("face", [offload_rllib.gym_env, offload_rllib.parallel_env])
def test_no_two_environments_that_nobody_seeds_play_the_same_episodes(face: Any) -> None:
    first = face(small_environment())
    # Vector environments of others copy the one that they are given.
    copies = [first, face(small_environment()), copy.deepcopy(first), pickle.loads(pickle.dumps(first))]  # noqa: S301 - our own
    keys = keys_of(copies)
    assert len(set(keys)) == len(keys) == 8


@pytest.mark.parametrize("face", [offload_rllib.gym_env, offload_rllib.parallel_env])
def test_a_seed_gives_the_same_series_whatever_was_played_before(face: Any) -> None:
    series = []
    for unseeded in (0, 3):
        env = face(small_environment())
        keys_of([env], unseeded)
        env.reset(seed=5)
        series.append([key_of(env), *keys_of([env])])
    assert series[0] == series[1]
    # A copy of an environment that plays goes on as it does.
    env = face(small_environment())
    env.reset()
    assert keys_of([copy.deepcopy(env)]) == keys_of([env])


# In a program of its own: a process forked from one that ray has started runs ray's handlers of signals, and may be
# ended before it is itself.
NUMBERS = """
import multiprocessing
from offload_rllib.envs.series import process_number

fork = multiprocessing.get_context("fork")


def number(found, nested):
    found.put(process_number())
    if nested:
        started(found, False)


def started(found, nested):
    process = fork.Process(target=number, args=(found, nested))
    process.start()
    process.join()


if __name__ == "__main__":
    found = fork.SimpleQueue()
    number(found, False)
    started(found, True)
    started(found, True)
    print([found.get() for _ in range(5)])
"""


def test_processes_are_numbered_apart_and_the_same_in_every_run() -> None:
    first, second = (
        json.loads(subprocess.run([sys.executable, "-c", NUMBERS], check=True, capture_output=True, timeout=200).stdout)
        for _ in range(2)
    )
    assert first == second
    assert first[0] == 0
    assert len(set(first)) == 5
    assert all(number < 2**32 for number in first)


def test_the_state_is_what_all_agents_observe() -> None:
    env = offload_rllib.parallel_env(small_environment())
    observations, _ = env.reset(seed=1)
    for _ in range(5):
        assert env.state_space.contains(env.state())
        expected = [observations[agent]["observation"] for agent in env.possible_agents]
        assert (env.state() == np.concatenate(expected)).all()
        observations = env.step(dict.fromkeys(env.agents, 1))[0]


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_masks_of_the_central_face_are_those_of_its_observation(tasks: int) -> None:
    env = gymnasium.make(ENV_ID, env=small_environment(decisions={"tasks_per_decision": tasks}))
    observation, _ = env.reset(seed=1)
    assert isinstance(env.action_space, gymnasium.spaces.MultiDiscrete)
    choices = 0
    for _ in range(10):
        masks = env.get_wrapper_attr("action_masks")()
        assert masks.dtype == np.bool_
        assert masks.shape == (int(env.action_space.nvec.sum()),)
        assert (masks == observation["action_mask"].astype(bool).reshape(-1)).all()
        choices += int(masks.sum() > 4 * tasks)
        observation = env.step(np.zeros_like(env.action_space.nvec))[0]
    assert choices > 0


def test_the_specification_knows_the_length_of_episodes() -> None:
    for env in (offload_rllib.gym_env(small_environment()), gymnasium.make(ENV_ID, env=small_environment())):
        assert env.spec is not None
        assert env.spec.max_episode_steps == STEPS
        again = gymnasium.make(env.spec)
        assert again.spec is not None
        assert again.spec.max_episode_steps == STEPS
        again.reset(seed=0)
        ended = [again.step(np.zeros(4, int))[3] for _ in range(STEPS)]
        assert ended == [False] * (STEPS - 1) + [True]
    shorter = gymnasium.make(ENV_ID, env=small_environment(), max_episode_steps=7)
    assert shorter.spec is not None
    assert shorter.spec.max_episode_steps == 7
    assert gymnasium.spec(ENV_ID).max_episode_steps is None, "what is registered has no length"


@pytest.mark.parametrize("face", [offload_rllib.gym_env, offload_rllib.parallel_env])
def test_human_rendering_shows_every_step(face: Any, capsys: pytest.CaptureFixture[str]) -> None:
    env = face(small_environment(), render_mode="human")
    env.reset(seed=0)
    env.step({} if face is offload_rllib.parallel_env else np.zeros(4, int))
    assert env.render() is None
    shown = capsys.readouterr().out
    assert shown.count("step 0 of 40") == shown.count("step 1 of 40") == 1
    assert "\x1b" not in shown, "control sequences are for terminals"


STOCK = {
    "PPO": PPOConfig().training(train_batch_size_per_learner=80, minibatch_size=40, num_epochs=2),
    "APPO": APPOConfig().training(train_batch_size_per_learner=80),
    "DQN": DQNConfig().training(
        train_batch_size_per_learner=32, num_steps_sampled_before_learning_starts=80, training_intensity=None
    ),
    "A2C": A2CConfig().training(train_batch_size_per_learner=80),
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", sorted(STOCK))
def test_rllibs_own_algorithms_train_in_one_try(name: str) -> None:
    config: AlgorithmConfig = offload_rllib.configure(STOCK[name].copy(), "manual_5", overrides=SHORT)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1, rollout_fragment_length=80)
    config.learners(num_learners=0)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=160)
    config.debugging(seed=0)
    algorithm: Any = config.build_algo()
    before = {key: np.array(value) for key, value in algorithm.get_module("shared").get_state().items()}
    try:
        results = [algorithm.train() for _ in range(2)]
        after = algorithm.get_module("shared").get_state()
    finally:
        algorithm.stop()
    assert any((before[key] != np.asarray(after[key])).any() for key in before), "nothing was learned"
    assert results[-1]["env_runners"]["offload"]["score_mean_s"] > 0
    assert results[-1]["timesteps_total"] >= 160


def test_algorithms_without_a_module_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no mask-aware module for SACConfig; accepted: APPOConfig, .*DQNConfig"):
        offload_rllib.configure(SACConfig(), "manual_5")


def test_modules_need_no_keys_and_name_what_does_not_fit() -> None:
    from offload_rllib.envs.spaces import action_space, observation_space
    from offload_rllib.envs.vector import vector_env

    paper = vector_env(small_environment(observe="paper"))
    spaces = {"observation_space": observation_space(paper), "action_space": action_space(paper)}

    def build(**model_config: Any) -> Any:
        spec = RLModuleSpec(module_class=MaskedActorCritic, model_config=model_config, inference_only=False, **spaces)
        return spec.build()

    assert next(tuple(parameter.shape) for parameter in build().actor.parameters()) == (64, paper.observation_size)
    assert build(hidden=[8], vf_share_layers=False).actor is not None
    with pytest.raises(ConfigError, match=r"model_config: hidden"):
        build(hidden=["many"])
    with pytest.raises(ConfigError, match=r"model_config.rows: \(11, 7, 12\) does not fit observations of 6 numbers"):
        build(kind="pointer")
    assert build(kind="pointer", rows=paper.layout.blocks).actor is not None
