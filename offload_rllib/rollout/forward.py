"""Scores of actions from a policy's module, for a batch of rows: RLlib's way, and a shorter one with the same bits.

A pass through a small network takes longer in the calls between its layers than in the layers. A multilayer perceptron
is therefore evaluated by the matrix products alone, the same ones that torch's modules call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.network import Actor
from offload_rllib.policies.perceptron import is_hooked, plain_layers

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


Scores = ModuleScores | PerceptronScores


def scores_of(module: Any, rows: int) -> Scores:
    """Return the shortest way from a module to its scores.

    Args:
        module: RLlib's, in the mode of evaluation.
        rows: of a batch, at most.
    """
    layers = _layers(module)
    return ModuleScores(module) if layers is None else PerceptronScores(layers, rows)


def _layers(module: Any) -> list[nn.Module] | None:
    """Return the layers of an actor if they are all that its module does, otherwise None."""
    if not isinstance(module, MaskedActorCritic) or type(module.actor) is not Actor:
        return None
    changed = any(getattr(type(module), name) is not getattr(MaskedActorCritic, name) for name in FORWARDS)
    scores = module.actor.scores
    return None if changed or is_hooked(module) or type(scores) is not nn.Sequential else plain_layers(scores)
