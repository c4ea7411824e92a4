"""PPO on RLlib's new API stack, for agents that rarely have a choice (see `on_policy`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from ray.rllib.algorithms.ppo import ppo as rllib_ppo
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    PPOConfig,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from offload_rllib.algorithms.constraints import ConstrainedAlgorithm
from offload_rllib.algorithms.on_policy import HAS_CHOICE, OnPolicyLearner
from offload_rllib.algorithms.settings import OnPolicyConfig
from offload_rllib.config import algorithms as schema
from offload_rllib.config.policy import Training


class PPOLearner(OnPolicyLearner, PPOTorchLearner):
    """RLlib's PPO learner with the loss over the steps that have a choice."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return the clipped surrogate loss (arXiv 1707.06347, eq. 9); see `docs/algorithms/ppo.md`."""
        module = self.network(module_id)
        has_choice = batch[HAS_CHOICE]
        choices = has_choice.sum().clamp_min(1)

        def over_choices(values: Tensor) -> Tensor:
            return (values * has_choice).sum() / choices

        distribution: Any = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        log_ratio = distribution.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
        ratio = log_ratio.exp()
        advantages = batch[Postprocessing.ADVANTAGES]
        surrogate = torch.min(
            advantages * ratio, advantages * ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        )
        entropy = over_choices(distribution.entropy())
        policy_loss = -over_choices(surrogate)
        # Schulman's estimator of the divergence from the sampling policy: unbiased and never negative.
        divergence = over_choices((ratio - 1) - log_ratio)
        figures = {
            LEARNER_RESULTS_KL_KEY: divergence,
            "clip_fraction": over_choices(((ratio - 1).abs() > config.clip_param).float()),
        }
        loss = self.whole_loss(module_id, config, batch, policy_loss, entropy, figures)
        # Noted behind the other parts of the loss.
        return loss + self.pull_of(module_id, batch, fwd_out[Columns.ACTION_DIST_INPUTS])

    fused_loss = compute_loss_for_module

    def clip_of(self, config: Any) -> float:
        """Return how far the ratio of probabilities may move."""
        return config.clip_param


class OffloadPPOConfig(OnPolicyConfig, PPOConfig):
    """RLlib's `PPOConfig` with this project's algorithm, runner, learner and module as defaults."""

    section = schema.PPO
    rllib_names: ClassVar[Mapping[str, str]] = {"clip": "clip_param"}

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults that differ from RLlib's."""
        super().__init__(algo_class=algo_class or PPO)
        self.use_kl_loss = False
        self.vf_clip_param = float("inf")
        self.apply_defaults()

    def translated(self, algorithm: schema.PPO, training: Training) -> dict[str, Any]:
        """Return settings; see `OffloadConfig.translated`."""
        own = {"clip_param": algorithm.clip, "num_epochs": algorithm.epochs}
        return super().translated(algorithm, training) | own

    def get_default_learner_class(self) -> type[PPOLearner]:
        """Return the learner that leaves steps without a choice out."""
        return PPOLearner


class PPO(ConstrainedAlgorithm, rllib_ppo.PPO):
    """RLlib's PPO on fragments."""

    @classmethod
    def get_default_config(cls) -> OffloadPPOConfig:
        """Return this project's defaults."""
        return OffloadPPOConfig()

    def training_step(self) -> None:
        """Sample a batch, learn from it for some epochs, give the runners the new weights."""
        self.iterate(num_epochs=self.config.num_epochs, minibatch_size=self.config.minibatch_size)
