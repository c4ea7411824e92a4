"""Destinations that attend to each other: what is known of one enters the features of all others.

A pointer scores every destination by itself, whatever the others are. Here every action sees all actions of the
observation, by scaled dot-product attention of several heads (Vaswani et al., arXiv 1706.03762), as in set transformers
(Lee et al., arXiv 1810.00825). There are no positions: permuting destinations permutes their features.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from offload_rllib.envs.layout import Blocks
from offload_rllib.policies.perceptron import hidden_layers, linear
from offload_rllib.policies.pointer import DestinationLayers


class AttendingLayers(nn.Module):
    """Features of every action, once it has seen the others: those of `DestinationLayers`, attention, one more layer.

    Padding is not seen. Destinations that are not valid now are, as they are in `PooledDestinations`.
    """

    def __init__(self, hidden: Sequence[int], activation: str, rows: Blocks, heads: int) -> None:
        """Make the layers.

        Args:
            hidden: units of each layer, at least one; the last is also the width of the attention.
            activation: a key of `ACTIVATIONS`.
            rows: what is where in an observation.
            heads: of the attention; a divisor of the last layer's units.
        """
        super().__init__()
        self.layers = DestinationLayers(hidden, activation, rows)
        self.heads = heads
        units = hidden[-1]
        # Queries, keys and values, in this order.
        self.projections = linear(units, 3 * units, gain=1.0)
        # Small, so that a network begins as a pointer.
        self.mixed = linear(units, units, gain=0.1)
        self.behind = hidden_layers(units, hidden[-1:], activation)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [..., R, H] of observations [..., F]."""
        features = self.layers(observations)
        parts = self.projections(features).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        queries, keys, values = (part.transpose(-2, -3) for part in parts)  # [..., heads, R, H / heads]
        seen = self.real_rows(observations)[..., None, None, :]
        mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        return self.behind(features + self.mixed(mixed.transpose(-2, -3).flatten(-2)))

    def real_rows(self, observations: Tensor) -> Tensor:
        """Return [..., R] bool: which rows are not padding."""
        return self.layers.real_rows(observations)
