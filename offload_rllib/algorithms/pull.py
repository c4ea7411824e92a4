"""A pull to the policy that training started with, which fades (kickstarting: Schmitt et al., arXiv 1803.03835).

The loss of a minibatch gets, times a weight, the mean of the divergence KL(first || present) over its steps with a
choice. The weight falls to 0 along a line until the end of training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from offload_rllib.simulator.types import Array

PULL = "pull"
FIRST_LOGP = "first_logp"
ACTOR = "actor."


def first_actor(actor: nn.Module, weights: Mapping[str, Array]) -> nn.Module:
    """Return a copy of an actor, with the weights that its module started with, that nothing trains."""
    first = copy.deepcopy(actor)
    own = {name.removeprefix(ACTOR): torch.tensor(value) for name, value in weights.items() if name.startswith(ACTOR)}
    first.load_state_dict(own)
    return first.requires_grad_(requires_grad=False).eval()


def divergence(first_logp: Tensor, logits: Tensor, has_choice: Tensor) -> Tensor:
    """Return the mean of KL(first || present) over the steps with a choice; 0 if there are none.

    Args:
        first_logp: [N, R], of all actions under the first policy.
        logits: [N, R], of the present one.
        has_choice: [N] bool.
    """
    of_steps = (first_logp.exp() * (first_logp - logits.log_softmax(-1))).sum(-1)
    return (of_steps * has_choice).sum() / has_choice.sum().clamp_min(1)
