"""Large numbers are refused or shown as large: seeds, sizes of tasks and speeds, rows of a log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys, training_key
from offload_rllib.simulator.streams import episode_key


def test_seeds_beyond_32_bits_are_other_seeds() -> None:
    large = 2**32
    addresses = [
        (7,),
        (7, 3),
        (7, 0, 3),
        (7 + 3 * large,),
        (7 + 3 * large, 0),
        (7, 3 * large),
        (7 + 3 * large**2, 0),
        (large - 1, 1),
        (2 * large - 1,),
    ]
    keys = [int(key) for address in addresses for key in held_out_keys(address[0], 4)]
    assert len(set(keys)) == 4 * len({address[0] for address in addresses})
    keys = [
        training_key(seed, 0, environment, 0) for seed in (7, 7 + large) for environment in (0, 1, large, 1 + large)
    ]
    assert len(set(keys)) == len(keys)
    keys = [episode_key(1, *address) for address in addresses if len(address) == 2]
    assert len(set(keys)) == len(keys)
    with pytest.raises(ValueError, match="negative"):
        episode_key(-1, large)


def test_seeds_of_32_bits_play_the_episodes_that_they_always_have() -> None:
    assert episode_key(1, 0, 0) == int(np.random.SeedSequence((1, 0, 0)).generate_state(1, np.uint64)[0])
    assert episode_key(0, 2**32 - 1, 1, 0, 5) == int(
        np.random.SeedSequence((0, 2**32 - 1, 1, 0, 5)).generate_state(1, np.uint64)[0]
    )


def extreme(speed: float, work: float, bits: float, rate_bps: float, **changes: Any) -> dict[str, Any]:
    """Return the small environment with other sizes."""
    environment = small_environment(links={"kind": "fixed", "rate_bps": rate_bps, "latency_s": 0.05}, **changes)
    for node in environment["topology"]["nodes"]:
        node["instructions_per_second"] = speed
    environment["workload"]["jobs"]["types"] = [{"instructions": work, "bits_in": bits, "bits_out": bits}]
    return environment


LARGE, SMALL = 1e30, 1e-30


@pytest.mark.parametrize("ticks", [{}, {"tick_s": 1.0, "information": {"interval_s": 1.0}}], ids=["time", "ticks"])
@pytest.mark.parametrize("deadline_s", [None, LARGE, SMALL])
@pytest.mark.parametrize(
    ("speed", "work", "bits", "rate_bps"),
    [
        (LARGE, SMALL, LARGE, SMALL),
        (SMALL, LARGE, SMALL, LARGE),
        (LARGE, LARGE, LARGE, LARGE),
        (SMALL, SMALL, SMALL, SMALL),
        (1e6, 1e6, 1e38, 1e38),
    ],
)
def test_observations_stay_finite(
    speed: float, work: float, bits: float, rate_bps: float, deadline_s: float | None, ticks: dict[str, Any]
) -> None:
    environment = extreme(speed, work, bits, rate_bps, **ticks)
    environment["workload"]["deadline_s"] = deadline_s
    environment["score"] = {"drop_s": 40}
    if max(bits, rate_bps) > LARGE:
        with pytest.raises(ConfigError, match=r"its size must be between 1e-30 and 1e\+30"):
            load_environment(environment)
        return
    env = make_env(environment)
    low, high = env.observation_bounds
    rng = np.random.default_rng(0)
    while True:
        assert np.isfinite(env.observations).all()
        assert low <= env.observations.min()
        assert env.observations.max() <= high
        if env.step(random_actions(env, rng)):
            break


@pytest.mark.parametrize("value", [1e300, 1e-300, 1e31])
def test_numbers_that_no_network_has_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"instructions_per_second: its size must be between 1e-30 and 1e\+30"):
        load_environment(extreme(value, 1.0, 1.0, 1.0))


def test_a_long_log_needs_no_more_task_slots() -> None:
    environment = small_environment(horizon_s=2000)
    plain, logged = make_env(environment), make_env(environment, log=True)
    for env in (plain, logged):
        while not env.step(env.heuristic_actions("local")):
            pass
    assert len(logged.task_log(0)) > 10 * logged.state.task.shape[1]
    assert logged.state.task.shape == plain.state.task.shape
    assert logged.state.heap.shape == plain.state.heap.shape
