"""APPO: RLlib's asynchronous PPO with target network, V-trace and replay of batches, for agents that rarely choose.

RLlib's are the flow of samples, weights and batches, the buffer and the learner's thread; the loss is ours.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from ray.rllib.algorithms.appo import appo as rllib_appo
from ray.rllib.algorithms.appo.appo_learner import APPOLearner as RLlibAPPOLearner
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.rllib.utils.torch_utils import explained_variance
from torch import Tensor

from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.algorithms.exchange.moments import standardised
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.algorithms.on_policy import (
    EXPLAINED_VARIANCE,
    HAS_CHOICE,
    IDLE_PER_CHOICE,
    select_rows,
    take,
)
from offload_rllib.algorithms.settings import UNSET, OffloadConfig, actor_critic_settings, refuse_stock
from offload_rllib.algorithms.vtrace import vtrace
from offload_rllib.config import appo as schema
from offload_rllib.config.policy import Training
from offload_rllib.envs.spaces import ELAPSED_S
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.module import MaskedAPPO
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner

# How long the trainer waits for samples before it looks after the rest; RLlib's 0 keeps a core busy with asking.
WAIT_FOR_SAMPLES_S = 0.01
WAIT_FOR_USES_S = 0.002
LOOK_AFTER_THREAD_S = 1.0
UPDATES = "updates"
USES = "batch_uses"
LAG = "lag"
TARGET_LOGP = "target_logp"


class OffloadAPPOConfig(OffloadConfig, rllib_appo.APPOConfig):
    """RLlib's `APPOConfig` with this project's algorithm, runner, learner and module as defaults."""

    section = schema.APPO
    rllib_names: ClassVar[Mapping[str, str]] = {"clip": "clip_param"}

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults that differ from RLlib's."""
        super().__init__(algo_class=algo_class or APPO)
        self.env_runner_cls = EpisodesEnvRunner
        self.minibatch_steps: int
        self.least_uses_per_batch: float
        self.target_update_every: int
        # The learner's thread is in the trainer's process: samples need not travel once more.
        self.num_learners = 0
        self.timeout_s_sampler_manager = WAIT_FOR_SAMPLES_S
        # RLlib's 10 s may be many times a run's budget.
        self.min_time_s_per_iteration = None
        self.apply_defaults()

    def apply(self, algorithm: schema.APPO, training: Training) -> None:
        """Set what a policy file says; see `OffloadConfig.apply`."""
        super().apply(algorithm, training)
        self.reporting(min_sample_timesteps_per_iteration=algorithm.report_env_steps)
        self.env_runners(rollout_fragment_length=algorithm.fragment_steps)

    def translated(self, algorithm: schema.APPO, training: Training) -> dict[str, Any]:
        """Return settings; see `OffloadConfig.translated`."""
        return actor_critic_settings(algorithm, training) | {
            "minibatch_steps": algorithm.minibatch_steps,
            "clip_param": algorithm.clip,
            "train_batch_size_per_learner": algorithm.batch_env_steps,
            "circular_buffer_num_batches": algorithm.buffer_batches,
            "circular_buffer_iterations_per_batch": algorithm.uses_per_batch,
            "least_uses_per_batch": algorithm.least_uses_per_batch,
            "target_update_every": algorithm.target_update_every,
            "target_worker_clipping": algorithm.importance_clip,
            "vtrace_clip_rho_threshold": algorithm.rho_clip,
            "vtrace_clip_pg_rho_threshold": algorithm.pg_rho_clip,
        }

    def adapt(self, algorithm: schema.APPO, training: Training, env: NativeEnv, policies: int) -> None:
        """Choose the runner that samples episodes; see `OffloadConfig.adapt`."""
        refuse_stock("name", "APPO", training, env)
        if training.env_runner == "batched":
            self.env_runners(env_runner_cls=EpisodesEnvRunner)

    def training(
        self,
        *,
        minibatch_steps: int = UNSET,
        least_uses_per_batch: float = UNSET,
        target_update_every: int = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set hyperparameters.

        Args:
            minibatch_steps: rows of a module per gradient step, in place of RLlib's `minibatch_size`.
            least_uses_per_batch: how often batches are learned from on average before sampling continues.
            target_update_every: gradient steps of a module between two moves of its target network, in place of
                RLlib's `target_network_update_freq`.
            kwargs: as RLlib's `APPOConfig.training`.
        """
        super().training(**kwargs)
        for name, value in (
            ("minibatch_steps", minibatch_steps),
            ("least_uses_per_batch", least_uses_per_batch),
            ("target_update_every", target_update_every),
        ):
            if value is not UNSET:
                setattr(self, name, value)
        return self

    def get_default_learner_class(self) -> type[APPOLearner]:
        """Return the learner that leaves steps without a choice out."""
        return APPOLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the mask-aware module with a target network."""
        return RLModuleSpec(module_class=MaskedAPPO)


class LearnerStoppedError(RuntimeError):
    """The learner's thread has ended, so that a caller would wait for it indefinitely."""


class _WatchedEvent(threading.Event):
    """An event whose waiters are notified if it cannot come any more."""

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
        self._uses: Counter[str] = Counter()
        self._batches = self._uses_of_all = 0
        # Gradient steps of each module before weights of this number were handed out.
        self._steps_before: dict[int, Counter[str]] = {}
        self._rng = np.random.default_rng(self.config.seed or 0)
        super().build()
        self._agg_event = _WatchedEvent(self._check_thread)

    def schedules(self) -> list[Scheduler]:
        """Return the schedules of the entropy's weight."""
        return [self.entropy_coeff_schedulers_per_module[module_id] for module_id in list(self.module.keys())]

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state, and note how many gradient steps its weights have had."""
        state = super().get_state(*args, **kwargs)
        self._steps_before.setdefault(state[WEIGHTS_SEQ_NO], self._updates.copy())
        return state

    def _lag(self, module_id: str, numbers: Tensor) -> Tensor:
        """Return the mean number of gradient steps since the weights of these numbers [N] were handed out.

        Numbers that this learner has not handed out are those of the weights that it began with.
        """
        known, counts = torch.unique(numbers, return_counts=True)
        before = [self._steps_before.get(int(number), Counter())[module_id] for number in known]
        steps = self._updates[module_id] - torch.tensor(before, device=counts.device)
        return (counts * steps).sum() / counts.sum().clamp_min(1)

    def _check_thread(self) -> None:
        """Find out whether the thread still learns.

        Raises:
            LearnerStoppedError: it does not; the cause is what ended it.
        """
        if not self._learner_thread.is_alive():
            raise LearnerStoppedError(f"the learner has stopped: {self._failure}") from self._failure

    def update(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Put a batch into the buffer, as RLlib's, as soon as those before it have been used often enough.

        Otherwise a machine that is busy with other work would spend the budget of samples on little learning.

        Raises:
            LearnerStoppedError: the learner takes no batch out.
        """
        config: Any = self.config
        # One batch more than the buffer holds: the learner can always reach that, for each was used before it went.
        freely = config.circular_buffer_num_batches + 1
        while (self._batches - freely) * config.least_uses_per_batch > self._uses_of_all:
            self._check_thread()
            time.sleep(WAIT_FOR_USES_S)
        self._check_thread()
        self._batches += 1
        return super().update(*args, **kwargs)

    def remaining_results(self) -> list[dict[str, Any]]:
        """Return the results that have not been taken: the thread gives one per use of a batch, `update` takes one."""
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
            self._uses_of_all += 1
        except Exception as failure:
            self._failure = failure
            raise
        return {}, losses, {}

    def _learn(self, module_id: str, rows: dict[str, Any]) -> Tensor:
        """Use a batch once: V-trace over all of it, then a gradient step per minibatch; return the last loss."""
        config = self.config.get_config_for_module(module_id)
        selected = self.rows_of(module_id, config, rows)
        size = len(selected[HAS_CHOICE])
        edges = np.linspace(0, size, max(size // config.minibatch_steps, 1) + 1).astype(int)
        order = torch.arange(size, device=self._device)
        loss = torch.zeros(())
        for first, last in itertools.pairwise(edges):
            minibatch = take(selected, order[first:last])
            outputs = self.module[module_id].forward_train(_chosen(minibatch))
            loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=minibatch, fwd_out=outputs)
            self._noted[module_id][-1][LAG] = self._lag(module_id, minibatch[WEIGHTS_SEQ_NO][minibatch[HAS_CHOICE]])
            self.descend(module_id, config, loss)
            self._updates[module_id] += 1
            if self._updates[module_id] % config.target_update_every == 0:
                for network, target in self.network(module_id).get_target_network_pairs():
                    update_target_network(main_net=network, target_net=target, tau=config.tau)
        self._uses[module_id] += 1
        self.log_noted(module_id)
        # Since the learner was built; fewer uses than batches x uses_per_batch where the buffer overflowed.
        counts = {UPDATES: self._updates[module_id], USES: self._uses[module_id]}
        self.metrics.log_dict(counts, key=module_id, reduce="item")
        return loss.detach()

    def rows_of(self, module_id: str, config: Any, rows: dict[str, Any]) -> dict[str, Any]:
        """Return the columns to learn from: all steps with a choice and a sample of the others, in random order.

        Args:
            module_id: the policy.
            config: its own.
            rows: RLlib's batch: pieces of episodes, one after the other, each followed by a row that is not real.

        Returns:
            Observations, actions and their log probabilities; `TARGET_LOGP`, under the target network; V-trace's
            targets, and its advantages, standardised over the steps with a choice.
        """
        module = self.network(module_id)
        real = rows[Columns.LOSS_MASK].bool()
        has_choice = real & (rows[Columns.OBS]["action_mask"].sum(-1, dtype=torch.int32) > 1)
        chosen = _chosen(rows | {HAS_CHOICE: has_choice})
        logp = rows[Columns.ACTION_LOGP].float()
        with torch.no_grad():
            of = module.get_train_action_dist_cls().from_logits
            target = of(module.forward_target(chosen)[TARGET_NETWORK_ACTION_DIST_INPUTS])
            # Where there is no choice every policy does the same, with certainty.
            target_logp = logp.clone()
            target_logp[has_choice] = target.logp(chosen[Columns.ACTIONS])
            values = module.compute_values(rows)
        targets, advantages = (
            torch.from_numpy(array).to(self._device)
            for array in vtrace(
                rows[Columns.REWARDS].float().cpu().numpy(),
                values.cpu().numpy(),
                (target_logp - logp).exp().cpu().numpy(),
                real.cpu().numpy(),
                self._elapsed(rows, config),
                gamma=config.gamma,
                lambda_=config.lambda_,
                rho_clip=config.vtrace_clip_rho_threshold,
                pg_rho_clip=config.vtrace_clip_pg_rho_threshold,
            )
        )
        places = torch.nonzero(real).squeeze(-1)
        idle_per_choice = self.config.learner_config_dict[IDLE_PER_CHOICE]
        kept = places[torch.from_numpy(select_rows(has_choice[real].cpu().numpy(), idle_per_choice, self._rng))]
        columns = {
            Columns.OBS: rows[Columns.OBS],
            Columns.ACTIONS: rows[Columns.ACTIONS],
            Columns.ACTION_LOGP: logp,
            HAS_CHOICE: has_choice,
            WEIGHTS_SEQ_NO: rows[WEIGHTS_SEQ_NO],
            TARGET_LOGP: target_logp,
            Postprocessing.VALUE_TARGETS: targets,
            Postprocessing.ADVANTAGES: standardised(advantages, has_choice),
        }
        return take(columns, kept)

    @staticmethod
    def _elapsed(rows: dict[str, Any], config: Any) -> np.ndarray:
        """Return the time [N] float64 from each row to the next, in units of `discount_s`.

        RLlib's own runner knows no time: every step of its episodes counts as one unit.
        """
        if ELAPSED_S not in rows:
            return np.ones(len(rows[Columns.REWARDS]))
        return rows[ELAPSED_S].double().cpu().numpy() / config.discount_s

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return IMPACT's clipped surrogate loss (arXiv 1912.00167, section 3); see `docs/algorithms/appo.md`.

        `batch` holds N rows, `fwd_out` the scores of those with a choice.
        """
        module = self.network(module_id)
        has_choice = batch[HAS_CHOICE]
        choices = has_choice.sum().clamp_min(1)

        def over_choices(figures: Tensor) -> Tensor:
            return figures.sum() / choices

        present: Any = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        sampled_logp = batch[Columns.ACTION_LOGP][has_choice]
        log_ratio = present.logp(batch[Columns.ACTIONS][has_choice]) - sampled_logp
        target_log_ratio = batch[TARGET_LOGP][has_choice] - sampled_logp
        importance = (-target_log_ratio).exp().clamp_max(config.target_worker_clipping)
        ratio = importance * log_ratio.exp()
        advantages = batch[Postprocessing.ADVANTAGES][has_choice]
        surrogate = torch.min(
            advantages * ratio, advantages * ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        )
        policy_loss = -over_choices(surrogate)
        entropy = over_choices(present.entropy())
        values = module.compute_values(batch)
        targets = batch[Postprocessing.VALUE_TARGETS]
        value_loss = (values - targets).square().mean()
        self.note(
            module_id,
            {
                POLICY_LOSS_KEY: policy_loss,
                VF_LOSS_KEY: value_loss,
                EXPLAINED_VARIANCE: explained_variance(targets, values),
                ENTROPY_KEY: entropy,
                "sampler_kl": over_choices(log_ratio.exp() - 1 - log_ratio),
                "clip_fraction": over_choices(((ratio - 1).abs() > config.clip_param).float()),
                "importance_mean": over_choices(target_log_ratio.exp()),
                "choices_share": has_choice.float().mean(),
            },
        )
        entropy_coeff: Any = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        return policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move schedules on; RLlib's APPO would move target networks too, by a count that takes agents for steps."""
        super(RLlibAPPOLearner, self).after_gradient_based_update(timesteps=timesteps)
        self.schedules_are_at(timesteps)


def _chosen(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the rows with a choice: observations, actions and their log probabilities."""
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
