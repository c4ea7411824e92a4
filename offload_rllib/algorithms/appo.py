"""APPO: RLlib's asynchronous PPO with target network, V-trace and replay of batches, for agents that rarely choose.

RLlib's are the flow of samples, weights and batches, the buffer and the learner's thread; the loss is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import ray
from ray.rllib.algorithms.appo import appo as rllib_appo
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import LEARNER_RESULTS

from offload_rllib.algorithms.appo_learner import APPOLearner
from offload_rllib.algorithms.exchange.answers import LearnersHangError, end
from offload_rllib.algorithms.exchange.meeting import EXCHANGE_USES
from offload_rllib.algorithms.fused.learner import GRADIENTS
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.algorithms.sampling import HANGING_TIMEOUTS
from offload_rllib.algorithms.settings import UNSET, OffloadConfig, actor_critic_settings, refuse_stock
from offload_rllib.config import appo as schema
from offload_rllib.config.policy import Training
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.module import MaskedAPPO
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner

# How long the trainer waits for samples before it looks after the rest; RLlib's 0 keeps a core busy with asking.
WAIT_FOR_SAMPLES_S = 0.01
# Batches that a learner in a process of its own may be behind before the trainer waits, those of its buffer apart.
BATCHES_ON_THE_WAY = 2
# RLlib would drop what a learner cannot take; here the trainer waits before.
ANY_NUMBER = 1_000_000


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
        self.max_requests_in_flight_per_learner = ANY_NUMBER
        self.timeout_s_sampler_manager = WAIT_FOR_SAMPLES_S
        # RLlib's 10 s may be many times a run's budget.
        self.min_time_s_per_iteration = None
        self.apply_defaults()

    def apply(self, algorithm: schema.APPO, training: Training) -> None:
        """Set what a policy file says; see `OffloadConfig.apply`."""
        super().apply(algorithm, training)
        self.reporting(min_sample_timesteps_per_iteration=algorithm.report_env_steps)
        self.env_runners(rollout_fragment_length=algorithm.fragment_steps)
        if training.learners > 1:
            # RLlib's learners wait for each other when they hand out weights: that they do where they average them.
            self.training(broadcast_interval=algorithm.exchange_uses)

    def translated(self, algorithm: schema.APPO, training: Training) -> dict[str, Any]:
        """Return settings; see `OffloadConfig.translated`."""
        learners = max(training.learners, 1)
        return actor_critic_settings(algorithm, training) | {
            "minibatch_steps": algorithm.minibatch_steps // learners,
            "clip_param": algorithm.clip,
            "train_batch_size_per_learner": algorithm.batch_env_steps // learners,
            "circular_buffer_num_batches": algorithm.buffer_batches,
            "circular_buffer_iterations_per_batch": algorithm.uses_per_batch,
            "least_uses_per_batch": algorithm.least_uses_per_batch,
            "target_update_every": algorithm.target_update_every,
            "target_worker_clipping": algorithm.importance_clip,
            "vtrace_clip_rho_threshold": algorithm.rho_clip,
            "vtrace_clip_pg_rho_threshold": algorithm.pg_rho_clip,
        }

    def learner_settings(self, algorithm: schema.APPO, training: Training) -> dict[str, Any]:
        """Return what learners need; see `OffloadConfig.learner_settings`."""
        own = {GRADIENTS: algorithm.learner, EXCHANGE_USES: algorithm.exchange_uses}
        return super().learner_settings(algorithm, training) | own

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


class APPO(OffloadAlgorithm, rllib_appo.APPO):
    """RLlib's APPO on the batched runner's episodes."""

    _asked: tuple[Any, ...] = ()
    """Ray's references to what learners in processes of their own will have reported."""

    @classmethod
    def get_default_config(cls) -> OffloadAPPOConfig:
        """Return this project's defaults."""
        return OffloadAPPOConfig()

    def training_step(self) -> None:
        """Pass on what the runners have sampled meanwhile, and collect what the learners report."""
        if self.config.num_learners:
            self._wait_for_learners()
        super().training_step()
        for figures in self._remaining_results():
            self.metrics.aggregate([figures], key=LEARNER_RESULTS)

    def _remaining_results(self) -> list[dict[str, Any]]:
        """Return reports of learners that RLlib does not ask for, without waiting for other processes."""
        if not self.config.num_learners:
            [result] = self.learner_group.foreach_learner(APPOLearner.remaining_results)
            return result.get()
        workers = self.learner_group._workers  # noqa: SLF001
        asked = list(self._asked) or [worker.apply.remote(APPOLearner.remaining_results) for worker in workers]
        answered, missing = ray.wait(asked, num_returns=len(asked), timeout=0)
        self._asked = tuple(missing)
        return list(itertools.chain.from_iterable(ray.get(answered)))

    def _wait_for_learners(self) -> None:
        """Wait while learners in processes of their own are behind.

        Raises:
            LearnersHangError: for too long.
        """
        limit_s = HANGING_TIMEOUTS * self.sampler.timeout_s
        manager = self.learner_group._worker_manager  # noqa: SLF001 - RLlib's own flow only asks what is done already
        while missing := self._without_answer(manager):
            if len(missing) < BATCHES_ON_THE_WAY * self.config.num_learners:
                return
            if not ray.wait(missing, timeout=limit_s)[0]:
                raise LearnersHangError(f"{self.config.num_learners} learners have taken no batch for {limit_s:.0f} s")

    @staticmethod
    def _without_answer(manager: Any) -> list[Any]:
        asked = list(manager._in_flight_req_to_actor_id)  # noqa: SLF001
        return ray.wait(asked, num_returns=len(asked), timeout=0)[1] if asked else []

    def cleanup(self) -> None:
        """End all processes; several learners first, for their threads would wait for each other."""
        if self.config.num_learners > 1:
            end(self.learner_group._workers)  # noqa: SLF001
        super().cleanup()

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Save checkpoint and policy between two gradient steps, and where several learners are equal."""
        self._of_the_first(APPOLearner.rest)
        try:
            return super().save_checkpoint(checkpoint_dir)
        finally:
            self._of_the_first(APPOLearner.go_on)

    def _of_the_first(self, method: Any) -> None:
        """Call a method of the learner whose state is saved; the others then wait for it when they meet."""
        first = [0] if self.config.num_learners else None
        for result in self.learner_group.foreach_learner(method, remote_actor_ids=first):
            result.get()
