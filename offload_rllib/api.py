"""The functions of the public interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from offload_rllib.config import EnvironmentConfig
from offload_rllib.envs.aec import aec_env
from offload_rllib.envs.central import gym_env
from offload_rllib.envs.parallel import parallel_env
from offload_rllib.envs.vector import held_out_keys, vector_env

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from rich.progress import Progress

    from offload_rllib.checking.results import CheckReport
    from offload_rllib.config import PolicyConfig
    from offload_rllib.policies.policy import Policy
    from offload_rllib.replay.write import Replay

    Config = TypeVar("Config", bound=AlgorithmConfig)

__all__ = [
    "aec_env",
    "check",
    "configure",
    "gym_env",
    "held_out_keys",
    "load_policy",
    "parallel_env",
    "register",
    "vector_env",
    "write_replay",
]


def register() -> list[str]:
    """Register every environment of `envs/` and this project's algorithms with RLlib and Tune.

    The algorithms are registered as ``OffloadPPO``, ``OffloadA2C``, ``OffloadAPPO`` and ``OffloadDDQN``.

    Returns:
        The names of the environments.
    """
    from offload_rllib.algorithms.registry import register_algorithms
    from offload_rllib.envs.rllib import register_environments

    register_algorithms()
    return register_environments()


def configure(
    config: Config,
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
) -> Config:
    """Set in RLlib's configuration what an environment of this package needs; see `algorithms.stock.configure`."""
    from offload_rllib.algorithms.stock import configure as set_up

    return set_up(config, env, overrides=overrides)


def check(
    what: str | Path | Mapping[str, Any] | EnvironmentConfig | PolicyConfig,
    *,
    env: str | Path | Mapping[str, Any] | EnvironmentConfig | None = None,
    overrides: Iterable[str] = (),
    policy_overrides: Iterable[str] = (),
    seed: int = 0,
    trust: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Check an environment, a policy's file, or a trained policy; arguments and errors as `checking.check.check`."""
    from offload_rllib.checking.check import check as run

    return run(
        what,
        env=env,
        overrides=overrides,
        policy_overrides=policy_overrides,
        seed=seed,
        trust=trust,
        progress=progress,
    )


def load_policy(policy: str | Path, *, trust: bool = False) -> Policy:
    """Return a policy as a callable ``(observations, masks, deterministic=...) -> actions``, without ray.

    ``load_policy(...).on(env)`` fits it to the agents of a `VectorEnv`, which need not be those of training.

    Args:
        policy: folder of a run or of a checkpoint; the address of a service, ``http://HOST:PORT``; or a heuristic:
            its name, or a function ``package.module:function``.
        trust: run the Python code that a saved policy names (`network.module`).

    Raises:
        ConfigError: there is no such heuristic, or no policy in the folder.
        ServiceError: no service answers at the address.
    """
    from offload_rllib.runs.lookup import load_policy as look_up

    return look_up(policy, trust=trust)


def write_replay(
    path: str | Path,
    policies: Sequence[str | Path],
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    seed: int = 0,
    episode: int = 0,
    until_s: float | None = None,
    force: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Replay:
    """Write an episode as a page that moves; arguments and errors as `replay.write.write_replay`."""
    from offload_rllib.replay.write import write_replay as write

    return write(
        path,
        policies,
        env,
        overrides=overrides,
        seed=seed,
        episode=episode,
        until_s=until_s,
        force=force,
        trust=trust,
        progress=progress,
    )
