"""Every face has the form without a clock: one agent decides at a time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from helpers.environments import at_once, make_env, small_environment
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

import offload_rllib
from offload_rllib.config import ConfigError
from offload_rllib.envs.rendering import table
from offload_rllib.envs.vector import training_key

SHORT = ["decisions={when: arrival, max_hops: 2}", "horizon_s=60", "warmup_s=0", "drain_s=0"]
# Those share the compiled kernels of the tests beside these.
PRESETS = ("ether_12", "herd_20", "manual_5", "ether_12_unreliable", "geometric_20_resampled", "cloud_ether_12")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_the_checks_of_pettingzoo_and_gymnasium(name: str) -> None:
    overrides = [*SHORT, *(["decisions.max_destinations=6"] if name.endswith("resampled") else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names and of observations that are mappings
        api_test(offload_rllib.aec_env(name, overrides=overrides), num_cycles=100, verbose_progress=False)
        check_env(offload_rllib.gym_env(name, overrides=overrides), skip_render_check=True)
    seed_test(lambda: offload_rllib.aec_env(name, overrides=overrides), num_cycles=50)
    parallel_api_test(offload_rllib.parallel_env(name, overrides=overrides), num_cycles=100)
    parallel_seed_test(lambda: offload_rllib.parallel_env(name, overrides=overrides), num_cycles=30)


def native_episode(seed: int, **changes: Any) -> Any:
    """Return the native environment at the first decision of the episode that the faces play after a seed."""
    native = make_env(at_once(**changes))
    native.reset(np.array([training_key(seed, 0, 0, 0)], np.uint64))
    return native


def test_rllib_names_who_decides_and_at_the_end_everybody() -> None:
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    native = native_episode(7, reward={"scope": "own"})
    rllib = OffloadMultiAgentEnv({"env": at_once(reward={"scope": "own"}), "seed": 7})
    asked, infos = rllib.reset(seed=0)
    rewards = {native.agents[native.deciding[0]]: native.rewards[0]}
    truncated = {"__all__": False}
    steps = 0
    while not native.truncated[0]:
        agent = native.agents[native.deciding[0]]
        assert list(asked) == list(rewards) == list(infos) == [agent]
        assert (asked[agent]["observations"] == native.observations[0]).all()
        assert (asked[agent]["action_mask"] == native.masks[0]).all()
        assert infos[agent] == {"time_s": native.time_s[0], "elapsed_s": native.elapsed_s[0]}
        assert rewards[agent] == native.rewards[0]
        assert not truncated["__all__"]
        action = int(native.heuristic_actions("random")[0])
        native.step(np.array([action]))
        asked, rewards, terminated, truncated, infos = rllib.step({agent: action})
        assert not any(terminated.values())
        steps += 1
    assert steps > 30
    assert all(truncated[name] for name in (*native.agents, "__all__"))
    observations, masks, closing, elapsed_s = native.closing(0)
    for i, agent in enumerate(native.agents):
        assert (asked[agent]["observations"] == observations[i]).all()
        assert (asked[agent]["action_mask"] == masks[i]).all()
        assert rewards[agent] == closing[i]
        assert infos[agent] == {
            "time_s": 40.0,
            "elapsed_s": elapsed_s[i],
            "figures": native.episode_metrics(0),
        }


def test_pettingzoos_two_faces_play_the_same_episode() -> None:
    native = native_episode(7)
    aec, parallel = offload_rllib.aec_env(at_once()), offload_rllib.parallel_env(at_once())
    aec.reset(7)
    everybody, _ = parallel.reset(7)
    earned = {face: dict.fromkeys(native.agents, 0.0) for face in ("aec", "parallel")}
    while not native.truncated[0]:
        agent = native.agents[native.deciding[0]]
        assert agent == aec.agent_selection == parallel.deciding_agent
        observation, reward, _, _, info = aec.last()
        assert observation is not None
        for seen in (observation, everybody[agent], aec.observe(agent)):
            assert (seen["observation"] == native.observations[0]).all()
            assert (seen["action_mask"] == native.masks[0]).all()
        assert all(seen["action_mask"][1:].sum() == 0 for name, seen in everybody.items() if name != agent)
        assert (parallel.state() == native.observe_all(0)[0].reshape(-1)).all()
        assert info == {"time_s": native.time_s[0], "elapsed_s": native.elapsed_s[0]}
        assert reward == native.rewards[0]
        earned["aec"][agent] += reward
        action = int(native.heuristic_actions("random")[0])
        native.step(np.array([action]))
        aec.step(action)
        everybody, rewards, _, _, _ = parallel.step({agent: action})
        for name in native.agents:
            earned["parallel"][name] += rewards[name]
    observations, _, closing, _ = native.closing(0)
    while aec.agents:
        i = native.agents.index(aec.agent_selection)
        observation, reward, terminated, truncated, info = aec.last()
        assert observation is not None
        assert (terminated, truncated) == (False, True)
        assert (observation["observation"] == observations[i]).all()
        assert (everybody[aec.agent_selection]["observation"] == observations[i]).all()
        assert reward == closing[i]
        assert info["figures"] == native.episode_metrics(0)
        earned["aec"][aec.agent_selection] += reward
        aec.step(None)
    # What was earned is the same, counted by step or by decision.
    assert earned["aec"] == pytest.approx(earned["parallel"], rel=1e-5, abs=1e-5)
    assert sum(earned["aec"].values()) < -10


def test_the_central_agent_is_asked_one_question_at_a_time() -> None:
    native = native_episode(5, reward={"scope": "team"})
    central = offload_rllib.gym_env(at_once())
    seen, info = central.reset(seed=5)
    assert isinstance(central.action_space, spaces.Discrete)
    assert central.spec is not None
    assert central.spec.max_episode_steps is None
    total = 0.0
    while not native.truncated[0]:
        assert central.observation_space.contains(seen)
        assert (seen["observations"] == native.observations[0]).all()
        assert (central.action_masks() == (native.masks[0] == 1)).all()
        assert seen["agent"] == native.deciding[0]
        assert info["time_s"] == native.time_s[0]
        action = native.heuristic_actions("random")
        before_s = native.time_s[0]
        native.step(action)
        seen, reward, terminated, truncated, info = central.step(action[0])
        assert (terminated, truncated) == (False, native.truncated[0])
        assert reward <= 0
        assert reward < 0 or native.time_s[0] == before_s
        total += reward
    assert "figures" in info
    assert total < -10
    with pytest.raises(ValueError, match=r"an action has shape \(\), is \(1,\)"):
        central.step(np.zeros(1, int))


def test_what_the_others_give_is_left_unread() -> None:
    env, same = offload_rllib.parallel_env(at_once()), offload_rllib.parallel_env(at_once())
    env.reset(1)
    same.reset(1)
    while env.agents:
        agent = env.deciding_agent
        assert agent is not None
        first = env.step(dict.fromkeys(env.agents, 1))
        second = same.step({agent: 1})
        assert first[1] == second[1]
    assert env.steps_per_episode is None
    assert env.deciding_agent is None


def test_a_clock_has_no_face_for_one_agent_at_a_time() -> None:
    with pytest.raises(ConfigError, match=r"decisions.when: interval lets all agents.*Accepted here: arrival"):
        offload_rllib.aec_env(small_environment())


def test_an_episode_without_a_decision_is_skipped() -> None:
    rare = at_once()
    rare["workload"]["load"] = {"tasks_per_second_per_client": 0.01}
    env = offload_rllib.aec_env(rare)
    env.reset(0)
    assert env.infos[env.agent_selection]["time_s"] < 40
    rare["workload"]["load"] = {"tasks_per_second_per_client": 1e-12}
    with pytest.raises(ConfigError, match=r"workload: 1,000 episodes without a single decision"):
        offload_rllib.gym_env(rare).reset(seed=0)


@pytest.mark.parametrize("face", ["aec_env", "parallel_env", "gym_env"])
def test_every_face_can_be_rendered(face: str) -> None:
    env: Any = getattr(offload_rllib, face)(at_once(), render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert "decision 1" in text
    assert text == table(env._batch)
