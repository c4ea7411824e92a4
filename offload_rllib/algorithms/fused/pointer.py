"""A pointer network's forward and backward pass as matrix products and kernels, in buffers that are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offload_rllib.algorithms.fused.kernels import find_destinations, join_rows, part_rows, pool, pool_backward
from offload_rllib.algorithms.fused.perceptron import Layer, PerceptronPass


class _FirstLayer:
    """The first layer of `policies.pointer.DestinationLayers`: from observations to features of every action."""

    def __init__(
        self, layers: list[Layer], inputs: Tensor, outputs: Tensor, derivatives: Tensor, *, is_tanh: bool
    ) -> None:
        """Lay the products out.

        Args:
            layers: for context, row 0 and the other rows.
            inputs: [B, F] observations.
            outputs: [B R, H], written by `forward`.
            derivatives: [B R, H] by the outputs, read by `backward`.
            is_tanh: whether the activation is tanh; otherwise it is relu.
        """
        rows, units = len(inputs), outputs.shape[1]
        actions = len(outputs) // rows
        context, here, row = (layer.weights.shape[1] for layer in layers)
        self._seen = inputs[:, context + here :]
        self.rows = torch.empty(rows, (actions - 1) * row)
        seen = (inputs[:, :context], inputs[:, context : context + here], self.rows.view(-1, row))
        parts = [torch.empty(len(one), units) for one in seen]
        self._forward = [(one, layer.weights.t(), part) for one, layer, part in zip(seen, layers, parts, strict=True)]
        self._backward = [
            (part.t(), one, layer.by_weights) for one, layer, part in zip(seen, layers, parts, strict=True)
        ]
        shape = (rows, actions, units)
        of_context, of_here, of_rows = (part.numpy() for part in parts)
        arrays = of_context, of_here, of_rows.reshape(rows, actions - 1, units)
        self.outputs, self.derivatives = outputs.numpy().reshape(shape), derivatives.numpy().reshape(shape)
        self._join = (*arrays, layers[0].offsets, layers[1].offsets, self.outputs, is_tanh)
        self._part = (
            self.derivatives,
            self.outputs,
            *arrays,
            layers[0].by_offsets,
            layers[1].by_offsets,
            is_tanh,
        )

    def forward(self) -> None:
        """Write the outputs."""
        self.rows.copy_(self._seen)
        for left, right, result in self._forward:
            torch.mm(left, right, out=result)
        join_rows(*self._join)

    def backward(self) -> None:
        """Write the gradients, given the derivatives by the outputs."""
        part_rows(*self._part)
        for left, right, result in self._backward:
            torch.mm(left, right, out=result)


class ScoresPass:
    """The passes through `policies.pointer.DestinationScores`; as `PerceptronPass`, with outputs [B, R]."""

    def __init__(self, layers: list[Layer], inputs: Tensor, actions: int, *, is_tanh: bool) -> None:
        """Lay the products out.

        Args:
            layers: of the first layer (context, row 0, rows), the hidden ones, and the score.
            inputs: [B, F] observations.
            actions: R.
            is_tanh: whether the activation is tanh; otherwise it is relu.
        """
        units = layers[0].units
        features, by_features = (torch.empty(len(inputs) * actions, units) for _ in range(2))
        self._first = _FirstLayer(layers[:3], inputs, features, by_features, is_tanh=is_tanh)
        self._rest = PerceptronPass(layers[3:], features, is_tanh=is_tanh, by_inputs=by_features)
        self.outputs = self._rest.outputs.reshape(len(inputs), actions)
        # One offset for all actions.
        self.offsets, self.by_offsets = (np.zeros(actions, np.float32) for _ in range(2))

    def forward(self) -> None:
        """Compute `outputs`."""
        self.offsets[:] = self._rest.offsets
        self._first.forward()
        self._rest.forward()

    def backward(self) -> None:
        """Write the gradients; see `PerceptronPass.backward`."""
        self._rest.by_offsets[0] = self.by_offsets.sum()
        self._rest.backward()
        self._first.backward()


class PooledPass:
    """The passes through `policies.pointer.PooledDestinations` and a value; as `PerceptronPass`."""

    def __init__(self, layers: list[Layer], inputs: Tensor, actions: int, *, is_tanh: bool) -> None:
        """Lay the products out.

        Args:
            layers: of the first layer (context, row 0, rows), the hidden ones, the head, and the value.
            inputs: [B, F] observations.
            actions: R.
            is_tanh: whether the activation is tanh; otherwise it is relu.
        """
        rows = len(inputs)
        hidden = layers[3:-2]
        sizes = [layer.units for layer in (layers[0], *hidden)]
        features, by_features = (torch.empty(rows * actions, sizes[0]) for _ in range(2))
        self._first = _FirstLayer(layers[:3], inputs, features, by_features, is_tanh=is_tanh)
        self._rest = PerceptronPass(hidden, features, is_tanh=is_tanh, by_inputs=by_features, ends_activated=True)
        pooled, by_pooled = (torch.empty(rows, 2 * sizes[-1]) for _ in range(2))
        self._head = PerceptronPass(layers[-2:], pooled, is_tanh=is_tanh, by_inputs=by_pooled)
        self.outputs, self.offsets, self.by_offsets = self._head.outputs, self._head.offsets, self._head.by_offsets
        shape = (rows, actions, sizes[-1])
        last = self._rest.outputs.reshape(shape)
        by_last = self._rest.derivatives.reshape(shape)
        is_real = np.empty((rows, actions), np.bool_)
        self._find = (self._first.rows.numpy().reshape(rows, actions - 1, -1), is_real)
        self._pool = (last, is_real, pooled.numpy())
        self._pool_backward = (by_pooled.numpy(), last, is_real, pooled.numpy(), by_last)

    def forward(self) -> None:
        """Compute `outputs`."""
        self._first.forward()
        self._rest.forward()
        find_destinations(*self._find)
        pool(*self._pool)
        self._head.forward()

    def backward(self) -> None:
        """Write the gradients; see `PerceptronPass.backward`."""
        self._head.backward()
        pool_backward(*self._pool_backward)
        self._rest.backward()
        self._first.backward()
