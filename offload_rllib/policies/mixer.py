"""Networks that make the value of a team's joint action of the agents' own action values, in plain torch.

They are for training alone (`docs/algorithms/value_factorisation.md`): both rise with every agent's value, so that each
agent's best action is its part of the team's best joint action, whatever the others do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VDN, QMIX = "vdn", "qmix"


class Vdn(nn.Module):
    """The sum of the agents' values (Sunehag et al., arXiv 1706.05296, eq. 1)."""

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Return the team's values [B] of the agents' values [B, A]; the state [B, S] is not used."""
        return values.sum(-1)


class Qmix(nn.Module):
    """A network with one hidden layer, whose weights are functions of the state (Rashid et al., arXiv 1803.11485).

    The weights are absolute values, so that the team's value rises with every agent's; the biases are free:

        h = elu(q |W1(s)| + b1(s)),   Q_tot = h . |w2(s)| + b2(s)
    """

    def __init__(self, agents: int, state_size: int, units: int) -> None:
        """Make the layers that give the weights.

        Args:
            agents: A.
            state_size: S.
            units: M, of the hidden layer.
        """
        super().__init__()
        self.weights = nn.Linear(state_size, agents * units)
        self.bias = nn.Linear(state_size, units)
        self.last_weights = nn.Linear(state_size, units)
        self.last_bias = nn.Sequential(nn.Linear(state_size, units), nn.ReLU(), nn.Linear(units, 1))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Return the team's values [B] of the agents' values [B, A] in states [B, S]."""
        weights = self.weights(state).abs().unflatten(-1, (values.shape[-1], -1))
        hidden = nn.functional.elu((values.unsqueeze(-2) @ weights).squeeze(-2) + self.bias(state))
        return (hidden * self.last_weights(state).abs()).sum(-1) + self.last_bias(state).squeeze(-1)


def make_mixer(kind: str, agents: int, own_size: int, units: int) -> nn.Module:
    """Return the mixer of a name, `VDN` or `QMIX`.

    Args:
        kind: the name.
        agents: A.
        own_size: what each agent adds to the state, see `joint_state`.
        units: M; of `QMIX`.
    """
    return Qmix(agents, agents * own_size, units) if kind == QMIX else Vdn()


def joint_state(observations: Tensor, own_size: int) -> Tensor:
    """Return the state [B, A x own_size] of what all agents observe, [B, A, F]: the first numbers of each."""
    return torch.flatten(observations[..., :own_size], -2)
