"""Three faces of one environment: native batches, PettingZoo, RLlib."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers.environments import make_env, small_environment
from pettingzoo.test import parallel_api_test, parallel_seed_test

import offload_rllib
from offload_rllib.config import presets
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.vector import training_key

SHORT = ["horizon_s=60", "warmup_s=0", "drain_s=0"]


@pytest.mark.parametrize("name", sorted(presets("envs")))
def test_every_preset_passes_pettingzoos_checks(name: str) -> None:
    parallel_api_test(offload_rllib.parallel_env(name, overrides=SHORT), num_cycles=150)
    parallel_seed_test(lambda: offload_rllib.parallel_env(name, overrides=SHORT), num_cycles=50)


def test_observations_lie_in_their_space() -> None:
    env = offload_rllib.parallel_env(small_environment())
    observations, infos = env.reset(3)
    truncated: dict[str, bool] = {}
    rng = np.random.default_rng(0)
    while env.agents:
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation)
        observations, rewards, terminated, truncated, infos = env.step(
            {agent: int(rng.integers(0, 3)) for agent in env.agents}
        )
        assert not any(terminated.values())
        assert set(rewards) == set(env.possible_agents)
    assert all(truncated.values())
    assert all("figures" in info for info in infos.values())


def test_all_faces_play_the_same_episode() -> None:
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    native = make_env(small_environment())
    native.reset(np.array([training_key(7, 0, 0, 0)], np.uint64))
    parallel = OffloadParallelEnv(small_environment())
    rllib = OffloadMultiAgentEnv({"env": small_environment(), "seed": 7})
    keys = ("observation", "observations")
    seen = parallel.reset(7)[0], rllib.reset(seed=0)[0]
    rng = np.random.default_rng(0)
    done = False
    while not done:
        for i, agent in enumerate(native.agents):
            for key, face in zip(keys, seen, strict=True):
                assert (face[agent][key] == native.observations[0, i]).all()
                assert (face[agent]["action_mask"] == native.masks[0, i]).all()
        chosen = rng.integers(0, native.num_actions, native.rewards.shape)
        actions = dict(zip(native.agents, chosen[0].tolist(), strict=True))
        done = native.step(chosen)
        first, second = parallel.step(actions), rllib.step(actions)
        seen = first[0], second[0]
        for step in (first, second):
            assert list(step[1].values()) == pytest.approx(native.rewards[0].tolist(), abs=0)
        assert second[3]["__all__"] == done
        assert not second[2]["__all__"]


def test_a_series_of_episodes_goes_on_and_a_seed_starts_it_again() -> None:
    env = offload_rllib.parallel_env(small_environment())
    created = []
    for seed in (1, None, None, 1, None):
        env.reset(seed)
        for _ in range(5):
            env.step({})
        created.append(env._batch.state.heap[0]["time_s"][:4].tolist())
    assert created[0] == created[3]
    assert created[1] == created[4]
    assert created[0] != created[1] != created[2]


class Context(dict):
    """What RLlib gives an environment's creator: a mapping with the worker's index."""

    worker_index = 1


def first_keys(seed: int, worker: int, rllib_seeds: list[int | None], episodes: int = 3) -> list[int]:
    """Return the episodes that the environments of one of RLlib's workers play."""
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    keys = []
    for rllib_seed in rllib_seeds:
        context = Context(env=small_environment(), seed=seed)
        context.worker_index = worker
        env = OffloadMultiAgentEnv(context)
        env.reset(seed=rllib_seed)
        for _ in range(episodes):
            keys.append(int(env.parallel._batch.state.episode[0]["key"]))
            env.reset()
    return keys


def test_no_two_environments_of_a_run_or_of_neighbouring_runs_share_episodes() -> None:
    # RLlib gives worker 1 of a run with seed s the seeds s+1, s+2, ... and worker 2 s+2, s+3, ...: they overlap.
    keys = [
        key
        for run_seed in range(3)
        for worker in (1, 2)
        for key in first_keys(run_seed, worker, [run_seed + worker + index for index in range(3)])
    ]
    assert len(set(keys)) == len(keys) == 3 * 2 * 3 * 3
    unseeded = first_keys(0, 1, [None, None])
    assert len(set(unseeded)) == 6
    assert first_keys(1, 1, [5]) == first_keys(1, 1, [5])


def test_a_resumed_series_begins_where_no_episode_was() -> None:
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    env = OffloadMultiAgentEnv({"env": small_environment()})
    env.continue_series(1000)
    env.reset(seed=4)
    assert int(env.parallel._batch.state.episode[0]["key"]) == training_key(0, 0, 4, 1000)


def test_a_step_before_the_first_reset_is_refused() -> None:
    from offload_rllib.envs.vector import vector_env

    with pytest.raises(RuntimeError, match="none has begun; call reset"):
        vector_env(small_environment(), 2).step(np.zeros((2, 4)))
    with pytest.raises(RuntimeError, match="none has begun; call reset"):
        offload_rllib.parallel_env(small_environment()).step({})
    partly = vector_env(small_environment(), 2)
    partly.reset(np.array([1], np.uint64), np.array([0]))
    with pytest.raises(RuntimeError, match="none has begun; call reset"):
        partly.step(np.zeros((2, 4)))


@pytest.mark.parametrize("name", sorted(presets("envs")))
def test_every_registered_environment_can_be_made_and_passes_rllibs_checks(name: str) -> None:
    from ray.rllib.utils.pre_checks.env import check_multiagent_environments
    from ray.tune.registry import ENV_CREATOR, _global_registry

    offload_rllib.register()
    check_multiagent_environments(_global_registry.get(ENV_CREATOR, name)(Context()))


def test_every_environment_and_the_algorithm_are_registered_with_rllib() -> None:
    from ray.tune.registry import ENV_CREATOR, _global_registry, get_trainable_cls

    names = offload_rllib.register()
    assert set(names) == {"offload", *presets("envs")}
    for name in names:
        assert _global_registry.contains(ENV_CREATOR, name)
    assert all(get_trainable_cls(f"Offload{name}").__name__ == name for name in ("PPO", "A2C", "APPO", "DDQN"))


def test_the_simulator_works_without_ray_and_torch() -> None:
    program = (
        "import sys, offload_rllib\n"
        "env = offload_rllib.parallel_env('ether_12', overrides=['horizon_s=20', 'warmup_s=0', 'drain_s=0'])\n"
        "env.reset(0); env.step({})\n"
        "from offload_rllib.simulator.heuristics import HEURISTICS\n"
        "env._batch.heuristic_actions('local')\n"
        "loaded = [name for name in ('ray', 'torch') if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize("scope", ["own", "neighbourhood", "team"])
@pytest.mark.parametrize("name", ["delay", "sparse", "paper"])
def test_scopes_average_the_nodes_own_rewards(name: str, scope: str) -> None:
    own = make_env(small_environment(reward={"name": name, "scope": "own"}))
    scoped = make_env(small_environment(reward={"name": name, "scope": scope, "scale": 2.0}))
    arrays = own.scenario.arrays
    assert arrays.agent_node.tolist() == [0, 1, 2, 3], "all four nodes are agents, so that all own rewards are seen"
    done = False
    while not done:
        actions = own.heuristic_actions("random")
        own.step(actions)
        done = scoped.step(actions)
        values = own.rewards[0].astype(float)
        if scope == "team":
            expected = np.full(4, values.mean())
        elif scope == "neighbourhood":
            expected = np.array([values[[n, (n - 1) % 4, (n + 1) % 4]].mean() for n in range(4)])
        else:
            expected = values
        assert scoped.rewards[0] == pytest.approx(2 * expected, rel=1e-5, abs=1e-6)


def test_sparse_rewards_count_finished_minus_dropped() -> None:
    env = make_env(small_environment(reward={"name": "sparse", "scope": "own"}))
    total = 0.0
    done = False
    while not done:
        done = env.step(env.heuristic_actions("random"))
        total += float(env.rewards.sum())
    episode = env.state.episode[0]
    dropped = sum(int(episode[key]) for key in episode.dtype.names if key.startswith("dropped_"))
    assert total == int(episode["finished"]) - dropped


def test_paper_reward_is_the_published_formula() -> None:
    weights = {"waiting_weight": 2.0, "communication_weight": 3.0, "execution_weight": 5.0, "overload_weight": 7.0}
    environment = small_environment(
        reward={"name": "paper", "scope": "own", "utility": 11.0, **weights},
        information={"kind": "fresh"},
        deadlines={"expiry": "never"},  # then a wait is all the work over the speed; `test_waits` has the others
        score={"drop_s": 40},
    )
    env = make_env(environment)
    arrays = env.scenario.arrays
    mean_work = env.scenario.load.mean_work
    paid = 0
    done = False
    while not done:
        actions = env.heuristic_actions("random")
        state, now = env.state, float(env.state.episode[0]["now_s"])
        nodes = state.node[0].copy()
        tasks = state.task[0].copy()
        expected = []
        for agent in range(4):
            slot = int(nodes[agent]["held_head"])
            if slot < 0:
                expected.append(0.0)
                continue
            # Work waiting and in service, from the tasks themselves.
            work = [
                sum(t["work"] for t in tasks[(tasks["stage"] == 2) & (tasks["node"] == n)])
                + sum(
                    (t["service_end_s"] - now) * arrays.node[n]["core_speed"]
                    for t in tasks[(tasks["stage"] == 3) & (tasks["node"] == n)]
                )
                for n in range(4)
            ]
            speed = arrays.node["core_speed"] * arrays.node["servers"]
            action = int(actions[0, agent])
            a = agent if action == 0 else int(arrays.link[arrays.destination[agent, action]]["destination"])
            wait = work[agent] / speed[agent] + (work[a] / speed[a] if a != agent else 0)
            comm = 0.05 + tasks[slot]["bits_in"] / 1e6 if a != agent else 0
            execution = tasks[slot]["work"] / speed[a] - tasks[slot]["work"] / speed[agent]
            overload = 0.0
            if arrays.node[a]["capacity"] < 2**31 - 1:
                capacity = float(arrays.node[a]["capacity"])
                others = nodes[a]["tasks"] - (a == agent)
                after = min(max(0.0, others - speed[a] / mean_work) + 1, capacity)
                overload = -np.log10(max((capacity - after) / capacity, 0.001)) / 3
            expected.append(11 - (2 * wait + 3 * comm + 5 * execution + 7 * overload))
            paid += 1
        done = env.step(actions)
        assert env.rewards[0] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert paid > 50
