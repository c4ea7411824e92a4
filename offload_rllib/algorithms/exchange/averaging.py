"""One flat vector of what Adam moves and remembers, averaged over learners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from offload_rllib.algorithms.exchange.meeting import Meeting

# What Adam remembers of every weight beside the number of its steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


def adam_state(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """Return what an Adam remembers of a weight; it begins with zeros, as Adam itself begins."""
    state = optimizer.state[parameter]
    if not state:
        state |= {"step": torch.zeros((), device=parameter.device)} | {
            name: torch.zeros_like(parameter) for name in MOMENTS
        }
    return state


def parameters_of(optimizer: Any) -> list[Tensor]:
    """Return the weights that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def steps_of(optimizer: Any) -> int:
    """Return how many steps an Adam has taken."""
    return int(adam_state(optimizer, parameters_of(optimizer)[0])["step"])


@torch.no_grad()
def average(meeting: Meeting, optimizers: Sequence[Any], shares: Sequence[float], steps: Sequence[int]) -> None:
    """Put into all learners the weighted averages of their weights and of both of Adam's moments, at one meeting.

    Where a single learner has the whole share, all get its weights, bit for bit.

    Args:
        meeting: of the learners.
        optimizers: an Adam for each of K policies.
        shares: [K] this learner's weight for each; over all learners they sum to 1.
        steps: [K] how many steps each Adam has then taken: it corrects its moments by that number.
    """
    places = [list(_places(optimizer)) for optimizer in optimizers]
    pieces = [
        place.reshape(-1) * share if share else torch.zeros_like(place).reshape(-1)
        for of_policy, share in zip(places, shares, strict=True)
        for place in of_policy
    ]
    vector = torch.cat(pieces)
    meeting.add(vector)
    flat = [place for of_policy in places for place in of_policy]
    for place, piece in zip(flat, vector.split([place.numel() for place in flat]), strict=True):
        place.copy_(piece.view_as(place))
    for optimizer, taken in zip(optimizers, steps, strict=True):
        for parameter in parameters_of(optimizer):
            adam_state(optimizer, parameter)["step"].fill_(taken)


def _places(optimizer: Any) -> Iterable[Tensor]:
    for parameter in parameters_of(optimizer):
        state = adam_state(optimizer, parameter)
        yield parameter
        yield from (state[name] for name in MOMENTS)


@torch.no_grad()
def add_gradients(meeting: Meeting, parameters: Sequence[Tensor]) -> None:
    """Put into all learners the sum of their gradients, as one vector; no gradient counts as zero."""
    gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    vector = torch.cat([gradient.reshape(-1) for gradient in gradients])
    meeting.add(vector)
    for parameter, piece in zip(parameters, vector.split([one.numel() for one in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)
