"""One agent for all nodes, as Gymnasium has it; and what environments look like."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.environments import make_env, small_environment

import offload_rllib
from offload_rllib.config import presets
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.central import ENV_ID, OffloadGymEnv
from offload_rllib.envs.rendering import queue_fill, table
from offload_rllib.envs.vector import training_key

SHORT = ["horizon_s=60", "warmup_s=0", "drain_s=0"]


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
@pytest.mark.parametrize("name", sorted(presets("envs")))
def test_every_preset_passes_gymnasiums_checks(name: str, render_mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An environment that was not made by gymnasium.make has no spec to be made again from, for other render modes.
        warnings.filterwarnings("ignore", message=".*spec.*")
        check_env(offload_rllib.gym_env(name, overrides=SHORT, render_mode=render_mode), skip_render_check=True)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_central_agent_plays_what_the_agents_play(tasks: int) -> None:
    environment = small_environment(reward={"scope": "team"}, decisions={"tasks_per_decision": tasks})
    native, central = make_env(environment), OffloadGymEnv(environment)
    native.reset(np.array([training_key(5, 0, 0, 0)], np.uint64))
    seen, _ = central.reset(seed=5)
    assert central.agents == native.agents
    assert isinstance(central.action_space, gymnasium.spaces.MultiDiscrete)
    assert central.action_space.nvec.tolist() == [3] * 4 * tasks
    rng = np.random.default_rng(0)
    total = 0.0
    done = False
    while not done:
        assert central.observation_space.contains(seen)
        assert (seen["observations"] == native.observations[0]).all()
        assert (seen["action_mask"] == native.masks[0].reshape(-1, 3)).all()
        actions = rng.integers(0, 3, native.masks.shape[:-1])
        done = native.step(actions)
        seen, reward, terminated, truncated, info = central.step(actions.reshape(-1))
        assert reward == float(native.rewards[0, 0]) == float(native.rewards[0, 3])
        assert (terminated, truncated) == (False, done)
        assert ("figures" in info) == done
        total += reward
    assert total < 0
    assert not np.allclose(central.reset()[0]["observations"], 0)


def test_its_reward_is_the_teams_whatever_the_scope() -> None:
    own, team = (OffloadGymEnv(small_environment(reward={"scope": scope})) for scope in ("own", "team"))
    for env in (own, team):
        env.reset(seed=1)
    for _ in range(20):
        actions = own.action_space.sample()
        assert own.step(actions)[1] == team.step(actions)[1]


def test_it_is_registered_with_gymnasium() -> None:
    program = (
        "import gymnasium\n"
        "env = gymnasium.make('offload_rllib.envs.central:offload/Offload-v0', env='ether_12', "
        "overrides=['horizon_s=20', 'warmup_s=0', 'drain_s=0'], render_mode='ansi')\n"
        "env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "print(env.render().count('rpi3_'))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, timeout=300, capture_output=True, text=True)
    assert found.stdout.strip() == "8"
    env = gymnasium.make(ENV_ID, env=small_environment())
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[3] is False


def test_actions_of_another_size_are_refused() -> None:
    env = OffloadGymEnv(small_environment())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"an action has shape \(4,\) \(agents x tasks\), is \(3,\)"):
        env.step(np.zeros(3, int))


def test_the_table_shows_the_true_state_of_every_node() -> None:
    environment = small_environment(agents={"nodes": ["a", "b"], "others": "random"}, decisions={"max_hops": 1})
    environment["agents"]["nodes"] = ["a"]
    env = make_env(environment)
    for _ in range(12):
        env.step(env.heuristic_actions("random"))
    lines = table(env).splitlines()
    assert lines[0].startswith("12 s, step 12 of 40: ")
    rows = {line.split()[0]: line.split() for line in lines[2:]}
    assert list(rows) == ["a", "b", "c", "d"]
    assert [row[1] for row in rows.values()] == ["agent", "-", "rule", "-"]
    node = env.state.node[0]
    for n, row in enumerate(rows.values()):
        held, waiting, served = map(int, row[2:5])
        assert (held, served) == (node[n]["held"], node[n]["busy"])
        assert held + waiting + served == node[n]["tasks"] == int(row[5].split("/")[0])
    assert rows["d"][5].endswith("/inf")
    assert rows["a"][8] == f"{env.rewards[0, 0]:.3f}"


def faces(mode: str | None) -> list[Any]:
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    rllib = OffloadMultiAgentEnv({"env": small_environment(), "render_mode": mode})
    return [
        offload_rllib.parallel_env(small_environment(), render_mode=mode),
        offload_rllib.gym_env(small_environment(), render_mode=mode),
        rllib,
    ]


@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_every_face_renders(mode: str | None) -> None:
    pictures = []
    for env in faces(mode):
        env.reset(seed=3)
        pictures.append(env.render())
        assert env.render_mode == mode
    for picture in pictures:
        if mode is None:
            assert picture is None
        elif mode == "ansi":
            assert picture.startswith("0 s, step 0 of 40: 0 tasks made")
        else:
            assert picture.dtype == np.uint8
            assert picture.shape == (480, 560, 3)
            assert picture.std() > 10


def test_pictures_change_with_the_queues_and_come_fast() -> None:
    env = offload_rllib.parallel_env(small_environment(), render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert (env.render() == first).all()
    for _ in range(10):
        env.step({})
    assert queue_fill(env._batch).max() > 0
    assert (env.render() != first).any()
    start = time.process_time()
    for _ in range(5):
        env.render()
    assert (time.process_time() - start) / 5 < 1.0


def test_unknown_render_modes_are_refused() -> None:
    for make in (offload_rllib.parallel_env, offload_rllib.gym_env):
        with pytest.raises(
            ConfigError, match=r"render_mode: 'html' is not offered. Accepted: human, ansi, rgb_array, None"
        ):
            make(small_environment(), render_mode="html")
