"""What APPO learns: IMPACT's loss over the steps that have a choice, in a thread beside the process's own."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.appo.appo_learner import APPOLearner as RLlibAPPOLearner
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.appo.utils import CircularBuffer
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from offload_rllib.algorithms.exchange.averaging import steps_of
from offload_rllib.algorithms.exchange.meeting import EXCHANGE_USES, LearnerLostError, Meeting, ProcessMeeting
from offload_rllib.algorithms.exchange.moments import standardised
from offload_rllib.algorithms.exchange.round import Round, Taught
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE, ActorCriticSteps
from offload_rllib.algorithms.fused.actor_critic_learner import ActorCriticLearner
from offload_rllib.algorithms.on_policy import IDLE_PER_CHOICE, select_rows, take
from offload_rllib.algorithms.vtrace import vtrace
from offload_rllib.envs.spaces import ELAPSED_S

WAIT_FOR_USES_S = 0.002
LOOK_AFTER_THREAD_S = 1.0
UPDATES = "updates"
USES = "batch_uses"
LAG, SAMPLER_KL = "lag", "sampler_kl"
TARGET_LOGP = "target_logp"


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


class APPOLearner(ActorCriticLearner, APPOTorchLearner):
    """RLlib's APPO learner, a thread beside its process's own, with the loss over the steps that have a choice.

    Several learners have batches of their own, and average their weights (see `docs/algorithms/appo.md`).
    """

    def build(self) -> None:
        """Make networks, optimisers, buffer and thread."""
        self._failure: Exception | None = None
        self._updates: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._batches = self._uses_of_all = 0
        # Gradient steps of each module before weights of this number were handed out.
        self._steps_before: dict[int, Counter[str]] = {}
        self._rng = np.random.default_rng([self.config.seed or 0, self._learner_index or 0])
        super().build()
        self._agg_event = _WatchedEvent(self._check_thread)
        self._round: Round | None = None
        self._averages = False
        # Gradient steps of each policy when its target network moved last.
        self._target_steps: dict[str, int] = {}
        if self.config.num_learners > 1:
            threading.excepthook = _say_unless_lost
            self.meeting = ProcessMeeting(self._device)
            self.begin_as_the_first(self.meeting)

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
        while not self._has_room():
            self._check_thread()
            time.sleep(WAIT_FOR_USES_S)
        self._check_thread()
        self._batches += 1
        return super().update(*args, **kwargs)

    def _has_room(self) -> bool:
        config: Any = self.config
        if self.meeting is not None:
            buffer: Any = self._learner_thread_in_queue
            return not would_drop(buffer)
        # One batch more than the buffer holds: the learner can always reach that, for each was used before it went.
        freely = config.circular_buffer_num_batches + 1
        return (self._batches - freely) * config.least_uses_per_batch <= self._uses_of_all

    def remaining_results(self) -> list[dict[str, Any]]:
        """Return the results that have not been taken: the thread gives one per use of a batch, `update` takes one."""
        results = []
        while True:
            try:
                results.append(self._learner_thread_out_queue.get_nowait())
            except queue.Empty:
                return results

    def rest(self) -> None:
        """Let weights and optimisers be as they are, between two gradient steps, until `go_on`."""
        while True:
            self._model_io_lock.acquire()
            if not self._averages:
                return
            self._model_io_lock.release()
            self._check_thread()
            time.sleep(WAIT_FOR_USES_S)

    def go_on(self) -> None:
        """Learn again."""
        self._model_io_lock.release()

    def _update(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        losses: dict[str, Tensor] = {}
        try:
            with self._model_io_lock:
                optimizers = self.taught_optimizers()
                if not self._target_steps:  # a restored Adam has taken some
                    self._target_steps = {name: steps_of(optimizer) for name, optimizer in optimizers.items()}
                if self._round is None and self.meeting is not None:
                    self._round = Round(optimizers, 0)
                sizes = {}
                for module_id, rows in batch.items():
                    if self.should_module_be_updated(module_id):
                        losses[module_id], sizes[module_id] = self._learn(module_id, rows)
                if self._round is not None:
                    self._round.add(self._taught(sizes), 0, 0.0)
                    self._averages = self._round.batches == self.config.learner_config_dict[EXCHANGE_USES]
            self._uses_of_all += 1
            if self._averages and self._round is not None and self.meeting is not None:
                self._average(self._round, self.meeting)
        except Exception as failure:
            self._failure = failure
            raise
        return {}, losses, {}

    def _taught(self, sizes: dict[str, int]) -> list[Taught]:
        """Return what was learned from so many rows of each policy; the share of all is known when learners meet."""
        return [
            Taught(module_id, rows, math.nan, steps_of(self.get_optimizer(module_id)))
            for module_id, rows in sizes.items()
        ]

    def _average(self, learned: Round, meeting: Meeting) -> None:
        """Average weights and moments over all learners, and move target networks that are due.

        Others are waited for without the lock: the trainer may take it while it sends no batches.
        """
        learned.end(meeting, self._model_io_lock)
        with self._model_io_lock:
            for module_id in self.taught_optimizers():
                self._move_target_if_due(module_id)
            self._steps_before[self._weights_seq_no] = self._updates.copy()
            self._round, self._averages = None, False

    def _move_target_if_due(self, module_id: str) -> None:
        config = self.config.get_config_for_module(module_id)
        steps, every = steps_of(self.get_optimizer(module_id)), config.target_update_every
        if steps // every > self._target_steps[module_id] // every:
            for network, target in self.network(module_id).get_target_network_pairs():
                update_target_network(main_net=network, target_net=target, tau=config.tau)
            self._target_steps[module_id] = steps

    def _learn(self, module_id: str, given: dict[str, Any]) -> tuple[Tensor, int]:
        """Use a batch once: V-trace over all of it, then a gradient step per minibatch; return the last loss and rows.

        Behind it the target network moves if it is due; those of several learners move when these meet.
        """
        config = self.config.get_config_for_module(module_id)
        rows = self.rows_of(module_id, config, given)
        size = len(rows[HAS_CHOICE])
        if not size:  # none of the policy's agents had a choice
            return torch.zeros(()), 0
        edges = np.linspace(0, size, max(size // config.minibatch_steps, 1) + 1).astype(int)
        order = torch.arange(size, device=self._device)
        minibatches = [order[first:last] for first, last in itertools.pairwise(edges)]
        self._log_age(module_id, rows, len(minibatches))
        fused = self.fused_steps(module_id)
        if fused is None:
            loss = self._descend_along(module_id, config, rows, minibatches)
        else:
            loss = self._learn_fused(module_id, config, rows, minibatches, fused)
        self._updates[module_id] += len(minibatches)
        self._uses[module_id] += 1
        if self.meeting is None:
            self._move_target_if_due(module_id)
        self.log_noted(module_id)
        # Since the learner was built; fewer uses than batches x uses_per_batch where the buffer overflowed.
        counts = {UPDATES: self._updates[module_id], USES: self._uses[module_id]}
        self.metrics.log_dict(counts, key=module_id, window=1)
        return loss, size

    def _descend_along(self, module_id: str, config: Any, rows: dict[str, Any], minibatches: list[Tensor]) -> Tensor:
        """Take the gradient steps of autograd; return the last loss."""
        loss = torch.zeros(())
        for places in minibatches:
            minibatch = take(rows, places)
            outputs = self.module[module_id].forward_train(_chosen(minibatch))
            loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=minibatch, fwd_out=outputs)
            self.descend(module_id, config, loss)
        return loss.detach()

    def _learn_fused(
        self, module_id: str, config: Any, rows: dict[str, Any], minibatches: list[Tensor], steps: ActorCriticSteps
    ) -> Tensor:
        """Take the gradient steps of PPO, whose ratio is measured from the target network, or less where that is old.

        min(mu / pi', c) pi / mu is pi over the larger one of pi' and mu / c.
        """
        least = rows[Columns.ACTION_LOGP] - math.log(config.target_worker_clipping)
        measured_from = torch.maximum(rows[TARGET_LOGP], least)
        loss = self.learn_fused(
            module_id,
            config,
            rows | {Columns.ACTION_LOGP: measured_from},
            [(places, 1.0) for places in minibatches],
            steps,
        )
        return torch.tensor(loss)

    def clip_of(self, config: Any) -> float:
        """Return how far the ratio of probabilities may move."""
        return config.clip_param

    def _figures_of(self, config: Any, found: np.ndarray) -> dict[str, Tensor]:
        """Leave out PPO's divergence: it would be from what the ratio is measured from, and not from what sampled."""
        figures = super()._figures_of(config, found)
        del figures[LEARNER_RESULTS_KL_KEY]
        return figures

    def _log_age(self, module_id: str, rows: dict[str, Any], steps: int) -> None:
        """Log how old, in gradient steps and in effect, the samples are that so many steps are to learn from."""
        chosen, here = _chosen(rows), rows[HAS_CHOICE]
        module = self.network(module_id)
        with torch.no_grad():
            of = module.get_train_action_dist_cls().from_logits
            present: Any = of(module.forward_train(chosen)[Columns.ACTION_DIST_INPUTS])
            log_ratio = present.logp(chosen[Columns.ACTIONS]) - chosen[Columns.ACTION_LOGP]
            importance = (rows[TARGET_LOGP][here] - chosen[Columns.ACTION_LOGP]).exp()
        count = here.sum().clamp_min(1)
        figures = {
            # Over the use: each gradient step adds one.
            LAG: float(self._lag(module_id, rows[WEIGHTS_SEQ_NO][here])) + (steps - 1) / 2,
            SAMPLER_KL: float((log_ratio.exp() - 1 - log_ratio).sum() / count),
            "importance_mean": float(importance.sum() / count),
        }
        self.metrics.log_dict(figures, key=module_id, window=1)

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
        figures = {"clip_fraction": over_choices(((ratio - 1).abs() > config.clip_param).float())}
        return self.whole_loss(module_id, config, batch, policy_loss, entropy, figures)

    fused_loss = compute_loss_for_module

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move schedules on; RLlib's APPO would move target networks too, by a count that takes agents for steps."""
        super(RLlibAPPOLearner, self).after_gradient_based_update(timesteps=timesteps)
        self.schedules_are_at(timesteps)


def _say_unless_lost(raised: threading.ExceptHookArgs) -> None:
    """Say what has ended a thread, unless another learner is gone: `LearnerStoppedError` says that."""
    if not isinstance(raised.exc_value, LearnerLostError):
        threading.__excepthook__(raised)


def would_drop(buffer: CircularBuffer) -> bool:
    """Return whether RLlib's buffer would drop a batch that has uses left, if another one came."""
    with buffer._lock:  # noqa: SLF001 - RLlib has no method that says so
        uses, ends = buffer.iterations_per_batch, buffer._offset  # noqa: SLF001
        oldest = min(buffer._indices, default=ends)  # noqa: SLF001
    return oldest < ends - (buffer.num_batches - 1) * uses


def _chosen(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the rows with a choice: observations, actions and their log probabilities."""
    here = rows[HAS_CHOICE]
    columns: dict[str, Any] = {name: rows[name][here] for name in (Columns.ACTIONS, Columns.ACTION_LOGP)}
    columns[Columns.OBS] = {name: part[here] for name, part in rows[Columns.OBS].items()}
    return columns
