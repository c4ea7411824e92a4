"""Actors that remember: a gated recurrent unit beside the observation, which moves at every decision of its agent.

An agent's decisions come at unequal times. The time since its previous one is an input, as log(1 + s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.layout import Blocks
from offload_rllib.policies.hearing import Hearing
from offload_rllib.policies.network import HEADS, MLP, Actor, Critic, features_of
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.simulator.types import NONE, Array


def widened(rows: Blocks, numbers: int) -> Blocks:
    """Return the blocks of observations with so many numbers in front."""
    return rows._replace(first=rows.first + numbers)


REMEMBERS = (
    "network.memory: what a policy that remembers decides depends on all earlier decisions of its agent; accepted: let "
    "it play an environment, with load_policy(...).on(env)"
)


class RememberingActor(nn.Module):
    """Scores of all actions from one observation and the state of a memory of H units.

    The state moves by a gated recurrent unit (Cho et al., arXiv 1406.1078) over features of the observation and the
    time since the previous decision. The actor sees the new state in front of the observation.
    """

    def __init__(
        self,
        observation_size: int,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        kind: str = MLP,
        rows: Blocks = FULL_ROWS,
        heads: int = HEADS,
        *,
        memory: int,
    ) -> None:
        """Make the network; sizes as `network.Actor`.

        Args:
            observation_size: F.
            actions: R.
            hidden: units of the actor's layers; the last number is that of the memory's features, too.
            activation: between the layers.
            kind: of the actor and of the features.
            rows: what is where in an observation.
            heads: of the attention.
            memory: H.
        """
        super().__init__()
        self.hearing: nn.Module = nn.Identity()
        if rows.embedding:
            # One for all that acts: a node sends one embedding.
            hearing = Hearing(rows)
            self.hearing, rows, observation_size = hearing, hearing.behind, hearing.size(observation_size)
        self.features, size = features_of(kind, rows, heads, observation_size, hidden[-1:], activation)
        self.cell = nn.GRUCell(size + 1, memory)
        self.actor = Actor(observation_size + memory, actions, hidden, activation, kind, widened(rows, memory), heads)

    def forward(self, observations: Tensor, masks: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, R] float32, and states [B, H] behind the decisions.

        Args:
            observations: [B, F] float32.
            masks: [B, R], 1 where an action is valid.
            memory: [B, 1 + H] float32: log(1 + s since the agent's previous decision), and the state before this one.
        """
        observations = self.hearing(observations)
        states = self.cell(torch.cat([self.features(observations), memory[:, :1]], -1), memory[:, 1:])
        return self.actor(torch.cat([states, observations], -1), masks), states

    def along(self, observations: Tensor, masks: Tensor, memory: Tensor, sequences: Tensor) -> Tensor:
        """Return logits [B, R] of the decisions of sequences, through whose states a gradient is passed back.

        Args:
            observations: [B, F] float32, one sequence after the other.
            masks: [B, R].
            memory: [B, 1 + H]; states count at the beginnings of sequences alone.
            sequences: [B] int64: equal numbers for the decisions of one sequence, which stand together.
        """
        observations = self.hearing(observations)
        lengths = torch.unique_consecutive(sequences, return_counts=True)[1]
        starts = lengths.cumsum(0) - lengths
        lengths, order = lengths.sort(descending=True, stable=True)
        starts = starts[order]
        inputs = torch.cat([self.features(observations), memory[:, :1]], -1)
        states, found, places = memory[starts, 1:], [], []
        # Those that last so long, with the longest first.
        for step, count in enumerate(_lasting(lengths)):
            at = starts[:count] + step
            states = self.cell(inputs[at], states[:count])
            found.append(states)
            places.append(at)
        back = torch.cat(places).argsort()
        return self.actor(torch.cat([torch.cat(found)[back], observations], -1), masks)


def _lasting(lengths: Tensor) -> list[int]:
    """Return how many of the lengths [S], the longest first, are over 0, over 1, and so on."""
    steps = torch.arange(int(lengths[0]), device=lengths.device)
    return (lengths.unsqueeze(0) > steps.unsqueeze(1)).sum(1).tolist()


def remembering_critic(
    observation_size: int,
    hidden: Sequence[int],
    activation: str,
    kind: str,
    rows: Blocks,
    heads: int,
    memory: int,
) -> Critic:
    """Return a critic of [memory, observation]: what an actor's memory held when the agent was asked, as an input."""
    return Critic(observation_size + 1 + memory, hidden, activation, kind, widened(rows, 1 + memory), heads)


class Memories:
    """What the agents of E environments remember, from the beginning of an episode to its end."""

    def __init__(self, environments: int, agents: int, units: int) -> None:
        """Begin with states of zeros.

        Args:
            environments: E.
            agents: A.
            units: H.
        """
        self._states = np.zeros((environments, agents, units), np.float32)
        self._every = np.arange(environments)
        # The pending decisions: what they change is kept once the next ones are asked.
        self._asked = np.full(environments, NONE, np.int64)
        self._who = np.full(environments, NONE, np.int64)
        self._next = np.zeros((environments, units), np.float32)

    def before(self, env: ArrivalEnv) -> Array:
        """Return what the deciding agents remember, [E, 1 + H] float32, as `RememberingActor` takes it.

        Asked again for the same decision, it is the same. Rows of episodes that have ended have no meaning.
        """
        moved = env.decisions != self._asked
        known = np.flatnonzero(moved & (self._who != NONE))
        self._states[known, self._who[known]] = self._next[known]
        self._states[moved & (env.decisions == 0)] = 0.0
        self._asked[:], self._who[:] = env.decisions, env.deciding
        return np.concatenate(
            [np.log1p(env.elapsed_s)[:, None], self._states[self._every, self._who]], 1, dtype=np.float32
        )

    def after(self, states: Array) -> None:
        """Take the states [E, H] behind the decisions that were asked last."""
        self._next[:] = states

    def closing(self, e: int, elapsed_s: Array) -> Array:
        """Return what all agents of environment `e` remember behind its last decision, [A, 1 + H] float32.

        Args:
            e: the environment.
            elapsed_s: [A] float64, since their own last decisions.
        """
        states = self._states[e].copy()
        if self._who[e] != NONE:
            states[self._who[e]] = self._next[e]
        return np.concatenate([np.log1p(elapsed_s)[:, None], states], 1, dtype=np.float32)


@torch.inference_mode()
def remembered_scores(
    networks: Mapping[str, nn.Module], owners: Array, observations: Array, masks: Array, memory: Array
) -> tuple[Array, Array]:
    """Return the logits [N, R] of rows that may belong to any policies, and the states [N, H] behind them.

    Args:
        networks: a `RememberingActor` for each policy.
        owners: [N] int64, the policy of each row; rows of none are left at 0.
        observations: [N, F] float32.
        masks: [N, R] int8.
        memory: [N, 1 + H] float32.
    """
    scores = np.zeros(masks.shape, np.float32)
    states = np.zeros((len(memory), memory.shape[1] - 1), np.float32)
    for number, network in enumerate(networks.values()):
        rows = np.flatnonzero(owners == number)
        if len(rows):
            logits, after = network(
                *(torch.from_numpy(np.ascontiguousarray(part[rows])) for part in (observations, masks, memory))
            )
            scores[rows], states[rows] = logits.numpy(), after.numpy()
    return scores, states


class Remembering:
    """What the agents of an environment remember while policies decide for it."""

    def __init__(self, env: ArrivalEnv, units: int) -> None:
        """Begin with states of zeros.

        Args:
            env: whose pending decisions are asked about.
            units: H.
        """
        self._env = env
        self._memories = Memories(env.num_envs, len(env.agents), units)

    def scores(self, networks: Mapping[str, nn.Module], owners: Array, observations: Array, masks: Array) -> Array:
        """Return the logits [E, R] of the pending decisions, and remember them.

        Args:
            networks: a `RememberingActor` for each policy.
            owners: [E] int64, the policy of each decision.
            observations: [E, F] float32.
            masks: [E, R].

        Raises:
            ValueError: there are not as many rows as environments.
        """
        count = self._env.num_envs
        if len(observations) != count:
            raise ValueError(f"the environment has {count} pending decisions, got {len(observations)} rows")
        pending = np.where(self._env.deciding == NONE, NONE, owners)
        memory = self._memories.before(self._env)
        valid = masks.astype(np.int8, copy=False)
        scores, states = remembered_scores(networks, pending, observations, valid, memory)
        self._memories.after(states)
        return scores
