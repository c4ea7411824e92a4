"""Train, tune and compare multi-agent task-offloading policies for edge networks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offload_rllib.version import __version__

if TYPE_CHECKING:
    from offload_rllib.algorithms.registry import register
    from offload_rllib.algorithms.stock import configure
    from offload_rllib.checking.check import check
    from offload_rllib.envs.aec import aec_env
    from offload_rllib.envs.central import gym_env
    from offload_rllib.envs.parallel import parallel_env
    from offload_rllib.envs.remote.parallel import remote_env
    from offload_rllib.envs.remote.vector import remote_vector_env
    from offload_rllib.envs.vector import held_out_keys, vector_env
    from offload_rllib.evaluation.recording import record_decisions
    from offload_rllib.replay.write import write_replay
    from offload_rllib.runs.lookup import load_policy

__all__ = [
    "__version__",
    "aec_env",
    "check",
    "configure",
    "gym_env",
    "held_out_keys",
    "load_policy",
    "parallel_env",
    "record_decisions",
    "register",
    "remote_env",
    "remote_vector_env",
    "vector_env",
    "write_replay",
]

MODULES = {
    "aec_env": "envs.aec",
    "check": "checking.check",
    "configure": "algorithms.stock",
    "gym_env": "envs.central",
    "held_out_keys": "envs.vector",
    "load_policy": "runs.lookup",
    "parallel_env": "envs.parallel",
    "record_decisions": "evaluation.recording",
    "register": "algorithms.registry",
    "remote_env": "envs.remote.parallel",
    "remote_vector_env": "envs.remote.vector",
    "vector_env": "envs.vector",
    "write_replay": "replay.write",
}


def __getattr__(name: str) -> Any:
    """Import a public function on first use: the simulator works without ray and torch imported."""
    if name in MODULES:
        return getattr(import_module(f"offload_rllib.{MODULES[name]}"), name)
    raise AttributeError(f"module 'offload_rllib' has no attribute '{name}'")
