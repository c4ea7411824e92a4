"""A learner of actor and critic whose gradient steps may be written out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.torch_utils import explained_variance
from torch import Tensor

from offload_rllib.algorithms.direct_learner import GRADIENT_NORM, largest_norm
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE, ActorCriticSteps, LossSettings
from offload_rllib.algorithms.fused.kernels import (
    CHOICES,
    CLIPPED,
    DIVERGENCE,
    ENTROPY,
    EXPLAINED,
    FIGURES,
    SURROGATE,
    VALUE_LOSS,
)
from offload_rllib.algorithms.fused.learner import FusedLearner
from offload_rllib.algorithms.fused.network import CoveredNetwork

EXPLAINED_VARIANCE = "vf_explained_var"


class ActorCriticLearner(FusedLearner):
    """What PPO, A2C and APPO share."""

    # RLlib's learners have them.
    entropy_coeff_schedulers_per_module: Any

    def make_steps(self, network: CoveredNetwork, optimizer: Any) -> ActorCriticSteps:
        """Make gradient steps of actor and critic; see `FusedLearner`."""
        return ActorCriticSteps(network, optimizer)

    def whole_loss(
        self,
        module_id: str,
        config: Any,
        batch: dict[str, Any],
        policy_loss: Tensor,
        entropy: Tensor,
        figures: dict[str, Tensor],
    ) -> Tensor:
        """Return the loss of actor and critic over a minibatch, and note its parts.

        Args:
            module_id: the policy.
            config: its own.
            batch: N rows.
            policy_loss: of the actor.
            entropy: of the actor's choices.
            figures: what else is noted.
        """
        values, targets = self.network(module_id).compute_values(batch), batch[Postprocessing.VALUE_TARGETS]
        value_loss = (values - targets).square().mean()
        parts = {
            POLICY_LOSS_KEY: policy_loss,
            VF_LOSS_KEY: value_loss,
            EXPLAINED_VARIANCE: explained_variance(targets, values),
            ENTROPY_KEY: entropy,
            "choices_share": batch[HAS_CHOICE].float().mean(),
        }
        self.note(module_id, parts | figures)
        entropy_coeff: Any = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        return policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy

    def learn_fused(
        self,
        module_id: str,
        config: Any,
        rows: dict[str, Any],
        minibatches: Iterable[tuple[Tensor, float]],
        steps: ActorCriticSteps,
    ) -> float:
        """Take one gradient step after the other.

        Args:
            module_id: the policy.
            config: its own.
            rows: columns as `ActorCriticSteps.compute` reads them.
            minibatches: for each step the places of its rows, and the factor on their gradient.
            steps: of `fused_steps`.

        Returns:
            The loss of the last minibatch.

        Raises:
            DivergedError: a loss or its gradient is not finite.
        """
        settings = LossSettings(
            clip=self.clip_of(config),
            entropy_coeff=float(self.entropy_coeff_schedulers_per_module[module_id].get_current_value()),
            value_coeff=config.vf_loss_coeff,
        )
        found: list[np.ndarray] = []
        loss = 0.0
        steps.take_over()
        try:
            for order, share in minibatches:
                if len(order):
                    figures = steps.compute(rows, order, settings)
                    if share != 1:
                        steps.gradient *= share
                else:
                    figures = np.zeros(FIGURES)
                    steps.gradient.zero_()
                if self.meeting is not None and self.adds_gradients:
                    self.meeting.add(steps.gradient)
                norm, loss = steps.norm(), settings.loss_of(figures)
                figures[CHOICES] /= max(len(order), 1)
                noted = np.append(figures, norm)
                if len(order):
                    found.append(noted)
                self.check_finite(module_id, loss, norm, lambda noted=noted: self._figures_of(config, noted))
                steps.step(norm, largest_norm(config))
        finally:
            steps.hand_back()
        if found:
            self.note(module_id, self._figures_of(config, np.mean(found, 0)))
        return loss

    def _figures_of(self, config: Any, found: np.ndarray) -> dict[str, Tensor]:
        """Return what the kernels have found, with the norm behind it, under the torch learner's names."""
        figures = {
            POLICY_LOSS_KEY: -found[SURROGATE],
            VF_LOSS_KEY: found[VALUE_LOSS],
            EXPLAINED_VARIANCE: found[EXPLAINED],
            ENTROPY_KEY: found[ENTROPY],
            "choices_share": found[CHOICES],
            GRADIENT_NORM: found[-1],
        }
        if self.clip_of(config) is not None:
            figures |= {LEARNER_RESULTS_KL_KEY: found[DIVERGENCE], "clip_fraction": found[CLIPPED]}
        return {name: torch.tensor(value) for name, value in figures.items()}

    def clip_of(self, config: Any) -> float | None:
        """Return how far the ratio of probabilities may move; None: the loss has no ratio."""
        return None
