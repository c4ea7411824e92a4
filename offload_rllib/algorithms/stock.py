"""What RLlib's own algorithms need to train on these environments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from offload_rllib.algorithms.offload_algorithm import FINGERPRINT
from offload_rllib.algorithms.settings import OffloadConfig
from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.config.ddqn import DDQN
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.rllib import register_environments
from offload_rllib.policies.module import MaskedActorCritic, MaskedAPPO, MaskedQ
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.callbacks import OffloadCallback

Config = TypeVar("Config", bound=AlgorithmConfig)

# A subclass stands before its base: APPO is an IMPALA to RLlib.
MODULES: tuple[tuple[type[AlgorithmConfig], type], ...] = (
    (APPOConfig, MaskedAPPO),
    (IMPALAConfig, MaskedActorCritic),
    (PPOConfig, MaskedActorCritic),
    (DQNConfig, MaskedQ),
)
# RLlib's default replay is for a single agent, and fails at the first update of several.
DEFAULTS = DDQN(name="DDQN")
REPLAY = {
    "type": "MultiAgentPrioritizedEpisodeReplayBuffer",
    "capacity": DEFAULTS.replay_capacity,
    "alpha": DEFAULTS.priority_alpha,
    "beta": DEFAULTS.priority_beta,
}


def map_to_shared(agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
    """Return the name of the one policy: a `policy_mapping_fn` that checkpoints can hold."""
    return SHARED


def configure(
    config: Config,
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
) -> Config:
    """Set in RLlib's configuration what an environment of this package needs; what is set can be changed afterwards.

    The environment; one policy for all agents, named ``shared``; the mask-aware module that the algorithm takes (all
    keys of its `model_config` have defaults); a replay memory for several agents, for DQN; and `OffloadCallback`.

    Args:
        config: a `PPOConfig`, `APPOConfig`, `IMPALAConfig` or `DQNConfig` of RLlib, or a configuration of this package.
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        overrides: ``a.b=value`` texts.

    Returns:
        The same object.

    Raises:
        ConfigError: the environment is invalid, or there is no module for the algorithm.
    """
    environment = load_environment(env, overrides)
    register_environments()
    config.environment(
        "offload", env_config={"env": environment.model_dump(mode="json"), FINGERPRINT: fingerprint(environment)}
    )
    config.multi_agent(policies={SHARED}, policy_mapping_fn=map_to_shared)
    config.callbacks(OffloadCallback)
    if not isinstance(config, OffloadConfig):
        module_class = next((module for kind, module in MODULES if isinstance(config, kind)), None)
        if module_class is None:
            accepted = ", ".join(kind.__name__ for kind, _ in MODULES)
            raise ConfigError(
                f"config: no mask-aware module for {type(config).__name__}; accepted: {accepted}, and the "
                "configurations of offload_rllib.algorithms"
            )
        config.rl_module(rl_module_spec=RLModuleSpec(module_class=module_class))
    if isinstance(config, DQNConfig):
        config.training(replay_buffer_config=REPLAY)
    return config
