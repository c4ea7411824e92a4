"""Gradients of PPO and A2C written out for perceptrons: several times faster than autograd on small networks.

With two hidden layers of 64 units, most of a gradient step of autograd is not spent on matrix products but around them.
Here an actor and a critic are run forward and backward with buffers that are kept, and the loss of all rows, with its
derivatives by the logits, comes from one kernel. Weights, optimizer and checkpoints are those of the torch learner,
and so are loss and gradients, except for rounding (by test).
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor, nn

from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.network import Actor, Critic
from offload_rllib.policies.perceptron import plain_layers
from offload_rllib.simulator.jit import kernel

HAS_CHOICE = "has_choice"

# Places in the array of figures that a kernel of losses returns.
SURROGATE, ENTROPY, DIVERGENCE, CLIPPED, CHOICES = range(5)
FIGURES = 5


@kernel
def _log_softmax(logits, mask, out):
    """Write the log probabilities of the valid actions; return the entropy."""
    largest = np.float64(-np.inf)
    for action in range(len(logits)):
        if mask[action] != 0 and logits[action] > largest:
            largest = np.float64(logits[action])
    total = 0.0
    for action in range(len(logits)):
        if mask[action] != 0:
            total += np.exp(logits[action] - largest)
    shift = largest + np.log(total)
    entropy = 0.0
    for action in range(len(logits)):
        if mask[action] != 0:
            out[action] = logits[action] - shift
            entropy -= np.exp(out[action]) * out[action]
    return entropy


@kernel
def _policy_loss(
    logits, masks, actions, sampled, advantages, has_choice, clip, entropy_coeff, is_clipped, derivatives, figures
):
    """Write the derivatives [B, R] of the policy's loss by the logits [B, R], and its figures.

    `sampled` [B] holds the log probabilities of the actions when they were taken. With `is_clipped` the gain is PPO's
    surrogate (Schulman et al., arXiv 1707.06347, eq. 7), otherwise A log pi.
    """
    rows, choices = len(actions), 0
    for row in range(rows):
        choices += has_choice[row]
    figures[:] = 0.0
    figures[CHOICES] = choices
    weight = 1.0 / max(choices, 1)
    for row in range(rows):
        derivative = derivatives[row]
        if not has_choice[row]:
            derivative[:] = 0.0
            continue
        # The derivatives' own place holds the log probabilities first.
        entropy = _log_softmax(logits[row], masks[row], derivative)
        # In double precision: numba's `float` leaves single precision alone, and gains that are equal would differ.
        advantage, taken = np.float64(advantages[row]), np.float64(derivative[actions[row]])
        log_ratio = taken - sampled[row]
        ratio = np.exp(log_ratio)
        if is_clipped:
            gain = advantage * ratio
            limited = advantage * min(max(ratio, 1.0 - clip), 1.0 + clip)
            slope = gain if gain <= limited else 0.0
            gain = min(gain, limited)
        else:
            gain, slope = advantage * taken, advantage
        for action in range(derivative.shape[0]):
            if masks[row, action] == 0:
                derivative[action] = 0.0
                continue
            logp = np.float64(derivative[action])
            probability = np.exp(logp)
            by_taken = (1.0 if action == actions[row] else 0.0) - probability
            by_entropy = -probability * (logp + entropy)
            derivative[action] = -weight * (slope * by_taken + entropy_coeff * by_entropy)
        figures[SURROGATE] += weight * gain
        figures[ENTROPY] += weight * entropy
        figures[DIVERGENCE] += weight * ((ratio - 1.0) - log_ratio)
        figures[CLIPPED] += weight * (abs(ratio - 1.0) > clip)


class _Layers:
    """A perceptron's forward and backward pass with buffers of its own."""

    def __init__(self, layers: list[nn.Module]) -> None:
        """Take linear layers, with an activation behind all but the last."""
        self.linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.is_tanh = any(isinstance(layer, nn.Tanh) for layer in layers)
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs [B, O] for inputs [B, I]; they are overwritten by the next call."""
        rows = len(inputs)
        if not self._buffers or len(self._buffers[0][0]) < rows:
            sizes = [layer.out_features for layer in self.linear]
            self._buffers = [(torch.empty(rows, size), torch.empty(rows, size)) for size in sizes]
        self.inputs = inputs
        self.outputs = [output[:rows] for output, _ in self._buffers]
        for layer, output in zip(self.linear, self.outputs, strict=True):
            torch.addmm(layer.bias, inputs, layer.weight.t(), out=output)
            if layer is not self.linear[-1]:
                output.tanh_() if self.is_tanh else output.relu_()
            inputs = output
        return inputs

    def backward(self, derivative: Tensor) -> None:
        """Write the gradients of weights and offsets, given the loss's derivative [B, O] by the last outputs."""
        rows = len(derivative)
        for index in reversed(range(len(self.linear))):
            layer = self.linear[index]
            seen = self.outputs[index - 1] if index else self.inputs
            torch.mm(derivative.t(), seen, out=cast("Tensor", layer.weight.grad))
            torch.sum(derivative, 0, out=cast("Tensor", layer.bias.grad))
            if not index:
                return
            earlier = self._buffers[index - 1][1][:rows]
            torch.mm(derivative, layer.weight, out=earlier)
            if self.is_tanh:
                torch.ops.aten.tanh_backward.grad_input(earlier, seen, grad_input=earlier)
            else:
                torch.ops.aten.threshold_backward.grad_input(earlier, seen, 0, grad_input=earlier)
            derivative = earlier


def covered_layers(module: Any) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """Return the layers of actor and critic, if their gradients are written out here; otherwise None.

    They are if both are perceptrons on the CPU, and the critic is local.
    """
    if type(module) is not MaskedActorCritic or type(module.actor) is not Actor or type(module.critic) is not Critic:
        return None
    scores, features = module.actor.scores, module.critic.features
    if type(scores) is not nn.Sequential or type(features) is not nn.Sequential:
        return None
    actor, critic = plain_layers(scores), plain_layers([*features, module.critic.value])
    return None if actor is None or critic is None else (actor, critic)


class FusedGradients:
    """The loss of an actor and a critic, and its gradient, for one minibatch after another."""

    def __init__(self, module: Any, layers: tuple[list[nn.Module], list[nn.Module]]) -> None:
        """Make room for gradients: parts of one vector, of which `gradient` is the whole.

        Args:
            module: RLlib's, whose parameters get them.
            layers: its `covered_layers`.
        """
        self.actor, self.critic = map(_Layers, layers)
        parameters = list(module.parameters())
        self.gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
        edges = itertools.accumulate((parameter.numel() for parameter in parameters), initial=0)
        self._parts = [
            (parameter, self.gradient[first:last].view_as(parameter))
            for parameter, (first, last) in zip(parameters, itertools.pairwise(edges), strict=True)
        ]

    @torch.no_grad()
    def compute(
        self, minibatch: dict[str, Any], *, clip: float | None, entropy_coeff: float, value_coeff: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write the gradient of a minibatch's loss.

        Args:
            minibatch: the columns of `OnPolicyLearner.rows_of` for B rows.
            clip: of PPO's surrogate; without it the gain is A log pi.
            entropy_coeff: weight of the entropy.
            value_coeff: weight of the critic's mean squared error.

        Returns:
            Figures of the policy [FIGURES], means over the rows with a choice; the values [B]; their errors [B].
        """
        for parameter, part in self._parts:
            parameter.grad = part
        seen = minibatch[Columns.OBS]
        logits = self.actor.forward(seen["observations"])
        derivatives = torch.empty_like(logits)
        figures = np.empty(FIGURES, np.float32)
        _policy_loss(
            logits.numpy(),
            seen["action_mask"].numpy(),
            minibatch[Columns.ACTIONS].numpy(),
            minibatch[Columns.ACTION_LOGP].numpy(),
            minibatch[Postprocessing.ADVANTAGES].numpy(),
            minibatch[HAS_CHOICE].numpy(),
            0.0 if clip is None else clip,
            entropy_coeff,
            clip is not None,
            derivatives.numpy(),
            figures,
        )
        self.actor.backward(derivatives)
        values = self.critic.forward(seen["observations"]).squeeze(-1)
        errors = values - minibatch[Postprocessing.VALUE_TARGETS]
        self.critic.backward((errors * (2 * value_coeff / len(errors))).unsqueeze(-1))
        return torch.from_numpy(figures), values, errors
