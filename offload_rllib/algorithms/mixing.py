"""Value factorisation: action values of agents that are learned through the value of the team's joint action.

Formulas in `docs/algorithms/value_factorisation.md`.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from offload_rllib.algorithms.ddqn_learner import DISCOUNTS, RETURNS, TD_ERRORS, WEIGHTS, DDQNLearner
from offload_rllib.algorithms.double_q import weighted_huber
from offload_rllib.policies.module import QF_PREDS
from offload_rllib.rollout.replay import Sample
from offload_rllib.rollout.team import split_team


def joint_masks(masks: Tensor, deciding: Tensor, agents: int) -> Tensor:
    """Return the masks [B, A, R] of all agents where one of them decides: the others have action 0 alone.

    Args:
        masks: [B, R] of the deciding agents.
        deciding: [B] int64, who they are.
        agents: A.
    """
    rows = torch.arange(len(masks))
    whole = torch.zeros((len(masks), agents, masks.shape[-1]), dtype=masks.dtype, device=masks.device)
    whole[..., 0] = 1
    whole[rows, deciding] = masks
    return whole


def chosen(values: Tensor, actions: Tensor) -> Tensor:
    """Return the values [B, A] of actions [B, A], from those of all actions [B, A, R]."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


class MixingLearner(DDQNLearner):
    """Learns as `DDQNLearner`, with a mixer between the action values of the agents and the loss.

    A batch holds what all agents saw, [B, A, F], with their masks [B, A, R] and actions [B, A].
    """

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return the weighted Huber loss of the team's TD errors, and put those [B] into `fwd_out`."""
        module = self.network(module_id)
        with torch.no_grad():
            following = {Columns.OBS: batch[Columns.NEXT_OBS]}
            later = chosen(module.forward_target(following)[QF_PREDS], self._best(module, batch[Columns.NEXT_OBS]))
            seen = batch[Columns.NEXT_OBS]["observations"]
            targets = batch[RETURNS] + batch[DISCOUNTS] * module.mix_target(later, seen)
        own = chosen(fwd_out[QF_PREDS], batch[Columns.ACTIONS])
        values = module.mix(own, batch[Columns.OBS]["observations"])
        errors = targets - values
        fwd_out[TD_ERRORS] = errors.detach()
        loss = weighted_huber(errors, batch[WEIGHTS], config.huber_delta)
        self.note(module_id, {self.TOTAL_LOSS_KEY: loss, "td_error_mean": errors.abs().mean(), "q_mean": values.mean()})
        return loss

    @staticmethod
    def _best(module: Any, seen: dict[str, Tensor]) -> Tensor:
        """Return the best action [B, A] of every agent, by the network that is learned; 0 where there is no choice."""
        masks = seen["action_mask"]
        best = torch.zeros(masks.shape[:-1], dtype=torch.int64, device=masks.device)
        has_choice = masks.sum(-1, dtype=torch.int32) > 1
        deciding = {name: values[has_choice] for name, values in seen.items()}
        best[has_choice] = module.compute_q_values({Columns.OBS: deciding})[QF_PREDS].argmax(-1)
        return best

    def _tensors(self, module_id: str, sample: Sample) -> dict[str, Any]:
        batch = super()._tensors(module_id, sample)
        agents = self.network(module_id).agents
        rows = sample.transitions
        for key, team in ((Columns.OBS, rows.observations), (Columns.NEXT_OBS, rows.next_observations)):
            seen, deciding = (torch.from_numpy(array).to(self._device) for array in split_team(team, agents))
            batch[key] = {
                "observations": seen.contiguous(),
                "action_mask": joint_masks(batch[key]["action_mask"], deciding, agents),
            }
            if key == Columns.OBS:
                actions = torch.zeros((len(seen), agents), dtype=torch.int64, device=seen.device)
                actions[torch.arange(len(seen)), deciding] = batch[Columns.ACTIONS]
                batch[Columns.ACTIONS] = actions
        return batch
