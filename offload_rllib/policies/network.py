"""The networks of a policy, in plain torch: used by RLlib's modules, and without RLlib by a loaded policy.

The roles are in this module (actor, critics, action values), their parts in `perceptron`, `pointer` and `attention`.
All take `kind` (`config.policy.Network`): ``mlp``, ``pointer`` or ``attention``; the last two read `rows`, which says
where the rows of an observation are, and the last one `heads`. Where rows end with outlooks, all read
embeddings of them (`hearing`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offload_rllib.envs.layout import Blocks
from offload_rllib.policies.attention import AttendingLayers
from offload_rllib.policies.hearing import Hearing
from offload_rllib.policies.perceptron import hidden_layers, linear, perceptron
from offload_rllib.policies.pointer import (
    FULL_ROWS,
    DestinationLayers,
    DestinationScores,
    PooledDestinations,
)

# Logit of an action that is not valid. Finite, so that no loss meets inf - inf; far below any logit a network gives,
# so that such an action is never drawn.
INVALID_LOGIT = -1e9

MLP = "mlp"
POINTER = "pointer"
ATTENTION = "attention"
KINDS = (MLP, POINTER, ATTENTION)
# Those that read one row per destination, and fit any number of them.
OF_ROWS = (POINTER, ATTENTION)
HEADS = 2


def _layers(kind: str, rows: Blocks, heads: int, hidden: Sequence[int], activation: str) -> nn.Module:
    """Return a network from observations [..., F] to features of every action [..., R, H]."""
    if kind == ATTENTION:
        return AttendingLayers(hidden, activation, rows, heads)
    return DestinationLayers(hidden, activation, rows)


def _scores(
    kind: str,
    rows: Blocks,
    heads: int,
    observation_size: int,
    actions: int,
    hidden: Sequence[int],
    activation: str,
    output_gain: float,
) -> nn.Module:
    """Return a network from observations [..., F] to one number per action [..., R]."""
    if rows.embedding:
        hearing = Hearing(rows)
        size = hearing.size(observation_size)
        return nn.Sequential(
            hearing, _scores(kind, hearing.behind, heads, size, actions, hidden, activation, output_gain)
        )
    if kind in OF_ROWS:
        return DestinationScores(_layers(kind, rows, heads, hidden, activation), hidden[-1], output_gain)
    return perceptron(observation_size, hidden, actions, activation, output_gain)


def features_of(
    kind: str, rows: Blocks, heads: int, observation_size: int, hidden: Sequence[int], activation: str
) -> tuple[nn.Module, int]:
    """Return a network from observations [..., F] to features [..., H], and H."""
    if rows.embedding:
        hearing = Hearing(rows)
        behind, units = features_of(kind, hearing.behind, heads, hearing.size(observation_size), hidden, activation)
        return nn.Sequential(hearing, behind), units
    if kind in OF_ROWS:
        return PooledDestinations(_layers(kind, rows, heads, hidden, activation), hidden[-1], activation), hidden[-1]
    return hidden_layers(observation_size, hidden, activation), hidden[-1] if hidden else observation_size


class Actor(nn.Module):
    """Scores of all actions from one observation."""

    def __init__(
        self,
        observation_size: int,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        kind: str = MLP,
        rows: Blocks = FULL_ROWS,
        heads: int = HEADS,
    ) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.scores = _scores(kind, rows, heads, observation_size, actions, hidden, activation, output_gain=0.01)

    def forward(self, observations: Tensor, masks: Tensor) -> Tensor:
        """Return logits [..., R] float32, `INVALID_LOGIT` where the mask is 0.

        Args:
            observations: [..., F] float32.
            masks: [..., R], 1 where an action is valid.
        """
        return self.scores(observations).masked_fill(masks == 0, INVALID_LOGIT)


class Critic(nn.Module):
    """The value of one observation."""

    def __init__(
        self,
        observation_size: int,
        hidden: Sequence[int],
        activation: str,
        kind: str = MLP,
        rows: Blocks = FULL_ROWS,
        heads: int = HEADS,
    ) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.features, size = features_of(kind, rows, heads, observation_size, hidden, activation)
        self.value = linear(size, 1, gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """Return values [...] float32 of observations [..., F] float32."""
        return self.value(self.features(observations)).squeeze(-1)


class CentralCritic(nn.Module):
    """The value of an observation, given those of all agents: a critic for training only (Yu et al., arXiv 2103.01955).

    The joint state enters as the mean over agents of their embedded observations, so that one set of weights fits
    any number of agents, of any policies: value = head(e(own), mean over agents of e(observation)).
    """

    def __init__(
        self,
        observation_size: int,
        hidden: Sequence[int],
        activation: str,
        kind: str = MLP,
        rows: Blocks = FULL_ROWS,
        heads: int = HEADS,
    ) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.features, size = features_of(kind, rows, heads, observation_size, hidden, activation)
        self.head = perceptron(2 * size, hidden[-1:], 1, activation, output_gain=1.0)

    def forward(self, own: Tensor, everyone: Tensor) -> Tensor:
        """Return values [..., A] float32.

        Args:
            own: [..., A, F] float32, observations of the agents whose values are wanted.
            everyone: [..., N, F] float32, observations of all agents of the environment at the same time; their order
                does not matter. Given the very tensor `own`, they are embedded once.
        """
        of_own = self.features(own)
        of_all = of_own if everyone is own else self.features(everyone)
        team = of_all.mean(-2, keepdim=True).expand_as(of_own)
        return self.head(torch.cat([of_own, team], -1)).squeeze(-1)

    def team(self, everyone: Tensor) -> Tensor:
        """Return the mean embeddings [..., H] of all agents' observations [..., N, F]: the joint state."""
        return self.features(everyone).mean(-2)

    def values(self, own: Tensor, team: Tensor) -> Tensor:
        """Return the values [B] of observations [B, F] in joint states [B, H] from `team`."""
        return self.head(torch.cat([self.features(own), team], -1)).squeeze(-1)


class QNetwork(nn.Module):
    """The action values of one observation.

    With `dueling` (Wang et al., arXiv 1511.06581, eq. 9), Q = V + A - mean of A over the valid actions.
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
        dueling: bool = False,
    ) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.scores = _scores(kind, rows, heads, observation_size, actions, hidden, activation, output_gain=0.1)
        self.value = Critic(observation_size, hidden, activation, kind, rows, heads) if dueling else None

    def forward(self, observations: Tensor, masks: Tensor) -> Tensor:
        """Return action values [..., R] float32, `INVALID_LOGIT` where the mask is 0.

        Args:
            observations: [..., F] float32.
            masks: [..., R], 1 where an action is valid; at least one of them.
        """
        values = self.scores(observations)
        if self.value is not None:
            valid = (masks != 0).to(values.dtype)
            mean = (values * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
            values = values - mean + self.value(observations).unsqueeze(-1)
        return values.masked_fill(masks == 0, INVALID_LOGIT)


def epsilon_greedy(values: Tensor, masks: Tensor, epsilon: float) -> Tensor:
    """Return log probabilities [..., R]: the best action (any of equal ones), or with `epsilon` any valid one.

    Pointers give destinations with equal features the same value to the last bit. Exceptions are single rows at the end
    of a batch whose size does not suit the matrix kernels of the CPU.

    Args:
        values: [..., R] action values, `INVALID_LOGIT` where not valid.
        masks: [..., R], 1 where an action is valid.
        epsilon: in [0, 1].
    """
    valid = (masks != 0).to(values.dtype)
    best = (values == values.amax(-1, keepdim=True)).to(values.dtype)
    probabilities = (1 - epsilon) * best / best.sum(-1, keepdim=True) + epsilon * valid / valid.sum(-1, keepdim=True)
    return probabilities.log().clamp_min(INVALID_LOGIT)
