"""The algorithms, by the names that policy files give them."""

from __future__ import annotations

from ray.tune.registry import register_trainable

from offload_rllib.algorithms.a2c import A2C
from offload_rllib.algorithms.appo import APPO
from offload_rllib.algorithms.ddqn import DDQN
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.algorithms.ppo import PPO
from offload_rllib.envs.rllib import register_environments

ALGORITHMS: dict[str, type[OffloadAlgorithm]] = {"PPO": PPO, "A2C": A2C, "APPO": APPO, "DDQN": DDQN}


def register() -> list[str]:
    """Register every environment of `envs/` and this project's algorithms with RLlib and Tune.

    The algorithms are registered as ``OffloadPPO``, ``OffloadA2C``, ``OffloadAPPO`` and ``OffloadDDQN``.

    Returns:
        The names of the environments.
    """
    register_algorithms()
    return register_environments()


def register_algorithms() -> list[str]:
    """Register every algorithm with Tune and RLlib, as ``Offload`` and its name.

    Returns:
        What they are registered as.
    """
    for name, algorithm in ALGORITHMS.items():
        register_trainable(f"Offload{name}", algorithm)
    return [f"Offload{name}" for name in ALGORITHMS]
