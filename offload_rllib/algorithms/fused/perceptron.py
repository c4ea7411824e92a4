"""A perceptron's forward and backward pass as matrix products and kernels, in buffers that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offload_rllib.algorithms.fused.kernels import activate, activate_backward

Product = tuple[Tensor, Tensor, Tensor]
"""Left, right, and where the result goes."""


@dataclass(frozen=True)
class Layer:
    """A linear layer: its weights [O, I] and offsets [O] (none: of length 0), and the places of their gradients."""

    weights: Tensor
    by_weights: Tensor
    offsets: np.ndarray
    by_offsets: np.ndarray

    @property
    def units(self) -> int:
        """O."""
        return len(self.weights)


class PerceptronPass:
    """The passes through a perceptron for a fixed number of rows: every product is laid out once.

    `outputs` [B, O] are the last ones; without an activation behind them they are without their `offsets`, too. Before
    `backward` the derivatives of the loss by the outputs are written to `derivatives`, which are the same array where
    there is no activation; so are the gradients `by_offsets` of the last offsets then.
    """

    def __init__(
        self,
        layers: list[Layer],
        inputs: Tensor,
        *,
        is_tanh: bool,
        ends_activated: bool = False,
        by_inputs: Tensor | None = None,
    ) -> None:
        """Lay the products out.

        Args:
            layers: with an activation behind all but the last.
            inputs: [B, I], written before each `forward`.
            is_tanh: whether the activation is tanh; otherwise it is relu.
            ends_activated: whether there is an activation behind the last layer as well.
            by_inputs: [B, I], where `backward` writes the derivatives by the inputs, if at all. With no layers at all
                they are given.
        """
        seen = [inputs] + [torch.empty(len(inputs), layer.units) for layer in layers]
        derivatives = [torch.empty_like(output) for output in seen[1:]]
        if layers and not ends_activated:
            derivatives[-1] = seen[-1]
        below = [by_inputs, *derivatives]
        self.outputs = seen[-1].numpy()
        self.derivatives = self.outputs if below[-1] is None else below[-1].numpy()
        if layers:
            self.offsets, self.by_offsets = layers[-1].offsets, layers[-1].by_offsets
        # Products, and the arguments of the kernels behind or before them.
        self._forward: list[tuple[Product, tuple[Any, ...]]] = []
        self._backward: list[tuple[tuple[Any, ...], list[Product]]] = []
        for index, layer in enumerate(layers):
            output, derivative, by_input = seen[index + 1], derivatives[index], below[index]
            product = (seen[index], layer.weights.t(), output)
            backward = [(derivative.t(), seen[index], layer.by_weights)]
            if by_input is not None:
                backward.append((derivative, layer.weights, by_input))
            if index < len(layers) - 1 or ends_activated:
                self._forward.append((product, (output.numpy(), layer.offsets, is_tanh)))
                self._backward.append(((derivative.numpy(), output.numpy(), layer.by_offsets, is_tanh), backward))
            else:
                self._forward.append((product, ()))
                self._backward.append(((), backward))
        self._backward.reverse()

    def forward(self) -> None:
        """Compute `outputs`."""
        for (left, right, result), behind in self._forward:
            torch.mm(left, right, out=result)
            if behind:
                activate(*behind)

    def backward(self) -> None:
        """Write all gradients, given those that the class names."""
        for before, products in self._backward:
            if before:
                activate_backward(*before)
            for left, right, result in products:
                torch.mm(left, right, out=result)
