"""The networks of a policy, in plain torch: used by RLlib's modules, and without RLlib by a loaded policy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}

# Logit of an action that is not valid. Finite, so that no loss meets inf - inf; far below any logit a network gives,
# so that such an action is never drawn.
INVALID_LOGIT = -1e9


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: str, output_gain: float) -> nn.Sequential:
    """Return a multilayer perceptron with orthogonal weights (Andrychowicz et al., arXiv 2006.05990, section 3.2).

    Args:
        inputs: features.
        hidden: units of each hidden layer.
        outputs: numbers returned.
        activation: a key of `ACTIVATIONS`.
        output_gain: of the last layer; small for a policy, so that it starts near uniform.
    """
    layers: list[nn.Module] = []
    size = inputs
    for units in hidden:
        linear = nn.Linear(size, units)
        nn.init.orthogonal_(linear.weight, nn.init.calculate_gain("tanh" if activation == "tanh" else "relu"))
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
        size = units
    last = nn.Linear(size, outputs)
    nn.init.orthogonal_(last.weight, output_gain)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class Actor(nn.Module):
    """Scores of all actions from one observation."""

    def __init__(self, observation_size: int, actions: int, hidden: Sequence[int], activation: str) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.layers = perceptron(observation_size, hidden, actions, activation, output_gain=0.01)

    def forward(self, observations: Tensor, masks: Tensor) -> Tensor:
        """Return logits [..., R] float32, `INVALID_LOGIT` where the mask is 0.

        Args:
            observations: [..., F] float32.
            masks: [..., R], 1 where an action is valid.
        """
        return self.layers(observations).masked_fill(masks == 0, INVALID_LOGIT)


class Critic(nn.Module):
    """The value of one observation."""

    def __init__(self, observation_size: int, hidden: Sequence[int], activation: str) -> None:
        """Make the network; sizes as `perceptron`."""
        super().__init__()
        self.layers = perceptron(observation_size, hidden, 1, activation, output_gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """Return values [...] float32 of observations [..., F] float32."""
        return self.layers(observations).squeeze(-1)
