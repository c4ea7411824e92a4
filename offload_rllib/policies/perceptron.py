"""Multilayer perceptrons over the whole observation: weights for one number of actions, none of them shared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Return a layer with orthogonal weights (Andrychowicz et al., arXiv 2006.05990, section 3.2) and no offset."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def hidden_layers(inputs: int, hidden: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers, each with an activation behind it; without `hidden`, what goes in comes out.

    Args:
        inputs: features.
        hidden: units of each layer.
        activation: a key of `ACTIVATIONS`.
    """
    gain = nn.init.calculate_gain("tanh" if activation == "tanh" else "relu")
    layers: list[nn.Module] = []
    for size, units in itertools.pairwise((inputs, *hidden)):
        layers += [linear(size, units, gain), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: str, output_gain: float) -> nn.Sequential:
    """Return `hidden_layers` and a last layer.

    Args:
        inputs: features.
        hidden: units of each hidden layer.
        activation: a key of `ACTIVATIONS`.
        outputs: numbers returned.
        output_gain: of the last layer; small for a policy, so that it starts near uniform.
    """
    size = hidden[-1] if hidden else inputs
    return nn.Sequential(*hidden_layers(inputs, hidden, activation), linear(size, outputs, output_gain))


def plain_layers(network: Iterable[nn.Module]) -> list[nn.Module] | None:
    """Return the layers of a perceptron that matrix products alone can stand for, otherwise None.

    Those are linear layers with an activation between each two of them, on the CPU and in single precision.
    """
    layers = list(network)
    activations = set(ACTIVATIONS.values())
    alternate = len(layers) % 2 == 1 and all(
        type(layer) in activations if number % 2 else type(layer) is nn.Linear for number, layer in enumerate(layers)
    )
    weights = [weight for layer in layers for weight in layer.parameters()]
    plain = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    return layers if alternate and plain else None


def is_hooked(network: nn.Module) -> bool:
    """Return whether anything hangs on the passes through a network or on its weights, which only torch's calls run."""
    # Torch has no public question for hooks.
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind) for part in network.modules() for kind in kinds) or any(
        weight._backward_hooks or weight._post_accumulate_grad_hooks  # noqa: SLF001
        for weight in network.parameters()
    )
