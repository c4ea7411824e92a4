"""Saved policies without torch: the networks of `network` and `pointer` in numpy, for processes on small devices.

One decision of one node is a handful of products of small matrices, for which torch gains nothing and costs 200 MB of
memory. The values are those of torch up to the rounding of float32; a test compares them for every kind of network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from offload_rllib.simulator.choice import best_action, draw_action
from offload_rllib.simulator.types import Array

# Kinds of networks that there are here.
PORTABLE = ("mlp", "pointer")
Weights = Mapping[str, Array]


class Shape(NamedTuple):
    """What a network is, beside its weights."""

    output: str
    """``logits`` or ``values``; see `saved.PolicyDescription`."""
    kind: str
    """``mlp`` or ``pointer``."""
    activation: str
    """``tanh`` or ``relu``."""
    epsilon: float
    """With ``values``: the share of random actions when actions are drawn."""
    dueling: bool
    """With ``values``: whether there is a value stream."""
    rows: tuple[int, int, int]
    """With a pointer: numbers before row 0, of row 0, of each other row."""
    memory: int = 0
    """Units of the memory; 0: none."""


def _activate(values: Array, activation: str) -> Array:
    return np.tanh(values) if activation == "tanh" else np.maximum(values, np.float32(0))


def _layers(weights: Weights, prefix: str) -> list[tuple[Array, Array]]:
    """Return the weights and offsets of the linear layers of a sequence, in order."""
    start = f"{prefix}."
    places = sorted(
        int(name[len(start) :].split(".")[0])
        for name in weights
        if name.startswith(start) and name.endswith(".weight") and name[len(start) :].split(".")[0].isdigit()
    )
    return [(weights[f"{start}{place}.weight"], weights[f"{start}{place}.bias"]) for place in places]


def _linear(weights: Weights, name: str, inputs: Array) -> Array:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _hidden(weights: Weights, prefix: str, activation: str, inputs: Array) -> Array:
    """Return what linear layers give, each with an activation behind it."""
    for weight, offset in _layers(weights, prefix):
        inputs = _activate(inputs @ weight.T + offset, activation)
    return inputs


def _perceptron(weights: Weights, prefix: str, activation: str, inputs: Array) -> Array:
    """Return what linear layers give with an activation between each two of them."""
    layers = _layers(weights, prefix)
    for place, (weight, offset) in enumerate(layers):
        inputs = inputs @ weight.T + offset
        if place < len(layers) - 1:
            inputs = _activate(inputs, activation)
    return inputs


def _destination_features(weights: Weights, prefix: str, shape: Shape, seen: Array) -> Array:
    """Return the features [R, H] of all actions of a pointer network (`pointer.DestinationLayers`)."""
    first, here_size, row_size = shape.rows
    here = _linear(weights, f"{prefix}.here", seen[first : first + here_size])
    others = seen[first + here_size :].reshape(-1, row_size) @ weights[f"{prefix}.row.weight"].T
    features = np.vstack([here[None], others]) + _linear(weights, f"{prefix}.context", seen[:first])
    return _hidden(weights, f"{prefix}.rest", shape.activation, _activate(features, shape.activation))


def _pooled(weights: Weights, prefix: str, shape: Shape, seen: Array) -> Array:
    """Return the features [H] of an observation (`pointer.PooledDestinations`)."""
    first, here_size, row_size = shape.rows
    real = (seen[first + here_size :].reshape(-1, row_size) != 0).any(-1)
    features = _destination_features(weights, f"{prefix}.layers", shape, seen)[np.concatenate([[True], real])]
    both = np.concatenate([features.mean(0), features.max(0)])
    return _hidden(weights, f"{prefix}.head", shape.activation, both)


def scores(weights: Weights, shape: Shape, seen: Array, mask: Array) -> Array:
    """Return the logits or action values [R] float32 of one observation.

    Args:
        weights: a network's state, by name.
        shape: of the network.
        seen: [F] float32.
        mask: [R], 1 where an action is valid; what it says matters to a value stream, which is centred over those.
    """
    if shape.kind == "pointer":
        features = _destination_features(weights, "scores.layers", shape, seen)
        values = _linear(weights, "scores.score", features)[:, 0]
    else:
        values = _perceptron(weights, "scores", shape.activation, seen)
    if shape.dueling:
        stream = (
            _pooled(weights, "value.features", shape, seen)
            if shape.kind == "pointer"
            else _hidden(weights, "value.features", shape.activation, seen)
        )
        values = values - values[mask != 0].mean() + _linear(weights, "value.value", stream)[0]
    return values.astype(np.float32)


def remembered(weights: Weights, shape: Shape, seen: Array, elapsed_s: float, state: Array) -> Array:
    """Return the state [H] float32 of a memory behind a decision (`remembering.RememberingActor`).

    Args:
        weights: a network's state, by name.
        shape: of the network.
        seen: [F] float32.
        elapsed_s: since the agent's previous decision, s.
        state: [H] float32, before this one.
    """
    if shape.kind == "pointer":
        features = _pooled(weights, "features", shape, seen)
    else:
        features = _hidden(weights, "features", shape.activation, seen)
    inputs = np.append(features, np.float32(np.log1p(elapsed_s)))
    of_inputs = weights["cell.weight_ih"] @ inputs + weights["cell.bias_ih"]
    of_state = weights["cell.weight_hh"] @ state + weights["cell.bias_hh"]
    units = shape.memory
    # tanh, unlike exp, does not overflow.
    gates = 0.5 * (1 + np.tanh(0.5 * (of_inputs + of_state)[: 2 * units]))
    new = np.tanh(of_inputs[2 * units :] + gates[:units] * of_state[2 * units :])
    return ((1 - gates[units:]) * new + gates[units:] * state).astype(np.float32)


class PortablePolicy:
    """The networks of a saved policy, of which each node uses one."""

    def __init__(self, shape: Shape, weights: Weights, seed: int = 0) -> None:
        """Take one network.

        Args:
            shape: of the network.
            weights: its state.
            seed: of the draws of sampled actions.
        """
        self._shape = shape
        self._weights = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
        self._random = np.random.default_rng(seed)
        self._state, self._decided_s = np.zeros(shape.memory, np.float32), 0.0
        self._actor, self._actor_shape = self._weights, shape
        if shape.memory:
            self._actor = {
                name.removeprefix("actor."): value for name, value in self._weights.items() if name.startswith("actor.")
            }
            first, here_size, row_size = shape.rows
            self._actor_shape = shape._replace(rows=(first + shape.memory, here_size, row_size))

    def __call__(self, seen: Array, mask: Array, *, now_s: float = 0.0, deterministic: bool = True) -> int:
        """Return the action for one observation [F] and mask [R]; arguments and draws as `SavedPolicy`.

        Args:
            seen: what the node sees.
            mask: 1 where an action is valid.
            now_s: time since the episode began, for networks that remember.
            deterministic: take the best action.
        """
        if self._shape.memory:
            self._state = remembered(self._weights, self._shape, seen, now_s - self._decided_s, self._state)
            self._decided_s = now_s
            seen = np.concatenate([self._state, seen])
        if mask.sum() == 1:
            return int(mask.argmax())
        values = scores(self._actor, self._actor_shape, seen, mask)
        choose: Any = best_action
        if deterministic:
            return int(choose(values, mask))
        if self._shape.output == "values":
            valid = mask != 0
            best = valid & (values == values[valid].max())
            epsilon = self._shape.epsilon
            shares = (1 - epsilon) * best / best.sum() + epsilon * valid / valid.sum()
            return int(self._random.choice(len(mask), p=shares / shares.sum()))
        draw: Any = draw_action
        return int(draw(values, mask, self._random.random())[0])
