"""Scores of actions from a policy's module, for a batch of rows: RLlib's way, and a shorter one with the same bits.

A pass through a small network takes longer in the calls between its layers than in the layers. Multilayer perceptrons
and pointers are therefore evaluated by the matrix products alone, the same ones that torch's modules call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.network import Actor
from offload_rllib.policies.perceptron import is_hooked, plain_layers
from offload_rllib.policies.pointer import DestinationLayers, DestinationScores

FORWARDS = ("forward_exploration", "forward_inference", "_forward_exploration", "_forward_inference", "_forward")
# In place.
ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.Tanh: torch.tanh_, nn.ReLU: torch.relu_}


class ModuleScores:
    """Scores from the `forward` methods of a module."""

    def __init__(self, module: Any) -> None:
        """Take RLlib's module."""
        self._module = module

    def __call__(self, seen: Tensor, valid: Tensor, scores: Tensor, *, explore: bool, env_steps: int) -> None:
        """Write the scores [n, R] of actions.

        Args:
            seen: [n, F] float32 observations.
            valid: [n, R] int8.
            scores: overwritten; what stands where an action is not valid has no meaning.
            explore: whether the module may explore.
            env_steps: of the run so far, for schedules.
        """
        columns = {Columns.OBS: {"observations": seen, "action_mask": valid}}
        if explore:
            outputs = self._module.forward_exploration(columns, t=env_steps)
        else:
            outputs = self._module.forward_inference(columns)
        scores.copy_(outputs[Columns.ACTION_DIST_INPUTS])


class PerceptronScores:
    """Scores from the matrices of an actor that is a multilayer perceptron."""

    def __init__(self, layers: Iterable[nn.Module], rows: int) -> None:
        """Take the weights, and allocate what comes between the layers.

        Args:
            layers: linear layers and activations, a linear one last.
            rows: n at most.
        """
        self._products: list[tuple[Tensor, Tensor]] = []  # weights and offsets
        self._activations: list[Callable[[Tensor], Tensor]] = []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                self._products.append((layer.weight.detach().t(), layer.bias.detach()))
            else:
                self._activations.append(ACTIVATIONS[type(layer)])
        self._last = self._products.pop()
        self._results = [torch.empty(rows, len(offsets)) for _, offsets in self._products]
        self._places: dict[int, list[Tensor]] = {}

    def __call__(self, seen: Tensor, valid: Tensor, scores: Tensor, *, explore: bool, env_steps: int) -> None:
        """Write the scores; arguments as `ModuleScores`. An actor explores by the draw of its action alone."""
        count = seen.shape[0]
        if count not in self._places:
            self._places[count] = [results[:count] for results in self._results]
        steps = zip(self._products, self._activations, self._places[count], strict=True)
        for (weights, offsets), activation, place in steps:
            torch.addmm(offsets, seen, weights, out=place)
            seen = activation(place)
        weights, offsets = self._last
        torch.addmm(offsets, seen, weights, out=scores)


class _Places(NamedTuple):
    """Where a pointer's first layer writes, for n observations."""

    context: Tensor
    """[n, H] of self and task."""
    here: Tensor
    """[n, H] of row 0."""
    seen_rows: Tensor
    """[n, F'] of the observations: the other rows."""
    seen_row: Tensor
    """[n (R - 1), row size], the same."""
    rows: Tensor
    """[n (R - 1), H] of the other rows."""
    first: Tensor
    """[n, R, H]."""
    features: Tensor
    """[n R, H], the same."""


class PointerScores:
    """Scores from the matrices of an actor that is a `DestinationScores`; the products are those of its `forward`."""

    def __init__(self, network: DestinationScores, actions: int, rows: int) -> None:
        """Take the weights, and allocate what comes between the layers.

        Args:
            network: with plain layers (`perceptron.plain_layers`).
            actions: R.
            rows: n at most.
        """
        layers: Any = network.layers  # `DestinationLayers`
        self._sizes = actions, layers.context.in_features, layers.here.in_features, layers.row.in_features
        self._context, self._here = (
            (layer.bias.detach(), layer.weight.detach().t()) for layer in (layers.context, layers.here)
        )
        self._row = layers.row.weight.detach().t()
        self._units = layers.row.out_features
        activation, *rest = layers.rest
        self._activation = ACTIVATIONS[type(activation)]
        self._rest = PerceptronScores([*rest, network.score], rows * actions)
        self._places: dict[int, _Places] = {}

    def _made(self, count: int) -> _Places:
        """Return room for so many observations."""
        (actions, _, _, row), units = self._sizes, self._units
        seen_rows, first = torch.empty(count, (actions - 1) * row), torch.empty(count, actions, units)
        return _Places(
            context=torch.empty(count, units),
            here=torch.empty(count, units),
            seen_rows=seen_rows,
            seen_row=seen_rows.view(-1, row),
            rows=torch.empty(count * (actions - 1), units),
            first=first,
            features=first.view(-1, units),
        )

    def __call__(self, seen: Tensor, valid: Tensor, scores: Tensor, *, explore: bool, env_steps: int) -> None:
        """Write the scores; arguments as `ModuleScores`. An actor explores by the draw of its action alone."""
        count = seen.shape[0]
        if count not in self._places:
            self._places[count] = self._made(count)
        places = self._places[count]
        actions, context, here, width = self._sizes
        torch.addmm(self._context[0], seen[:, :context], self._context[1], out=places.context)
        torch.addmm(self._here[0], seen[:, context : context + here], self._here[1], out=places.here)
        # The rows of one observation already follow each other. A copy could stand at another alignment, by which the
        # last digit of a product may differ.
        row = seen[:, context + here :].view(-1, width) if count == 1 else places.seen_row
        if count > 1:
            places.seen_rows.copy_(seen[:, context + here :])
        torch.mm(row, self._row, out=places.rows)
        torch.add(places.here, places.context, out=places.first[:, 0])
        others = places.rows.view(count, actions - 1, -1)
        torch.add(others, places.context.unsqueeze(1), out=places.first[:, 1:])
        features = self._activation(places.features)
        self._rest(features, valid, scores.view(-1, 1), explore=explore, env_steps=env_steps)


Scores = ModuleScores | PerceptronScores | PointerScores


def scores_of(module: Any, rows: int) -> Scores:
    """Return the shortest way from a module to its scores.

    Args:
        module: RLlib's, in the mode of evaluation.
        rows: of a batch, at most.
    """
    network = _network(module)
    if type(network) is nn.Sequential:
        layers = plain_layers(network)
        if layers is not None:
            return PerceptronScores(layers, rows)
    if type(network) is DestinationScores and type(network.layers) is DestinationLayers:
        layers = network.layers
        ways = [(layers.context,), (layers.here,), (layers.row, *layers.rest, network.score)]
        if all(plain_layers(way) is not None for way in ways):
            return PointerScores(network, int(module.action_space.n), rows)
    return ModuleScores(module)


def _network(module: Any) -> nn.Module | None:
    """Return the network of an actor if it is all that its module does, otherwise None."""
    if not isinstance(module, MaskedActorCritic) or type(module.actor) is not Actor:
        return None
    changed = any(getattr(type(module), name) is not getattr(MaskedActorCritic, name) for name in FORWARDS)
    return None if changed or is_hooked(module) else module.actor.scores
