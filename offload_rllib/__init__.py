"""Train, tune and compare multi-agent task-offloading policies for edge networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offload_rllib.version import __version__

if TYPE_CHECKING:
    from offload_rllib.api import (
        aec_env,
        check,
        configure,
        gym_env,
        held_out_keys,
        load_policy,
        parallel_env,
        register,
        vector_env,
        write_replay,
    )

__all__ = [
    "__version__",
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


def __getattr__(name: str) -> Any:
    """Import the public functions on first use: the simulator works without ray and torch imported."""
    if name in __all__:
        from offload_rllib import api

        return getattr(api, name)
    raise AttributeError(f"module 'offload_rllib' has no attribute '{name}'")
