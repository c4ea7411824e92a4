"""Gradient steps of PPO and A2C, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from offload_rllib.algorithms.fused.kernels import (
    BLOCK,
    ENTROPY,
    FIGURES,
    SURROGATE,
    VALUE_LOSS,
    policy_loss,
    value_loss,
)
from offload_rllib.algorithms.fused.network import CoveredNetwork
from offload_rllib.algorithms.fused.steps import FusedSteps

HAS_CHOICE = "has_choice"
# Sizes of minibatches whose buffers are kept: in an update there are two at most, one row apart.
KEPT_SIZES = 2


@dataclass(frozen=True)
class LossSettings:
    """What the loss of PPO or A2C depends on."""

    clip: float | None
    """Of PPO's surrogate; without it the gain is A log pi."""
    entropy_coeff: float
    value_coeff: float
    """Weight of the critic's mean squared error."""

    def loss_of(self, figures: np.ndarray) -> float:
        """Return the whole loss, given its figures."""
        by_critic = self.value_coeff * figures[VALUE_LOSS]
        return float(by_critic - figures[SURROGATE] - self.entropy_coeff * figures[ENTROPY])


class _Passes:
    """Forward and backward passes of actor and critic over the same rows."""

    def __init__(self, steps: FusedSteps, rows: int, features: int) -> None:
        self.inputs = torch.empty(rows, features)
        self.actor, self.critic = (
            part.passes(layers, self.inputs) for part, layers in zip(steps.network.parts, steps.layers, strict=True)
        )


class ActorCriticSteps(FusedSteps):
    """Gradient steps of an actor and a critic."""

    def __init__(self, network: CoveredNetwork, optimizer: Any) -> None:
        """Make room; see `FusedSteps`."""
        super().__init__(network, optimizer)
        self._passes: dict[int, _Passes] = {}
        self._loss_room = np.empty((2 * network.actions + 5, BLOCK))

    def compute(self, rows: dict[str, Any], order: Tensor, settings: LossSettings) -> np.ndarray:
        """Write the gradient of the loss into `gradient`; return its figures [FIGURES], all but the norm.

        Args:
            rows: the columns of `OnPolicyLearner.rows_of`.
            order: [B] the places in them of a minibatch.
            settings: of the loss.
        """
        seen = rows[Columns.OBS]
        figures = np.empty(FIGURES)
        places = order.numpy()
        passes = self._passes_over(len(order), seen["observations"].shape[1])
        torch.index_select(seen["observations"], 0, order, out=passes.inputs)
        passes.actor.forward()
        policy_loss(
            places,
            passes.actor.outputs,
            passes.actor.offsets,
            seen["action_mask"].numpy(),
            rows[Columns.ACTIONS].numpy(),
            rows[Columns.ACTION_LOGP].numpy(),
            rows[Postprocessing.ADVANTAGES].numpy(),
            rows[HAS_CHOICE].numpy(),
            settings.clip or 0.0,
            settings.entropy_coeff,
            settings.clip is not None,
            self._loss_room,
            passes.actor.by_offsets,
            figures,
        )
        passes.actor.backward()
        passes.critic.forward()
        value_loss(
            places,
            passes.critic.outputs,
            passes.critic.offsets,
            rows[Postprocessing.VALUE_TARGETS].numpy(),
            settings.value_coeff,
            passes.critic.by_offsets,
            figures,
        )
        passes.critic.backward()
        return figures

    def _passes_over(self, rows: int, features: int) -> _Passes:
        if rows not in self._passes:
            if len(self._passes) == KEPT_SIZES:
                self._passes.clear()
            self._passes[rows] = _Passes(self, rows, features)
        return self._passes[rows]
