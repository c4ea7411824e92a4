"""What the rebuilt methods share: small networks, explored actions, and a policy that `evaluate` can play."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.evaluation.evaluate import one_torch_thread
from offload_rllib.simulator.types import Array
from scripts.hype.decisions import Extra, NoExtra

# Values of actions that are not valid.
LOWEST = -1e9
HIDDEN = (64, 64)

Scores = Callable[[Array, Array, Array], Array]
"""From observations [n, F], masks [n, R] and extras [n, X] to a number for each action [n, R]."""


@contextmanager
def seeded(seed: int) -> Iterator[np.random.Generator]:
    """Give a generator of a seed, and let torch draw from the same seed and work on one thread, inside the block."""
    with one_torch_thread(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield np.random.default_rng(seed)


def perceptron(
    sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU, *, last_gain: float = 1.0, normalised: bool = False
) -> nn.Sequential:
    """Return fully connected layers with orthogonal weights.

    Args:
        sizes: of input, hidden layers and output.
        activation: between layers.
        last_gain: of the weights of the output.
        normalised: whether each hidden layer is followed by layer normalisation.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = number == len(sizes) - 2
        layer = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(layer.weight, last_gain if last else 2**0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, activation(), *([nn.LayerNorm(outputs)] if normalised else [])]
    return nn.Sequential(*layers)


def masked(values: Tensor, masks: Tensor) -> Tensor:
    """Return values [n, R] with `LOWEST` where a mask [n, R] is 0."""
    return values.masked_fill(masks == 0, LOWEST)


def explored(best: Array, masks: Array, epsilon: float, rng: np.random.Generator) -> Array:
    """Return the best actions [n], each with probability `epsilon` replaced by a valid one, uniformly at random."""
    drawn = np.argmax(rng.random(masks.shape) * masks, axis=1)
    return np.where(rng.random(len(best)) < epsilon, drawn, best)


def falling(first: float, last: float, progress: float) -> float:
    """Return a number that falls linearly from `first` to `last` while `progress` goes from 0 to 1, and stays there."""
    return first + (last - first) * min(max(progress, 0.0), 1.0)


class ScoredPolicy:
    """A policy that takes the valid action with the highest score, or draws it by softmax."""

    def __init__(self, scores: Scores, extra: Callable[[NativeEnv], Extra] | None = None) -> None:
        """Take what gives the scores, and what makes the numbers that it needs beside the observation."""
        self._scores, self._make_extra = scores, extra
        self._extra: Extra = NoExtra()
        self._rng = np.random.default_rng(0)

    def on(self, env: NativeEnv) -> ScoredPolicy:
        """Return the policy at the start of the episodes of an environment."""
        fitted = ScoredPolicy(self._scores, self._make_extra)
        if self._make_extra is not None:
            fitted._extra = self._make_extra(env)
        return fitted

    def seed(self, seed: int) -> None:
        """Restart the draws."""
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, observations: Array, masks: Array, *, agents: Array | None = None, deterministic: bool = True
    ) -> Array:
        """Return actions [n] int64; arguments as `Policy`."""
        who = np.zeros(len(observations), np.int64) if agents is None else agents
        extras = self._extra.of(np.arange(len(observations)), who, observations)
        scores = np.where(masks > 0, self._scores(observations, masks, extras), LOWEST)
        if not deterministic:
            scores = np.where(masks > 0, scores + self._rng.gumbel(size=scores.shape), LOWEST)
        return scores.argmax(axis=1)
