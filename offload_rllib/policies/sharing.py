"""Which agent uses which policy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.config.policy import PolicyConfig, Sharing
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array

SHARED = "shared"


def module_names(originals: Iterable[str]) -> dict[str, str]:
    """Return names of `[a-z0-9_]` for any texts, all different, e.g. of node names for files and modules.

    What two texts would share goes to the first of them in alphabetical order; the others get a number.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for original in sorted(set(originals)):
        plain = re.sub(r"[^a-z0-9]+", "_", original.lower()).strip("_") or "policy"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names[original] = name
    return names


@dataclass(frozen=True)
class Assignment:
    """The policy of every agent of an environment.

    Attributes:
        kind: of `config.policy.Sharing`.
        serves: for each policy the device types (`per_device`), names of agents (`per_node`) or either (`mapping`)
            that it acts for; empty: all agents (`shared`).
        agents: names, in the environment's order.
        policy_of: [A] the policy of each agent.
    """

    kind: str
    serves: Mapping[str, tuple[str, ...]]
    agents: tuple[str, ...]
    policy_of: tuple[str, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of all policies, `[a-z0-9_]`."""
        return tuple(self.serves)

    def indices(self, policy: str) -> Array:
        """Return the indices [a] int64 of the agents that a policy acts for."""
        return np.flatnonzero(np.array(self.policy_of) == policy)

    def owners(self, shape: tuple[int, ...]) -> Array:
        """Return the policy [N] int64, as its place in `policies`, of every row of an array of shape [..., A].

        Args:
            shape: [..., A], with N numbers in all; any shape if there is a single policy.

        Raises:
            ValueError: the last axis is not that of the agents.
        """
        if len(self.serves) == 1:
            return np.zeros(math.prod(shape), np.int64)
        if shape[-1:] != (len(self.policy_of),):
            raise ValueError(
                f"these policies are for {len(self.policy_of)} agents, got arrays of shape {shape}; "
                "`on` fits them to another environment"
            )
        return np.tile(self._owner_of_agents(), math.prod(shape[:-1]))

    def owners_of(self, agents: Array) -> Array:
        """Return the policy [N] int64, as its place in `policies`, of rows that belong to some agents.

        Args:
            agents: [N] int64, indices of agents; -1, where no agent decides, stands for any.

        Raises:
            ValueError: there is no such agent.
        """
        if len(self.serves) == 1:
            return np.zeros(len(agents), np.int64)
        if len(agents) and not -1 <= agents.min() <= agents.max() < len(self.policy_of):
            raise ValueError(
                f"these policies are for {len(self.policy_of)} agents, got {agents.min()} to {agents.max()}"
            )
        return self._owner_of_agents()[agents]

    def _owner_of_agents(self) -> Array:
        index = {name: i for i, name in enumerate(self.policies)}
        return np.array([index[name] for name in self.policy_of], np.int64)

    def applied_to(self, agents: Sequence[str], device_types: Sequence[str]) -> Assignment:
        """Return the assignment by the same rule of another environment's agents.

        Raises:
            ConfigError: the rule gives an agent no policy.
        """
        if self.kind == SHARED:
            return Assignment(self.kind, self.serves, tuple(agents), tuple(self.policies) * len(agents))
        served = {entry: policy for policy, entries in self.serves.items() for entry in entries}
        policy_of = []
        for agent, device_type in zip(agents, device_types, strict=True):
            keys = {"per_device": (device_type,), "per_node": (agent,), "mapping": (agent, device_type)}[self.kind]
            policy = next((served[key] for key in keys if key in served), None)
            if policy is None:
                raise ConfigError(
                    f"sharing ({self.kind}): agent '{agent}' (device type '{device_type}') has no policy; there are "
                    f"policies for: {_listed(served)}"
                )
            policy_of.append(policy)
        return Assignment(self.kind, self.serves, tuple(agents), tuple(policy_of))


def assign(sharing: Sharing, agents: Sequence[str], device_types: Sequence[str]) -> Assignment:
    """Return the policy of every agent.

    Args:
        sharing: the rule.
        agents: names of the agents.
        device_types: of their nodes, in the same order.

    Raises:
        ConfigError: an agent has no policy, or several; an entry of a mapping names nothing.
    """
    serves: dict[str, tuple[str, ...]]
    if sharing.kind == "mapping":
        serves = dict(sharing.mapping or {})
        _check_entries(serves, agents, device_types)
    elif sharing.kind == "shared":
        serves = {SHARED: ()}
    else:
        originals = device_types if sharing.kind == "per_device" else agents
        names = module_names(originals)
        serves = {names[original]: (original,) for original in dict.fromkeys(originals)}
    assignment = Assignment(sharing.kind, serves, (), ()).applied_to(agents, device_types)
    idle = [policy for policy in serves if policy not in assignment.policy_of]
    if idle:
        raise ConfigError(f"sharing.mapping.{idle[0]}: acts for no agent: all it names are given by name to others")
    return assignment


def assign_in(sharing: Sharing, scenario: BuiltScenario) -> Assignment:
    """Return the policy of every agent of a scenario; errors as `assign`."""
    return assign(sharing, scenario.agents, device_types(scenario))


def device_types(scenario: BuiltScenario) -> tuple[str, ...]:
    """Return the device type [A] of every agent's node; nodes that follow `agents.others` come after the agents."""
    return tuple(scenario.network.nodes[n].type for n in scenario.arrays.agent_node[: len(scenario.agents)])


def _check_entries(serves: Mapping[str, tuple[str, ...]], agents: Sequence[str], device_types: Sequence[str]) -> None:
    known = [*agents, *dict.fromkeys(device_types)]
    policy_of: dict[str, str] = {}
    for policy, entries in serves.items():
        for entry in entries:
            if entry not in known:
                raise ConfigError(
                    f"sharing.mapping.{policy}: '{entry}' is neither an agent's name nor the device type of one."
                    f"{nearest(entry, known)}"
                )
            if entry in policy_of:
                raise ConfigError(f"sharing.mapping: '{entry}' is given to '{policy_of[entry]}' and to '{policy}'")
            policy_of[entry] = policy


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


class PolicyMapping:
    """RLlib's `policy_mapping_fn`: agent -> policy. A class of this module, so that checkpoints hold no lambda."""

    def __init__(self, assignment: Assignment) -> None:
        """Take the agents of one environment; the assignment stays readable, for checkpoints."""
        self.assignment = assignment
        self.policy_of = dict(zip(assignment.agents, assignment.policy_of, strict=True))

    def __call__(self, agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
        """Return the policy of an agent; which episode it is does not matter."""
        return self.policy_of[agent_id]


def assignment_of(mapping: Any, modules: Sequence[str]) -> Assignment:
    """Return the assignment behind RLlib's `policy_mapping_fn`; with a single module any function will do.

    Raises:
        ConfigError: there are several modules, and the function is not a `PolicyMapping`.
    """
    if isinstance(mapping, PolicyMapping):
        return mapping.assignment
    if len(modules) == 1:
        return Assignment(SHARED, {modules[0]: ()}, (), ())
    raise ConfigError(
        f"policy_mapping_fn: to keep {len(modules)} policies it must be an offload_rllib.policies.sharing.PolicyMapping"
    )


def require_policies(config: PolicyConfig, assignment: Assignment) -> None:
    """Reject hyperparameters of an unknown policy.

    Raises:
        ConfigError: `policies` names one.
    """
    unknown = [name for name in config.policies if name not in assignment.serves]
    if unknown:
        raise ConfigError(
            f"policies.{unknown[0]}: no policy of that name with sharing: {assignment.kind}."
            f"{nearest(unknown[0], assignment.policies)}"
        )
