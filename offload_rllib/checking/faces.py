"""Checks of the faces of an environment: those that PettingZoo, Gymnasium and RLlib ship."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.envs.aec import OffloadAECEnv
from offload_rllib.envs.central import OffloadGymEnv
from offload_rllib.envs.parallel import OffloadParallelEnv

CYCLES = 60


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the checkers print, and their warnings about names and about observations that are mappings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _lenient(config: EnvironmentConfig) -> EnvironmentConfig:
    """Return the configuration for checkers that sample without masks."""
    return load_environment(config, ["decisions.strict=false"])


def pettingzoo_parallel(config: EnvironmentConfig) -> str:
    """Run PettingZoo's checks of a `ParallelEnv`."""
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    lenient = _lenient(config)
    with _quiet():
        parallel_api_test(OffloadParallelEnv(lenient), num_cycles=CYCLES)
        parallel_seed_test(lambda: OffloadParallelEnv(lenient), num_cycles=CYCLES // 2)
    return "parallel_api_test, parallel_seed_test"


def pettingzoo_aec(config: EnvironmentConfig) -> str:
    """Run PettingZoo's checks of an `AECEnv`; of a clocked environment, as PettingZoo converts it."""
    from pettingzoo.test import api_test, seed_test
    from pettingzoo.utils import parallel_to_aec

    lenient = _lenient(config)
    arrival = lenient.decisions.when == "arrival"

    def make() -> Any:
        return OffloadAECEnv(lenient) if arrival else parallel_to_aec(OffloadParallelEnv(lenient))

    with _quiet():
        api_test(make(), num_cycles=CYCLES, verbose_progress=False)
        seed_test(make, num_cycles=CYCLES // 2)
    return "api_test, seed_test" + ("" if arrival else " of parallel_to_aec")


def gymnasium(config: EnvironmentConfig) -> str:
    """Run Gymnasium's check of the central agent."""
    from gymnasium.utils.env_checker import check_env

    with _quiet():
        check_env(OffloadGymEnv(_lenient(config)), skip_render_check=True)
    return "check_env of the central agent"


def rllib(config: EnvironmentConfig) -> str:
    """Run RLlib's check of a `MultiAgentEnv`."""
    from ray.rllib.utils.pre_checks.env import check_multiagent_environments

    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    with _quiet():
        check_multiagent_environments(OffloadMultiAgentEnv({"env": _lenient(config).model_dump(mode="json")}))
    return "check_multiagent_environments"


FACES: dict[str, Callable[[EnvironmentConfig], str]] = {
    "PettingZoo, parallel": pettingzoo_parallel,
    "PettingZoo, AEC": pettingzoo_aec,
    "Gymnasium": gymnasium,
    "RLlib": rllib,
}
