"""APPO: RLlib's asynchronous PPO with target network, V-trace and replay of batches, for agents that rarely choose.

RLlib's are the flow of samples, weights and batches, the buffer and the learner's thread; the loss is ours.
"""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.algorithms.appo import appo as rllib_appo
from ray.rllib.algorithms.appo.appo_learner import APPOLearner as RLlibAPPOLearner
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided
from ray.rllib.utils.metrics import LEARNER_RESULTS
from ray.rllib.utils.torch_utils import explained_variance
from torch import Tensor

from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm, OffloadConfig
from offload_rllib.algorithms.on_policy import EXPLAINED_VARIANCE, HAS_CHOICE, standardised
from offload_rllib.algorithms.vtrace import vtrace
from offload_rllib.policies.module import MaskedAPPO
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner

# How long the trainer waits for samples before it looks after the rest; RLlib's 0 keeps a core busy with asking.
WAIT_FOR_SAMPLES_S = 0.01
LOOK_AFTER_THREAD_S = 1.0
UPDATES = "updates"


class OffloadAPPOConfig(OffloadConfig, rllib_appo.APPOConfig):
    """RLlib's `APPOConfig` with this project's algorithm, runner, learner and module as defaults."""

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults that differ from RLlib's."""
        super().__init__(algo_class=algo_class or APPO)
        self.env_runner_cls = EpisodesEnvRunner
        self.learner_config_dict = {}
        self.target_update_every = 8
        # The learner's thread is in the trainer's process: samples need not travel once more.
        self.num_learners = 0
        self.timeout_s_sampler_manager = WAIT_FOR_SAMPLES_S
        # RLlib's 10 s may be many times a run's budget.
        self.min_time_s_per_iteration = None
        self.min_sample_timesteps_per_iteration = 8000

    def training(self, *, target_update_every: int = NotProvided, **kwargs: Any) -> OffloadAPPOConfig:
        """Set hyperparameters.

        Args:
            target_update_every: gradient steps of a module between two moves of its target network, in place of
                RLlib's `target_network_update_freq`.
            kwargs: as RLlib's `APPOConfig.training`.
        """
        super().training(**kwargs)
        if target_update_every is not NotProvided:
            self.target_update_every = target_update_every
        return self

    def get_default_learner_class(self) -> type[APPOLearner]:
        """Return the learner that leaves steps without a choice out."""
        return APPOLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the mask-aware module with a target network."""
        return RLModuleSpec(module_class=MaskedAPPO)


class LearnerStoppedError(RuntimeError):
    """The learner's thread has ended, so that what waits for it would wait for ever."""


class _WatchedEvent(threading.Event):
    """An event whose waiters are told if it cannot come any more."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def wait(self, timeout: float | None = None) -> bool:
        while not super().wait(LOOK_AFTER_THREAD_S if timeout is None else timeout):
            self._check()
            if timeout is not None:
                return False
        return True


class APPOLearner(DirectLearner, APPOTorchLearner):
    """RLlib's APPO learner, a thread beside the trainer's, with the loss over the steps that have a choice."""

    def build(self) -> None:
        """Make networks, optimisers, buffer and thread."""
        self._failure: Exception | None = None
        self._updates: Counter[str] = Counter()
        super().build()
        self._agg_event = _WatchedEvent(self._check_thread)

    def _check_thread(self) -> None:
        """Find out whether the thread still learns.

        Raises:
            LearnerStoppedError: it does not; the cause is what ended it.
        """
        if not self._learner_thread.is_alive():
            raise LearnerStoppedError(f"the learner has stopped: {self._failure}") from self._failure

    def update(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Put a batch into the buffer, as RLlib's.

        Raises:
            LearnerStoppedError: nobody takes it out.
        """
        self._check_thread()
        return super().update(*args, **kwargs)

    def remaining_results(self) -> list[dict[str, Any]]:
        """Return the results that nobody has taken: the thread gives one per use of a batch, `update` takes one."""
        results = []
        while True:
            try:
                results.append(self._learner_thread_out_queue.get_nowait())
            except queue.Empty:
                return results

    @property
    def model_lock(self) -> Any:
        """Held during each gradient step; who holds it finds weights and optimisers at rest."""
        return self._model_io_lock

    def _update(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        losses: dict[str, Tensor] = {}
        try:
            with self.model_lock:
                for module_id, rows in batch.items():
                    if self.should_module_be_updated(module_id):
                        losses[module_id] = self._learn(module_id, rows)
        except Exception as failure:
            self._failure = failure
            raise
        return {}, losses, {}

    def _learn(self, module_id: str, rows: dict[str, Any]) -> Tensor:
        """Take one gradient step, and move the target network when it is due; return the loss."""
        config = self.config.get_config_for_module(module_id)
        # Most rows have no choice: only the critic looks at those.
        rows[HAS_CHOICE] = rows[Columns.LOSS_MASK].bool() & (
            rows[Columns.OBS]["action_mask"].sum(-1, dtype=torch.int32) > 1
        )
        outputs = self.module[module_id].forward_train(_chosen(rows))
        loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=rows, fwd_out=outputs)
        self.descend(module_id, config, loss)
        self.log_noted(module_id)
        self._updates[module_id] += 1
        # Since the learner was built; fewer than batches x uses where the buffer overflowed.
        self.metrics.log_value((module_id, UPDATES), self._updates[module_id], reduce="item")
        if self._updates[module_id] % config.target_update_every == 0:
            for network, target in self.module[module_id].unwrapped().get_target_network_pairs():
                update_target_network(main_net=network, target_net=target, tau=config.tau)
        return loss.detach()

    def compute_loss_for_module(
        self, *, module_id: str, config: OffloadAPPOConfig, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Return IMPACT's clipped surrogate loss (arXiv 1912.00167, section 3); see `docs/algorithms/appo.md`.

        `batch` holds N rows, `fwd_out` the scores of those with a choice.
        """
        module = self.module[module_id].unwrapped()
        real, has_choice = batch[Columns.LOSS_MASK].bool(), batch[HAS_CHOICE]
        choices = has_choice.sum().clamp_min(1)

        def over_choices(figures: Tensor) -> Tensor:
            return figures.sum() / choices

        chosen = _chosen(batch)
        of = module.get_train_action_dist_cls().from_logits
        present = of(fwd_out[Columns.ACTION_DIST_INPUTS])
        sampled_logp = chosen[Columns.ACTION_LOGP]
        log_ratio = present.logp(chosen[Columns.ACTIONS]) - sampled_logp
        with torch.no_grad():
            target = of(module.forward_target(chosen)[TARGET_NETWORK_ACTION_DIST_INPUTS])
            target_log_ratio = target.logp(chosen[Columns.ACTIONS]) - sampled_logp
            importance = (-target_log_ratio).exp().clamp_max(config.target_worker_clipping)
            # Where there is no choice every policy does the same, with certainty.
            ratios = torch.ones_like(batch[Columns.REWARDS], dtype=torch.float32)
            ratios[has_choice] = target_log_ratio.exp()
        values = module.compute_values(batch)
        targets, advantages = (
            torch.from_numpy(array).to(self._device)
            for array in vtrace(
                batch[Columns.REWARDS].float().cpu().numpy(),
                values.detach().cpu().numpy(),
                ratios.cpu().numpy(),
                real.cpu().numpy(),
                gamma=config.gamma,
                rho_clip=config.vtrace_clip_rho_threshold,
                pg_rho_clip=config.vtrace_clip_pg_rho_threshold,
            )
        )
        advantages = standardised(advantages, has_choice)[has_choice]
        ratio = importance * log_ratio.exp()
        surrogate = torch.min(
            advantages * ratio, advantages * ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        )
        policy_loss = -over_choices(surrogate)
        entropy = over_choices(present.entropy())
        value_loss = (values - targets)[real].square().mean()
        self.note(
            module_id,
            {
                POLICY_LOSS_KEY: policy_loss,
                VF_LOSS_KEY: value_loss,
                EXPLAINED_VARIANCE: explained_variance(targets[real], values[real]),
                ENTROPY_KEY: entropy,
                "sampler_kl": over_choices(log_ratio.exp() - 1 - log_ratio),
                "clip_fraction": over_choices(((ratio - 1).abs() > config.clip_param).float()),
                "importance_mean": over_choices(target_log_ratio.exp()),
                "choices_share": has_choice.sum() / real.sum(),
            },
        )
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        return policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move schedules on; RLlib's APPO would move target networks too, by a count that takes agents for steps."""
        super(RLlibAPPOLearner, self).after_gradient_based_update(timesteps=timesteps)


def _chosen(rows: dict[str, Any]) -> dict[str, Any]:
    """Return what the actor learns from: the rows with a choice."""
    here = rows[HAS_CHOICE]
    columns: dict[str, Any] = {name: rows[name][here] for name in (Columns.ACTIONS, Columns.ACTION_LOGP)}
    columns[Columns.OBS] = {name: part[here] for name, part in rows[Columns.OBS].items()}
    return columns


def _lock_of(learner: APPOLearner) -> Any:
    return learner.model_lock


class APPO(OffloadAlgorithm, rllib_appo.APPO):
    """RLlib's APPO on the batched runner's episodes."""

    @classmethod
    def get_default_config(cls) -> OffloadAPPOConfig:
        """Return this project's defaults."""
        return OffloadAPPOConfig()

    def training_step(self) -> None:
        """Pass on what the runners have sampled meanwhile, and collect what the learner reports."""
        super().training_step()
        for result in self.learner_group.foreach_learner(APPOLearner.remaining_results):
            for figures in result.get():
                self.metrics.aggregate([figures], key=LEARNER_RESULTS)

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Save checkpoint and policy between two gradient steps."""
        with next(iter(self.learner_group.foreach_learner(_lock_of))).get():
            return super().save_checkpoint(checkpoint_dir)
