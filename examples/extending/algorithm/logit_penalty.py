"""An algorithm: PPO with a penalty on the squares of the logits, so that early policies stay far from certain."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from torch import Tensor

from offload_rllib.algorithms.ppo import OffloadPPOConfig, PPOLearner

WEIGHT = 1e-3


class PenaltyLearner(PPOLearner):
    """Adds the penalty to PPO's loss, and logs it as `logit_penalty`."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return PPO's loss plus the penalty over the valid actions."""
        loss = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        valid = batch[Columns.OBS]["action_mask"] == 1
        penalty = WEIGHT * fwd_out[Columns.ACTION_DIST_INPUTS][valid].square().mean()
        self.metrics.log_value((module_id, "logit_penalty"), penalty.item(), window=1)
        return loss + penalty


class PenaltyConfig(OffloadPPOConfig):
    """PPO with that learner; takes the keys of PPO."""

    def get_default_learner_class(self) -> type[PenaltyLearner]:
        """Return the learner that `build_algo` makes."""
        return PenaltyLearner
