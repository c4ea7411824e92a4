"""Weights that a training starts with: those of saved policies, and of their critics where these were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import read_bytes
from offload_rllib.config.policy import Network
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.saved import (
    DESCRIPTION,
    PolicyDescription,
    SavedPolicy,
    load_description,
    load_saved_policy,
    packed,
    version_of,
)
from offload_rllib.policies.sharing import Assignment, device_types
from offload_rllib.simulator.types import Array

CRITIC = "critic"
TAKEN = "taken over"
OUTPUTS = {"logits": "PPO, A2C or APPO", "values": "DDQN"}
SHAPE_KEYS = ("kind", "hidden", "activation", "heads", "memory", "module")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Target:
    """What is to be trained.

    Attributes:
        output: what its networks give, as `PolicyDescription.output`.
        network: of every policy.
        dueling: whether networks of action values have a value stream.
        assignment: of policies to the agents of the environment.
        prefix: what the names of the weights of actor or action values begin with in a module.
        shapes: of all weights of a module, by name.
    """

    output: str
    network: Network
    dueling: bool
    assignment: Assignment
    prefix: str
    shapes: Shapes


@dataclass(frozen=True)
class WarmStart:
    """Weights that a training starts with.

    Attributes:
        about: where they come from, in plain values: what a run records.
        modules: for each policy that is trained, weights of its module by name; others stay as they are drawn.
    """

    about: dict[str, Any]
    modules: dict[str, dict[str, Array]] = field(repr=False)


def save_critics(folder: Path, critics: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the weights of critics, by policy, beside those of `saved.save_policies`; only `warm_start` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in critics.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, _critic_file(folder, name)
        )


def _critic_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.{CRITIC}.safetensors"


def source_files(folder: Path) -> dict[str, bytes]:
    """Return the files that a training needs to start from the policies of a folder, by name."""
    critics = (_critic_file(folder, name) for name in load_description(folder).serves)
    return packed(folder) | {path.name: read_bytes(path) for path in critics if path.is_file()}


def warm_start(folder: Path, env: NativeEnv, target: Target) -> WarmStart:
    """Return the weights of saved policies for the modules of a training.

    Every policy that is trained gets the weights of the one that acts for its agents by the rule of the source.

    Args:
        folder: with the policies of the source.
        env: where is trained.
        target: what is trained.

    Raises:
        ConfigError: the folder holds no policy that can be read, or its policies do not fit: by their output, their
            network, their observations, their moments of decision, or because agents of one policy have several there.
    """
    description = load_description(folder)
    _refuse_other_network(folder / DESCRIPTION, description, target)
    try:
        description.check_fits(env)
        acting = description.assignment.applied_to(env.agents, device_types(env.scenario))
    except ConfigError as error:
        raise ConfigError(f"{folder / DESCRIPTION}: {error}") from error
    sources = {name: _source_of(folder, name, acting, target) for name in target.assignment.policies}
    # What code the source names is the code that the policy file names: they were compared.
    saved = load_saved_policy(folder, trust=True)
    wanted = {name: shape for name, shape in target.shapes.items() if name.startswith(f"{CRITIC}.")}
    modules, problems = {}, set()
    for name, source in sources.items():
        critic, problem = _critic_of(folder, source, wanted)
        modules[name] = _of_actor(folder, saved, source, target) | critic
        problems.add(problem)
    about = {
        "folder": str(folder),
        "version": version_of(packed(folder)),
        "algorithm": description.algorithm,
        "environment": description.environment,
        "env_steps": description.env_steps,
        "policies": sources,
    }
    if wanted:
        about[CRITIC] = "; ".join(sorted(filter(None, problems))) or TAKEN
    return WarmStart(about, modules)


def _refuse_other_network(path: Path, description: PolicyDescription, target: Target) -> None:
    """Reject a source whose networks are of another kind than those that are trained."""
    if description.output != target.output:
        raise ConfigError(
            f"{path}: output: {description.output} ({description.algorithm}); accepted: {target.output}, of a policy "
            f"that was trained with {OUTPUTS[target.output]}"
        )
    for key in SHAPE_KEYS:
        theirs, mine = getattr(description.network, key), getattr(target.network, key)
        if theirs != mine:
            raise ConfigError(
                f"{path}: network.{key}: {_shown(theirs)}; accepted: {_shown(mine)}, as the policy that is trained has "
                f"it. To train one like the source: --set-policy network.{key}={_shown(theirs)}"
            )
    if description.output == "values" and description.dueling != target.dueling:
        theirs, mine = _shown(description.dueling), _shown(target.dueling)
        raise ConfigError(
            f"{path}: dueling: {theirs}; accepted: {mine}, as the policy that is trained has it. To train one like the "
            f"source: --set-policy algorithm.dueling={theirs}"
        )


def _shown(value: Any) -> str:
    """Return a value as a person would give it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return {True: "true", False: "false", None: "null"}.get(value, str(value))


def _source_of(folder: Path, name: str, acting: Assignment, target: Target) -> str:
    """Return the policy of the source that acts for all agents of a policy that is trained."""
    found = {acting.policy_of[i]: acting.agents[i] for i in target.assignment.indices(name)}
    if len(found) > 1:
        listed = " and ".join(f"'{source}' (agent '{agent}')" for source, agent in list(found.items())[:2])
        raise ConfigError(
            f"{folder / DESCRIPTION}: sharing: {acting.kind}: policy '{name}' would start from {listed}; accepted: a "
            f"source with one policy for all its agents, or a policy with sharing: {acting.kind}"
        )
    return next(iter(found))


def _of_actor(folder: Path, saved: SavedPolicy, source: str, target: Target) -> dict[str, Array]:
    weights = {f"{target.prefix}{key}": value.numpy() for key, value in saved.networks[source].state_dict().items()}
    wanted = {name: shape for name, shape in target.shapes.items() if name.startswith(target.prefix)}
    misfits = _misfits({name: value.shape for name, value in weights.items()}, wanted)
    if misfits:
        raise ConfigError(f"{folder / f'{source}.safetensors'}: {misfits}")
    return weights


def _critic_of(folder: Path, source: str, wanted: Shapes) -> tuple[dict[str, Array], str]:
    """Return the weights of a critic; none, and why, if the source kept none or another one."""
    path = _critic_file(folder, source)
    if not wanted:
        return {}, ""
    if not path.is_file():
        return {}, "new: the source has none"
    try:
        tensors = load(read_bytes(path))
    except SafetensorError as error:
        raise ConfigError(f"{path}: not the weights of a critic ({error}); without the file it is a new one") from error
    weights = {f"{CRITIC}.{key}": value.numpy() for key, value in tensors.items()}
    if _misfits({name: value.shape for name, value in weights.items()}, wanted):
        return {}, "new: that of the source is another network"
    if not all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in tensors.values()):
        raise ConfigError(f"{path}: must be finite numbers of 32 bits; without the file the critic is a new one")
    return weights, ""


def _misfits(given: Mapping[str, tuple[int, ...]], wanted: Shapes) -> str:
    """Return the first weight of another size, or nothing."""
    for name in sorted({*given, *wanted}):
        one, other = given.get(name), wanted.get(name)
        if one is None or other is None or tuple(one) != tuple(other):
            return f"{name} is {one and tuple(one)}; the network that is trained has {other and tuple(other)}"
    return ""
