"""A long run needs no more memory than a short one, and logs no more keys."""

from __future__ import annotations

import gc
import time

import psutil
import pytest
from helpers.results import leaves

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.training.rllib_config import algorithm_config

AGENT_STEPS = 10_000_000
# By then allocators, caches and RLlib's windows are full.
WARM_UP_AGENT_STEPS = 2_000_000
# Below 5 bytes per agent step: an observation that stayed would alone be 632.
LARGEST_GROWTH_BYTES = 40e6
MOST_KEYS = 120


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_session")
def test_ten_million_agent_steps_hold_memory_and_result_keys() -> None:
    environment = load_environment("ether_12")
    policy = load_policy_config("ppo", ["training.runners=0", "training.envs_per_runner=8", "algorithm.epochs=2"])
    algorithm = algorithm_config(environment, policy, cpus=2).build_algo()
    process = psutil.Process()
    began, began_cpu = time.monotonic(), time.process_time()
    agents = 10
    warm = after = keys = 0
    try:
        while algorithm.env_steps * agents < AGENT_STEPS:
            result = algorithm.train()
            result.pop("config")
            keys = max(keys, leaves(result))
            if not warm and algorithm.env_steps * agents >= WARM_UP_AGENT_STEPS:
                gc.collect()
                warm = process.memory_info().rss
        gc.collect()
        after = process.memory_info().rss
    finally:
        algorithm.stop()
    print(
        f"{warm / 1e6:.0f} MB after {WARM_UP_AGENT_STEPS:,}, {after / 1e6:.0f} MB after {AGENT_STEPS:,} agent steps; "
        f"at most {keys} keys; {time.monotonic() - began:.0f} s, {time.process_time() - began_cpu:.0f} CPU s"
    )
    assert after - warm < LARGEST_GROWTH_BYTES
    assert keys < MOST_KEYS
