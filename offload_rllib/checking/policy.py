"""Checks of a policy: whether it fits an environment, what its networks choose, and what its budget buys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from offload_rllib.checking.episodes import MOST_STEPS, begin, steps_of
from offload_rllib.checking.results import Check, CheckFailed, Note
from offload_rllib.config import EnvironmentConfig, PolicyConfig
from offload_rllib.config.ddqn import DDQN
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv, held_out_keys
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy
from offload_rllib.policies.sharing import assign_in

EPISODES = 2
# The tutorial's rule of thumb: fewer episodes rarely teach anything.
FEWEST_EPISODES = 100


def saved_policy_checks(policy: SavedPolicy, environment: EnvironmentConfig, seed: int) -> Iterator[tuple[str, Check]]:
    """Yield name and function of every check of a trained policy."""
    yield "environment", lambda: trained_for(policy, environment, seed)
    yield "actions", lambda: valid_actions(policy, environment, seed)
    yield "same seed, same actions", lambda: same_actions(policy, environment, seed)


def policy_file_checks(config: PolicyConfig, environment: EnvironmentConfig, seed: int) -> Iterator[tuple[str, Check]]:
    """Yield name and function of every check of a policy's file."""
    yield "environment", lambda: trainable(config, environment)
    yield "budget", lambda: budget(config, environment, seed)
    yield "actions", lambda: valid_actions(untrained(config, environment, seed), environment, seed)
    yield "same seed, same actions", lambda: same_actions(untrained(config, environment, seed), environment, seed)


def trained_for(policy: SavedPolicy, environment: EnvironmentConfig, seed: int) -> str:
    """Check that a policy fits the environment; note if it was trained in another one."""
    fitted = policy.on(begin(environment, held_out_keys(seed, 1)))
    text = f"{policy.description.algorithm}, {len(fitted.networks)} policies for {len(fitted.assignment.agents)} agents"
    if policy.description.environment not in ("", fingerprint(environment)):
        return Note(f"{text}; trained in another environment (fingerprint {policy.description.environment})")
    return text


def trainable(config: PolicyConfig, environment: EnvironmentConfig) -> str:
    """Run the checks of `train`: the environment fits, code of the user is there, and RLlib takes the settings."""
    from offload_rllib.training.train import check as check_run

    check_run(environment, config)
    own = [config.network.module, config.algorithm.implementation, *config.training.callbacks]
    named = [name for name in (*own, *config.training.metrics.values()) if name]
    return f"{config.algorithm.name} can be trained" + (f"; found {', '.join(named)}" if named else "")


def budget(config: PolicyConfig, environment: EnvironmentConfig, seed: int) -> str:
    """Say how many episodes the budget has, with a note where these are few."""
    env = begin(environment, held_out_keys(seed, 1))
    steps = sum(1 for _ in _random_steps(env))
    env_steps = config.training.env_steps
    if not env.truncated[0]:
        return f"{env_steps:,} environment steps; an episode has over {MOST_STEPS:,}"
    episodes = env_steps / max(steps, 1)
    text = f"{env_steps:,} environment steps, about {episodes:,.0f} episodes of {steps:,}"
    return Note(f"{text}: fewer than {FEWEST_EPISODES} rarely suffice") if episodes < FEWEST_EPISODES else text


def _random_steps(env: NativeEnv) -> Iterator[int]:
    for step in steps_of(env):
        env.step(env.heuristic_actions("random"))
        yield step


def untrained(config: PolicyConfig, environment: EnvironmentConfig, seed: int) -> SavedPolicy:
    """Return the policies of a file for an environment, with the weights that they begin with."""
    env = begin(environment, held_out_keys(seed, 1))
    assignment, algorithm = assign_in(config.sharing, env.scenario), config.algorithm
    values = {"output": "values", "dueling": algorithm.dueling} if isinstance(algorithm, DDQN) else {}
    description = PolicyDescription.of(
        assignment,
        algorithm=algorithm.name,
        observation_size=env.observation_size,
        actions=env.num_actions,
        network=config.network,
        rows=env.layout.blocks,
        weights=env.layout.weights,
        environment="",
        env_steps=0,
        **values,
    )
    torch.manual_seed(seed)
    return SavedPolicy(description, {name: description.make_network() for name in assignment.serves})


def valid_actions(policy: SavedPolicy, environment: EnvironmentConfig, seed: int) -> str:
    """Check that no masked action is chosen, greedy and sampled; say how often tasks are kept."""
    kept = {}
    for way, deterministic in (("greedy", True), ("sampled", False)):
        choices = stays = 0
        for actions, masks in _played(policy, environment, seed, deterministic=deterministic):
            if not (np.take_along_axis(masks, actions[..., None], -1) == 1).all():
                raise CheckFailed(f"{way}: chose a masked action")
            asked = masks.sum(-1) > 1
            choices, stays = choices + int(asked.sum()), stays + int((actions[asked] == 0).sum())
        kept[way] = stays / max(choices, 1)
    return "all valid; tasks kept: " + ", ".join(f"{way} {share:.0%}" for way, share in kept.items())


def same_actions(policy: SavedPolicy, environment: EnvironmentConfig, seed: int) -> str:
    """Check that sampled actions follow from the seed."""
    runs = [
        [actions.tolist() for actions, _ in _played(policy, environment, seed, deterministic=False)] for _ in range(2)
    ]
    if runs[0] != runs[1]:
        raise CheckFailed("two episodes of the same seed have other actions")
    return "sampled twice"


def _played(
    policy: SavedPolicy, environment: EnvironmentConfig, seed: int, *, deterministic: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Play episodes; yield the actions and masks of the environments that are not at their end."""
    env = begin(environment, held_out_keys(seed, EPISODES))
    fitted = policy.on(env)
    fitted.seed(seed)
    for _ in steps_of(env):
        agents = env.deciding if isinstance(env, ArrivalEnv) else None
        actions = fitted(env.observations, env.masks, agents=agents, deterministic=deterministic)
        live = ~env.truncated
        yield actions[live], env.masks[live].copy()
        env.step(actions)
