"""Policies on disk: weights as safetensors, everything else as JSON; read back without ray and without pickle."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from offload_rllib.config.base import Flag, Natural, Schema, Share
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import read_bytes, read_json, written_at_once
from offload_rllib.config.loading import validated
from offload_rllib.config.policy import Network, PolicyName
from offload_rllib.config.trust import TRUST, trusts_all
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.layout import Blocks
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.draws import CallSeeds, row_draws
from offload_rllib.policies.fitting import When, misfit_of, other_embedding, other_form, unfounded
from offload_rllib.policies.network import Actor, QNetwork, epsilon_greedy
from offload_rllib.policies.objectives import other_weights
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.policies.remembering import REMEMBERS, Remembering, RememberingActor
from offload_rllib.policies.sharing import Assignment, device_types
from offload_rllib.scenario.functions import load_object
from offload_rllib.simulator.choice import choose_rows
from offload_rllib.simulator.types import Array

FORMAT_VERSION = 3
DESCRIPTION = "policy.json"
POLICY_FOLDER = "policy"  # inside a checkpoint, and inside a run
# More than any network here has.
LARGEST_SIZE = 2**24
# Agents evaluated at once. Temporaries of larger batches leave the processor's cache, at a third of the speed.
CHUNK = 1024


Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE, strict=True)]
RowSize = Annotated[int, Field(ge=0, le=LARGEST_SIZE, strict=True)]


class PolicyDescription(Schema):
    """The description of saved policies: their networks, and their origin."""

    format: Literal[3] = FORMAT_VERSION
    """Version of this format."""
    algorithm: str
    """What they were trained with."""
    output: Literal["logits", "values"] = "logits"
    """What the networks give for each action: logits of an `Actor`, or values of a `QNetwork`."""
    epsilon: Share = 0.0
    """With `values`: the share of random actions when actions are drawn; with 0.0 only ties are broken at random."""
    observation_size: Size
    """F of the environment they were trained on."""
    actions: Size
    """R of that environment."""
    network: Network
    """Of every policy."""
    rows: Annotated[tuple[RowSize, ...], Field(min_length=3, max_length=5)] = FULL_ROWS
    """The `envs.layout.Blocks` of an observation; networks of rows (`pointer`, `attention`) read the first three, and
    all the others, where broadcasts carry embeddings."""
    dueling: Flag = False
    """With `values`: whether the network has a value stream."""
    environment: str
    """Fingerprint of the environment they were trained on."""
    decides: When | None = None
    """`decisions.when` of that environment; null in folders written before it was noted, which are not checked."""
    weights: dict[str, RowSize] = Field(default={})
    """Where an observation has the weight of each objective, by name; empty: trained without (`reward.weights`)."""
    env_steps: Natural
    """Environment steps they were trained for."""
    sharing: Literal["shared", "per_device", "per_node", "mapping"] = "shared"
    """Which agents use the same policy; see `config.policy.Sharing`."""
    serves: dict[PolicyName, tuple[str, ...]] = Field(min_length=1)
    """For each policy, whose weights are in the file of its name: the agents that it acts for; see
    `sharing.Assignment`."""
    agents: tuple[str, ...]
    """Agents of the environment they were trained on."""
    policy_of: tuple[PolicyName, ...]
    """The policy of each agent."""

    @classmethod
    def of(cls, assignment: Assignment, **described: Any) -> PolicyDescription:
        """Return the description of policies with this assignment to agents; `described` are the other fields."""
        who = {
            "sharing": assignment.kind,
            "serves": dict(assignment.serves),
            "agents": assignment.agents,
            "policy_of": assignment.policy_of,
        }
        return cls.model_validate(who | described)

    @property
    def assignment(self) -> Assignment:
        """The assignment of policies in training."""
        return Assignment(self.sharing, self.serves, self.agents, self.policy_of)

    def make_network(self) -> nn.Module:
        """Return a network of the described shape, with weights that are still to be loaded.

        Raises:
            ConfigError: there is no class `network.module`, or it does not make networks.
        """
        if self.network.module is not None:
            return self._make_own_network(self.network.module)
        if self.network.memory:
            return RememberingActor(self.observation_size, self.actions, **self._shape, memory=self.network.memory)
        if self.output == "values":
            return QNetwork(self.observation_size, self.actions, **self._shape, dueling=self.dueling)
        return Actor(self.observation_size, self.actions, **self._shape)

    @property
    def blocks(self) -> Blocks:
        """`rows` by name."""
        return Blocks(*self.rows)

    @property
    def _shape(self) -> dict[str, Any]:
        return {key: getattr(self.network, key) for key in ("hidden", "activation", "kind", "heads")} | {
            "rows": self.blocks
        }

    def _make_own_network(self, path: str) -> nn.Module:
        make = getattr(load_object(path, "network.module"), "make_network", None)
        if make is None:
            raise ConfigError(f"network.module: {path} has no class method make_network")
        dueling = {"dueling": self.dueling} if self.output == "values" else {}
        return make(self.observation_size, self.actions, **self._shape, **dueling)

    def check_fits(self, env: NativeEnv) -> None:
        """Raise ConfigError if an environment's observations, actions or moments of decision do not fit."""
        misfit = other_weights(self.weights, env.layout.weights)
        misfit = misfit or self.misfit(env.observation_size, env.num_actions)
        misfit = misfit or other_embedding(self.blocks, env.layout.blocks)
        misfit = misfit or other_form(self.decides, env.scenario.config.decisions.when)
        if misfit:
            raise ConfigError(misfit)

    def rows_of(self, observations: Array, masks: Array) -> tuple[Array, Array]:
        """Return observations [..., F] and masks [..., R] as rows: [N, F] float32 and [N, R].

        Raises:
            ValueError: the arrays are not of the networks' sizes.
        """
        observations, masks = np.asarray(observations, np.float32), np.asarray(masks)
        misfit = self.misfit(observations.shape[-1], masks.shape[-1])
        if misfit:
            raise ValueError(misfit)
        return observations.reshape(-1, observations.shape[-1]), masks.reshape(-1, masks.shape[-1])

    def misfit(self, observation_size: int, actions: int) -> str:
        """Return why the networks do not fit an environment with these sizes, or nothing if they do."""
        return misfit_of(self.network, self.blocks, (self.observation_size, self.actions), (observation_size, actions))


def save_policies(folder: Path, description: PolicyDescription, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write `policy.json` and one safetensors file per policy into a folder; the description last.

    Args:
        folder: made if it is missing.
        description: of all the policies.
        weights: state of each policy's network (`PolicyDescription.make_network`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in weights.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors"
        )
    with written_at_once(folder / DESCRIPTION) as partial:
        partial.write_text(json.dumps(description.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


class SavedPolicy:
    """Trained policies of all agents of an environment: a plain callable from observations and masks to actions.

    Attributes:
        description: where they come from and what they expect.
        assignment: which agent uses which; at first for the agents of training, see `on`.
        networks: by policy.
        name: the folder that they are from; empty if they are from none.
    """

    def __init__(
        self,
        description: PolicyDescription,
        networks: Mapping[str, nn.Module],
        assignment: Assignment | None = None,
        name: str = "",
    ) -> None:
        """Wrap networks; use `load_saved_policy`."""
        self.name = name
        self.description = description
        self.assignment = assignment or description.assignment
        self.networks = {name: network.eval() for name, network in networks.items()}
        self._order = tuple(self.networks)
        self._draws = CallSeeds()
        self._remembers: Remembering | None = None

    def seed(self, seed: int) -> None:
        """Restart the draws of sampled actions."""
        self._draws.restart(seed)

    def for_agents(self, agents: Sequence[str], types: Sequence[str]) -> SavedPolicy:
        """Return these policies for other agents, by the sharing they were trained with.

        Args:
            agents: names, in the order of the observations.
            types: device types of their nodes.

        Raises:
            ConfigError: an agent is left without a policy.
        """
        assignment = self.description.assignment.applied_to(agents, types)
        return SavedPolicy(self.description, self.networks, assignment, self.name)

    def on(self, env: NativeEnv) -> SavedPolicy:
        """Return these policies for the agents of an environment.

        Raises:
            ConfigError: its observations, actions or moments of decision do not fit, or an agent is left without a
                policy.
        """
        try:
            self.description.check_fits(env)
            fitted = self.for_agents(env.agents, device_types(env.scenario))
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}" if self.name else str(error)) from error
        if self.description.network.memory and isinstance(env, ArrivalEnv):
            # Of this class: there is no other way to one that remembers.
            fitted._remembers = Remembering(env, self.description.network.memory)  # noqa: SLF001
        return fitted

    def __call__(
        self, observations: Array, masks: Array, *, agents: Array | None = None, deterministic: bool = True
    ) -> Array:
        """Return actions [..., A] int64, or [N] of some agents. With a single policy the axis of agents may be missing.

        Networks are evaluated where there is a choice; elsewhere the only valid action is taken. Policies that remember
        decide for the pending decisions of the environment that they were fitted to by `on`, and for no others.

        Args:
            observations: [..., A, F] float32.
            masks: [..., A, R], 1 where an action is valid.
            agents: [N] int64, the agents that N rows belong to, as where decisions are taken at arrivals; by default
                the last axis but one is that of all agents.
            deterministic: take the action of the highest score, the first of equal ones; otherwise draw: by the
                policy's probabilities, or with action values any valid action with the probability that `epsilon` says,
                and otherwise among the best.

        Raises:
            ValueError: the arrays are not of the policy's sizes, or it remembers and was not fitted to an environment.
        """
        seen, valid = self.description.rows_of(observations, masks)
        shape = np.shape(masks)[:-1]
        owners = self.assignment.owners(shape) if agents is None else self.assignment.owners_of(agents)
        draws = None
        if not deterministic:
            draws = row_draws(self._draws.next_call(), np.arange(len(valid)))
        if self._remembers is not None:
            scores, actions = self._remembers.scores(self.networks, owners, seen, valid), valid.argmax(-1)
            rows = np.flatnonzero(valid.sum(-1, dtype=np.int32) > 1)
            drawn = None if draws is None else draws[rows]
            actions[rows] = chosen_actions(scores[rows], scores[rows], valid[rows], drawn)
            return actions
        return self.act(seen, valid, owners, draws).reshape(shape)

    @torch.inference_mode()
    def act(self, observations: Array, masks: Array, owners: Array, draws: Array | None = None) -> Array:
        """Return actions [N] int64 for rows that may belong to any agents, in any order.

        Args:
            observations: [N, F] float32.
            masks: [N, R], 1 where an action is valid.
            owners: [N] int64, the policy of each row: its place in `description.serves`.
            draws: [N] float64 in [0, 1), random draws for sampled actions; NaN takes the action of the highest score,
                and so do all rows without draws.

        Raises:
            ValueError: the policies remember: rows alone do not say what.
        """
        if self.description.network.memory:
            raise ValueError(REMEMBERS)
        actions = masks.argmax(-1)
        for name, rows in self._choices(masks, owners):
            valid = masks[rows].astype(np.int8, copy=False)
            scores = logits = self.networks[name](torch.from_numpy(observations[rows]), torch.from_numpy(valid))
            if draws is not None and self.description.output == "values":
                logits = epsilon_greedy(scores, torch.from_numpy(valid), self.description.epsilon)
            drawn = None if draws is None else draws[rows]
            actions[rows] = chosen_actions(scores.numpy(), logits.numpy(), valid, drawn)
        return actions

    def _choices(self, masks: Array, owners: Array) -> Iterator[tuple[str, Array]]:
        """Yield policies and the rows [at most CHUNK] of `masks` [N, R] that they decide."""
        rows = np.flatnonzero(masks.sum(-1, dtype=np.int32) > 1)
        bounds = [0, len(rows)]
        if len(self._order) > 1:
            policies = owners[rows]
            rows = rows[np.argsort(policies, kind="stable")]
            bounds = np.searchsorted(np.sort(policies), np.arange(len(self._order) + 1)).tolist()
        for name, first, last in zip(self._order, bounds, bounds[1:], strict=False):
            for start in range(first, last, CHUNK):
                yield name, rows[start : min(start + CHUNK, last)]


def chosen_actions(scores: Array, logits: Array, masks: Array, draws: Array | None) -> Array:
    """Return actions [N] int64: drawn from the softmax of logits [N, R] where there is a draw, otherwise the best."""
    chosen = np.empty(len(masks), np.int64)
    drawn = np.full(len(masks), np.nan) if draws is None else draws
    choose_rows(scores, logits, masks.astype(np.int8, copy=False), drawn, chosen)
    return chosen


def packed(folder: Path) -> dict[str, bytes]:
    """Return the files of saved policies by name, to be sent to another process and read with `unpacked`.

    Raises:
        ConfigError: the folder holds no policy, or one that cannot be read.
    """
    names = [DESCRIPTION, *(f"{name}.safetensors" for name in load_description(folder).serves)]
    return {name: read_bytes(folder / name) for name in names}


def unpacked(files: Mapping[str, bytes]) -> SavedPolicy:
    """Return the policies that `packed` took; errors as `load_saved_policy`."""
    with tempfile.TemporaryDirectory(prefix="offload-rllib-policy-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        loaded = load_saved_policy(Path(folder))
    loaded.name = ""  # the folder is gone
    return loaded


def version_of(files: Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits that depend on every byte of saved policies."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()[:12]


def load_saved_policy(folder: Path, *, trust: bool = False) -> SavedPolicy:
    """Return the policies of a folder that `save_policies` wrote.

    Args:
        folder: the folder.
        trust: run the Python code that the description names (`network.module`); the environment variable `TRUST` says
            so for all policies.

    Raises:
        ConfigError: the folder holds no policy, one that cannot be read, or one that names code that is not trusted.
    """
    description = load_description(folder)
    if description.network.module is not None and not (trust or trusts_all()):
        raise ConfigError(
            f"{folder / DESCRIPTION}: network.module: names Python code ({description.network.module}), which loading "
            f"would run; if you trust it, say so: --trust or {TRUST}=1, or load_policy(..., trust=True) in Python"
        )
    with torch.device("meta"):  # sizes alone: a description may ask for more memory than there is
        wanted = {key: tuple(value.shape) for key, value in description.make_network().state_dict().items()}
    networks: dict[str, Any] = {}
    for name in description.serves:
        path = folder / f"{name}.safetensors"
        try:
            weights = load(read_bytes(path))
        except SafetensorError as error:
            raise ConfigError(f"{path}: not the weights that {DESCRIPTION} describes ({error})") from error
        _check_weights(path, weights, wanted)
        networks[name] = description.make_network()
        networks[name].load_state_dict(weights)
    return SavedPolicy(description, networks, name=str(folder))


def _check_weights(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ConfigError for weights of other sizes, or that are not finite: such decisions would be invalid."""
    for key in sorted({*weights, *wanted}):
        given = tuple(weights[key].shape) if key in weights else "missing"
        if given != wanted.get(key):
            raise ConfigError(
                f"{path}: not the weights that {DESCRIPTION} describes: {key} is {given}, described as "
                f"{wanted.get(key, 'missing')}"
            )
    for key, value in weights.items():
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ConfigError(f"{path}: {key}: must be finite numbers of 32 bits")


def load_description(folder: Path) -> PolicyDescription:
    """Return the description in a policy folder; errors as `load_saved_policy`."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(f"{folder}: no policy here: {DESCRIPTION} is missing")
    content = read_json(path, "the description of a policy")
    if "format" not in content:
        raise ConfigError(f"{path}: not the description of a policy: it has no format")
    version = content["format"]
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: a policy of format {version}; this version reads format {FORMAT_VERSION}. Load it with the "
            "version that wrote it (run.json says which), or train it again"
        )
    description = validated(PolicyDescription, content, str(path))
    if set(description.policy_of) - set(description.serves) or len(description.policy_of) != len(description.agents):
        raise ConfigError(f"{path}: agents and policy_of do not belong together")
    misfit = description.misfit(description.observation_size, description.actions)
    misfit = misfit or unfounded(description.blocks, description.observation_size, description.actions)
    if misfit:
        raise ConfigError(f"{path}: rows {description.rows} do not make up the observation: {misfit}")
    if max(description.weights.values(), default=0) >= description.observation_size:
        raise ConfigError(
            f"{path}: weights: {description.weights}; places must be below {description.observation_size}"
        )
    return description
