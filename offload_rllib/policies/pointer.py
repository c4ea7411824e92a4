"""Networks that read an observation as a set of destinations: one set of weights for any number of them.

Every destination is scored by the same weights from (self, task, destination), as pointer networks score their inputs
(Vinyals et al., arXiv 1506.03134); what has to be one number for all of them is pooled over destinations, as in deep
sets (Zaheer et al., arXiv 1703.06114). Permuting destinations permutes the scores and leaves the pooled features
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offload_rllib.envs.observation import FIRST_ROW, ROW_SIZE
from offload_rllib.policies.perceptron import ACTIVATIONS, hidden_layers, linear


class DestinationLayers(nn.Module):
    """Features of every action: `hidden` layers over (self, task, row of the action), shared by all actions.

    The first layer is split: its part for self and task is computed once per agent and added to the part for each
    row, W [context, row] = W_c context + W_r row. Action 0 stays here instead of travelling, and has an offset of its
    own in that layer.
    """

    def __init__(self, hidden: Sequence[int], activation: str) -> None:
        """Make the layers.

        Args:
            hidden: units of each layer, at least one.
            activation: a key of `ACTIVATIONS`.

        Raises:
            ValueError: `hidden` is empty.
        """
        super().__init__()
        if not hidden:
            raise ValueError("a pointer network needs at least one hidden layer")
        gain = nn.init.calculate_gain("tanh" if activation == "tanh" else "relu")
        whole = linear(FIRST_ROW + ROW_SIZE, hidden[0], gain)
        self.context = nn.Linear(FIRST_ROW, hidden[0])
        self.row = nn.Linear(ROW_SIZE, hidden[0], bias=False)
        self.here = nn.Parameter(torch.zeros(hidden[0]))
        with torch.no_grad():
            self.context.weight.copy_(whole.weight[:, :FIRST_ROW])
            self.context.bias.zero_()
            self.row.weight.copy_(whole.weight[:, FIRST_ROW:])
        self.rest = nn.Sequential(ACTIVATIONS[activation](), *hidden_layers(hidden[0], hidden[1:], activation))

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [..., R, H] of observations [..., F], F = 14 + 12 R."""
        first = self.row(rows_of(observations))
        first += self.context(observations[..., :FIRST_ROW]).unsqueeze(-2)
        first[..., 0, :] += self.here
        return self.rest(first)


class DestinationScores(nn.Module):
    """One number per action."""

    def __init__(self, hidden: Sequence[int], activation: str, output_gain: float) -> None:
        """Make the network; arguments as `DestinationLayers` and `perceptron`."""
        super().__init__()
        self.layers = DestinationLayers(hidden, activation)
        self.score = linear(hidden[-1], 1, output_gain)

    def forward(self, observations: Tensor) -> Tensor:
        """Return scores [..., R] of observations [..., F]."""
        return self.score(self.layers(observations)).squeeze(-1)


class PooledDestinations(nn.Module):
    """Features of an agent: mean and largest feature over its destinations, and a layer behind them.

    Padding is left out. Destinations that are not valid now are not: a node is as busy when no task is on offer.
    """

    def __init__(self, hidden: Sequence[int], activation: str) -> None:
        """Make the network; arguments as `DestinationLayers`."""
        super().__init__()
        self.layers = DestinationLayers(hidden, activation)
        self.head = hidden_layers(2 * hidden[-1], hidden[-1:], activation)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [..., H] of observations [..., F]."""
        # A row of a real destination has a speed at least; padding is all zeros.
        real = (rows_of(observations) != 0).any(-1, keepdim=True)
        features = self.layers(observations)
        mean = (features * real).sum(-2) / real.sum(-2)
        largest = features.masked_fill(~real, -torch.inf).amax(-2)
        return self.head(torch.cat([mean, largest], -1))


def rows_of(observations: Tensor) -> Tensor:
    """Return the rows [..., R, 12] of observations [..., 14 + 12 R]."""
    return observations[..., FIRST_ROW:].unflatten(-1, (-1, ROW_SIZE))
