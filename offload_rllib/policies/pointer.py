"""Networks that read an observation as a set of destinations: one set of weights for any number of them.

Every destination is scored by the same weights from (self, task, destination), as pointer networks score their inputs
(Vinyals et al., arXiv 1506.03134). A number for all of them is pooled over destinations, as in deep sets (Zaheer et
al., arXiv 1703.06114). Permuting destinations permutes the scores and leaves the pooled features alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offload_rllib.envs.layout import Blocks
from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_SIZE
from offload_rllib.policies.perceptron import ACTIVATIONS, hidden_layers, linear

FULL_ROWS = Blocks(FIRST_ROW, HERE_SIZE, ROW_SIZE)


class DestinationLayers(nn.Module):
    """Features of every action: `hidden` layers over (self, task, row of the action), shared by all actions.

    The first layer is split: its part for self and task is computed once per agent and added to the part for each
    row, W [context, row] = W_c context + W_r row. Action 0 stays here instead of travelling: its row is another one,
    and has weights of its own in that layer.
    """

    def __init__(self, hidden: Sequence[int], activation: str, rows: Blocks) -> None:
        """Make the layers.

        Args:
            hidden: units of each layer, at least one.
            activation: a key of `ACTIVATIONS`.
            rows: what is where in an observation.

        Raises:
            ValueError: `hidden` is empty.
        """
        super().__init__()
        if not hidden:
            raise ValueError("a pointer network needs at least one hidden layer")
        gain = nn.init.calculate_gain("tanh" if activation == "tanh" else "relu")
        first, here_size, row_size = rows[:3]
        whole = linear(first + here_size + row_size, hidden[0], gain)
        self.context = nn.Linear(first, hidden[0])
        self.here = nn.Linear(here_size, hidden[0])
        self.row = nn.Linear(row_size, hidden[0], bias=False)
        with torch.no_grad():
            self.context.weight.copy_(whole.weight[:, :first])
            self.context.bias.zero_()
            self.here.weight.copy_(whole.weight[:, first : first + here_size])
            self.here.bias.zero_()
            self.row.weight.copy_(whole.weight[:, first + here_size :])
        self.rest = nn.Sequential(ACTIVATIONS[activation](), *hidden_layers(hidden[0], hidden[1:], activation))

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [..., R, H] of observations [..., F]."""
        start = self.context.in_features
        here = self.here(observations[..., start : start + self.here.in_features]).unsqueeze(-2)
        first = torch.cat([here, self.row(self.destinations_of(observations))], -2)
        first = first + self.context(observations[..., :start]).unsqueeze(-2)
        return self.rest(first)

    def destinations_of(self, observations: Tensor) -> Tensor:
        """Return the rows [..., R - 1, row size] of observations [..., F], without row 0."""
        start = self.context.in_features + self.here.in_features
        return observations[..., start:].unflatten(-1, (-1, self.row.in_features))

    def real_rows(self, observations: Tensor) -> Tensor:
        """Return [..., R] bool: which rows are not padding.

        Padding is all zeros. A row of a real destination has a speed, or a way there, and row 0 is always real.
        """
        real = (self.destinations_of(observations) != 0).any(-1)
        return torch.cat([torch.ones_like(real[..., :1]), real], -1)


class DestinationScores(nn.Module):
    """One number per action."""

    def __init__(self, layers: nn.Module, units: int, output_gain: float) -> None:
        """Make the network.

        Args:
            layers: from observations to features of every action, such as `DestinationLayers`.
            units: how many features.
            output_gain: of the last layer.
        """
        super().__init__()
        self.layers = layers
        self.score = linear(units, 1, output_gain)

    def forward(self, observations: Tensor) -> Tensor:
        """Return scores [..., R] of observations [..., F]."""
        return self.score(self.layers(observations)).squeeze(-1)


class PooledDestinations(nn.Module):
    """Features of an agent: mean and largest feature over its destinations, and a layer behind them.

    Padding is left out. Destinations that are not valid now are not: a node is as busy when no task is on offer.
    """

    def __init__(self, layers: Any, units: int, activation: str) -> None:
        """Make the network.

        Args:
            layers: from observations to features of every action, with `real_rows`, such as `DestinationLayers`.
            units: how many features.
            activation: a key of `ACTIVATIONS`.
        """
        super().__init__()
        self.layers = layers
        self.head = hidden_layers(2 * units, (units,), activation)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [..., H] of observations [..., F]."""
        real = self.layers.real_rows(observations).unsqueeze(-1)
        features = self.layers(observations)
        mean = (features * real).sum(-2) / real.sum(-2)
        largest = features.masked_fill(~real, -torch.inf).amax(-2)
        return self.head(torch.cat([mean, largest], -1))
