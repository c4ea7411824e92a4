"""A perceptron's forward and backward pass as matrix products and kernels, in buffers that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offload_rllib.algorithms.fused_kernels import activate, activate_backward


@dataclass(frozen=True)
class Layer:
    """A linear layer: its weights [O, I] and offsets [O], and the places of their gradients."""

    weights: Tensor
    by_weights: Tensor
    offsets: np.ndarray
    by_offsets: np.ndarray


class PerceptronPass:
    """The passes through a perceptron for a fixed number of rows: every product is laid out once.

    `outputs` [B, O] are the last ones, without their offsets. Before `backward` the derivatives of the loss by them
    take their place.
    """

    def __init__(self, layers: list[Layer], inputs: Tensor, *, is_tanh: bool) -> None:
        """Lay the products out.

        Args:
            layers: with an activation behind all but the last.
            inputs: [B, I], written before each `forward`.
            is_tanh: whether the activation is tanh; otherwise it is relu.
        """
        seen = [inputs] + [torch.empty(len(inputs), len(layer.offsets)) for layer in layers]
        derivatives = [torch.empty_like(output) for output in seen[1:-1]] + [seen[-1]]
        self.outputs = seen[-1].numpy()
        # Products as (left, right, result), and the arguments of the kernel behind each.
        self._forward: list[tuple[tuple[Tensor, Tensor, Tensor], tuple[Any, ...]]] = []
        self._backward: list[tuple[tuple[tuple[Tensor, Tensor, Tensor], ...], tuple[Any, ...]]] = []
        for index, layer in enumerate(layers):
            is_last = index == len(layers) - 1
            product = (seen[index], layer.weights.t(), seen[index + 1])
            self._forward.append((product, () if is_last else (seen[index + 1].numpy(), layer.offsets, is_tanh)))
            derivative = derivatives[index]
            by_weights = (derivative.t(), seen[index], layer.by_weights)
            if index == 0:
                self._backward.append(((by_weights,), ()))
                continue
            below = (derivatives[index - 1].numpy(), seen[index].numpy(), layers[index - 1].by_offsets, is_tanh)
            self._backward.append(((by_weights, (derivative, layer.weights, derivatives[index - 1])), below))
        self._backward.reverse()

    def forward(self) -> None:
        """Compute `outputs`."""
        for (left, right, result), behind in self._forward:
            torch.mm(left, right, out=result)
            if behind:
                activate(*behind)

    def backward(self) -> None:
        """Write all gradients but that of the last offsets, which is left to whoever has computed the derivatives."""
        for products, behind in self._backward:
            for left, right, result in products:
                torch.mm(left, right, out=result)
            if behind:
                activate_backward(*behind)
