"""PPO on RLlib's new API stack, for agents that rarely have a choice.

Most steps of an agent offer no task: only action 0 is valid. Those steps carry rewards and stay in the episodes, so
that credit reaches the decisions that earned it. But the actor learns nothing from them: they are left out of its
loss and of the entropy. The critic's loss sees a sample of them, because advantages need values there too.
"""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.algorithms.ppo import ppo as rllib_ppo
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
    PPOConfig,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.torch_utils import explained_variance
from torch import Tensor

from offload_rllib.config.policy import Network
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.policies.saved import POLICY_FOLDER, PolicyDescription, save_policies
from offload_rllib.policies.sharing import assignment_of

HAS_CHOICE = "has_choice"
IDLE_PER_CHOICE = "idle_per_choice"
FINGERPRINT = "fingerprint"


class SelectSteps(ConnectorV2):
    """Keeps every step with a choice and a sample of those without, after the advantages are known.

    Adds the column `HAS_CHOICE`, standardises the advantages over the steps with a choice, and shuffles the rows.
    """

    def __init__(self, *, idle_per_choice: float, seed: int) -> None:
        """Args are `config.policy.PPO.idle_per_choice` and the seed of the sample."""
        super().__init__()
        self._idle_per_choice = idle_per_choice
        self._rng = np.random.default_rng(seed)

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the batch with fewer rows."""
        for module_id, columns in batch.items():
            has_choice = columns[Columns.OBS]["action_mask"].sum(-1) > 1
            # The artificial step at the end of each episode, where the critic bootstraps, is no data.
            real = columns.pop(Columns.LOSS_MASK, torch.ones_like(has_choice))
            chosen = torch.nonzero(has_choice & real).squeeze(-1)
            idle = torch.nonzero(~has_choice & real).squeeze(-1)
            count = min(len(idle), round(self._idle_per_choice * len(chosen)) if len(chosen) else len(idle))
            rows = torch.cat([chosen, idle[self._permutation(len(idle), idle.device)[:count]]])
            # RLlib's minibatches are consecutive rows, and rows come agent by agent: each must be a fair sample.
            rows = rows[self._permutation(len(rows), rows.device)]
            selected = tree.map_structure(lambda column, rows=rows: column[rows], columns)
            selected[HAS_CHOICE] = has_choice[rows]
            advantages = selected[Postprocessing.ADVANTAGES]
            if len(chosen) > 1:
                spread, mean = torch.std_mean(advantages[selected[HAS_CHOICE]])
                selected[Postprocessing.ADVANTAGES] = (advantages - mean) / spread.clamp_min(1e-4)
            batch[module_id] = selected
        return batch

    def _permutation(self, size: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self._rng.permutation(size)).to(device)


class PPOLearner(PPOTorchLearner):
    """RLlib's PPO learner with the loss over the steps that have a choice."""

    def build(self) -> None:
        """Append the selection of steps to RLlib's pipeline, behind the advantages."""
        super().build()
        settings = self.config.learner_config_dict
        self._learner_connector.append(
            SelectSteps(idle_per_choice=settings[IDLE_PER_CHOICE], seed=self.config.seed or 0)
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Return the clipped surrogate loss (arXiv 1707.06347, eq. 9); see `docs/algorithms/ppo.md`."""
        module = self.module[module_id].unwrapped()
        has_choice = batch[HAS_CHOICE]
        choices = has_choice.sum().clamp_min(1)

        def over_choices(values: Tensor) -> Tensor:
            return (values * has_choice).sum() / choices

        distribution = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        log_ratio = distribution.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
        ratio = log_ratio.exp()
        advantages = batch[Postprocessing.ADVANTAGES]
        surrogate = torch.min(
            advantages * ratio, advantages * ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        )
        entropy = over_choices(distribution.entropy())
        policy_loss = -over_choices(surrogate)
        values = module.compute_values(batch)
        targets = batch[Postprocessing.VALUE_TARGETS]
        value_loss = (values - targets).square().mean()
        # Schulman's estimator of the divergence from the sampling policy: unbiased and never negative.
        divergence = over_choices((ratio - 1) - log_ratio)
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        self.metrics.log_dict(
            {
                POLICY_LOSS_KEY: policy_loss,
                VF_LOSS_KEY: value_loss,
                LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: value_loss,
                LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained_variance(targets, values),
                ENTROPY_KEY: entropy,
                LEARNER_RESULTS_KL_KEY: divergence,
                "clip_fraction": over_choices(((ratio - 1).abs() > config.clip_param).float()),
                "choices_share": has_choice.float().mean(),
            },
            key=module_id,
            window=1,
        )
        return policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy


class OffloadPPOConfig(PPOConfig):
    """RLlib's `PPOConfig` with this project's algorithm, learner and module as defaults."""

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults that differ from RLlib's."""
        super().__init__(algo_class=algo_class or PPO)
        self.use_kl_loss = False
        self.vf_clip_param = float("inf")
        self.learner_config_dict = {IDLE_PER_CHOICE: 1.0}

    def get_default_learner_class(self) -> type[PPOLearner]:
        """Return the learner that leaves steps without a choice out."""
        return PPOLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the mask-aware module; RLlib's own fails on Dict observations."""
        return RLModuleSpec(module_class=MaskedActorCritic, model_config={"hidden": (64, 64), "activation": "tanh"})


class PPO(rllib_ppo.PPO):
    """PPO whose checkpoints carry the policy in a form that needs neither ray nor pickle."""

    @classmethod
    def get_default_config(cls) -> OffloadPPOConfig:
        """Return this project's defaults."""
        return OffloadPPOConfig()

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Save RLlib's checkpoint, and beside it the policy (see `policies.saved`)."""
        saved = super().save_checkpoint(checkpoint_dir)
        module_ids = sorted(self.env_runner_group.local_env_runner.module.keys())
        first = self.get_module(module_ids[0]).unwrapped()
        learned = self.learner_group.get_weights()
        weights = {
            name: {
                key.removeprefix("actor."): torch.as_tensor(value)
                for key, value in learned[name].items()
                if key.startswith("actor.")
            }
            for name in module_ids
        }
        assignment = assignment_of(self.config.policy_mapping_fn, module_ids)
        config = first.model_config
        description = PolicyDescription(
            algorithm="PPO",
            observation_size=first.observation_space["observations"].shape[0],
            actions=int(first.action_space.n),
            network=Network(**{key: config[key] for key in Network.model_fields if key in config}),
            rows=config.get("rows", FULL_ROWS),
            environment=self.config.env_config.get(FINGERPRINT, ""),
            env_steps=int(self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)),
            sharing=assignment.kind,
            serves=assignment.serves,
            agents=assignment.agents,
            policy_of=assignment.policy_of,
        )
        save_policies(Path(checkpoint_dir) / POLICY_FOLDER, description, weights)
        return saved
