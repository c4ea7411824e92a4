"""Embeddings of what neighbours saw: the few learned numbers that a broadcast carries in place of an outlook.

With `information.embedding` every row of an observation ends with the outlook of its destination (`envs.outlook`). A
network reads no more of it than that many numbers,

    m = tanh(W outlook),

in place of it. The weights are shared by all destinations, and learned with the network behind them: gradients pass
through what is sent from one node to another, as in the communication of Foerster, Assael, de Freitas, Whiteson, arXiv
1605.06676. Zeros stay zeros, so padding stays padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offload_rllib.envs.layout import Blocks


class Hearing(nn.Module):
    """Observations with an embedding in place of every outlook."""

    def __init__(self, blocks: Blocks) -> None:
        """Make the network.

        Args:
            blocks: of the observations, with `outlook` and `embedding` above 0.
        """
        super().__init__()
        self.blocks = blocks
        self.embedding = nn.Linear(blocks.outlook, blocks.embedding, bias=False)
        nn.init.orthogonal_(self.embedding.weight, nn.init.calculate_gain("tanh"))

    @property
    def behind(self) -> Blocks:
        """Blocks of what it returns."""
        return Blocks(*self.blocks[:2], self.blocks.row - self.blocks.outlook + self.blocks.embedding)

    def size(self, observation_size: int) -> int:
        """Return how many numbers it makes of an observation of so many."""
        before = self.blocks.first + self.blocks.here
        return before + (observation_size - before) // self.blocks.row * self.behind.row

    def forward(self, observations: Tensor) -> Tensor:
        """Return [..., size(F)] of observations [..., F]."""
        before = self.blocks.first + self.blocks.here
        rows = observations[..., before:].unflatten(-1, (-1, self.blocks.row))
        known, outlook = rows.split([self.blocks.row - self.blocks.outlook, self.blocks.outlook], -1)
        rows = torch.cat([known, torch.tanh(self.embedding(outlook))], -1)
        return torch.cat([observations[..., :before], rows.flatten(-2)], -1)
