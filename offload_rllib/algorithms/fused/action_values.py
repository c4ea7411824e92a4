"""Gradient steps of double Q-learning, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from offload_rllib.algorithms.fused.kernels import double_q_loss
from offload_rllib.algorithms.fused.network import CoveredNetwork, Part
from offload_rllib.algorithms.fused.perceptron import Layer
from offload_rllib.algorithms.fused.steps import FusedSteps
from offload_rllib.rollout.replay import Sample
from offload_rllib.simulator.types import Array


class _Passes:
    """The passes through a network of action values over some rows, and its outputs as `double_q_loss` takes them."""

    def __init__(
        self, parts: tuple[Part, ...], layers: list[list[Layer]], rows: int, features: int, *, choice_only: bool = False
    ) -> None:
        """Lay the passes out.

        Args:
            parts: of the network.
            layers: of each part.
            rows: B.
            features: F.
            choice_only: whether to leave out the value of the state, which does not matter to the choice of an action.
        """
        self._inputs = torch.empty(rows, features)
        self._seen = self._inputs.numpy()
        pairs = list(zip(parts, layers, strict=True))[: 1 if choice_only else None]
        self.passes = [part.passes(own, self._inputs) for part, own in pairs]
        scores, *value = self.passes
        none = (np.empty((0, 1), np.float32), np.empty(0, np.float32))
        self.outputs = scores.outputs, scores.offsets, *((value[0].outputs, value[0].offsets) if value else none)
        self.by_value_offset = value[0].by_offsets if value else none[1]

    def forward(self, observations: Array) -> None:
        self._seen[:] = observations
        for one in self.passes:
            one.forward()


class ActionValueSteps(FusedSteps):
    """Gradient steps of a network of action values, towards what its target network makes of the next states."""

    def __init__(self, network: CoveredNetwork, optimizer: Any) -> None:
        """Make room; see `FusedSteps`. The weights of the target network are read where they are."""
        super().__init__(network, optimizer)
        self._target_layers = [[_read_only(layer) for layer in part.layers] for part in network.target]
        self._passes: tuple[_Passes, _Passes, _Passes] | None = None
        self._size = (0, 0)

    def compute(self, sample: Sample, delta: float) -> tuple[Array, Array]:
        """Write the gradient of the loss into `gradient`.

        Args:
            sample: B transitions.
            delta: where the Huber loss becomes straight.

        Returns:
            The TD errors [B] float32, and the figures of `double_q_loss` [3].
        """
        rows = sample.transitions
        present, following, target = self._passes_over(*rows.observations.shape)
        following.forward(rows.next_observations)
        target.forward(rows.next_observations)
        present.forward(rows.observations)
        errors, figures = np.empty(len(rows.actions), np.float32), np.empty(3)
        double_q_loss(
            present.outputs,
            following.outputs,
            target.outputs,
            rows.masks,
            rows.next_masks,
            rows.actions,
            rows.returns,
            rows.discounts,
            sample.weights,
            delta,
            present.passes[0].by_offsets,
            present.by_value_offset,
            errors,
            figures,
        )
        for one in present.passes:
            one.backward()
        return errors, figures

    def _passes_over(self, rows: int, features: int) -> tuple[_Passes, _Passes, _Passes]:
        if self._passes is None or self._size != (rows, features):
            parts, self._size = self.network.parts, (rows, features)
            self._passes = (
                _Passes(parts, self.layers, rows, features),
                _Passes(parts, self.layers, rows, features, choice_only=True),
                _Passes(self.network.target, self._target_layers, rows, features),
            )
        return self._passes


def _read_only(layer: nn.Linear) -> Layer:
    """Return a layer whose passes go forward only."""
    none = np.empty(0, np.float32)
    return Layer(
        layer.weight.detach(), torch.empty(0), none if layer.bias is None else layer.bias.detach().numpy(), none
    )
