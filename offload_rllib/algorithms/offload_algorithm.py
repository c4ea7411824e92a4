"""What our algorithms share: fragments from the runners to the learners, and policies that outlive RLlib."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.algorithms.exchange.answers import answers_of
from offload_rllib.algorithms.exchange.meeting import BUDGET, EXCHANGE_BATCHES
from offload_rllib.algorithms.run_counters import RunCounters
from offload_rllib.algorithms.sampling import DEFAULT_ATTEMPTS, HANGING_TIMEOUTS, SAMPLE_ATTEMPTS, Sampler
from offload_rllib.config import load_environment
from offload_rllib.config.policy import Network, Training
from offload_rllib.policies.manifest import write_manifest
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.policies.saved import POLICY_FOLDER, PolicyDescription, save_policies
from offload_rllib.policies.sharing import assignment_of
from offload_rllib.policies.warm_start import CRITIC, save_critics
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.episodes import as_samples
from offload_rllib.rollout.fragment import Fragment

FINGERPRINT = "fingerprint"
RUN_NAME = "run"
RUNNERS = "runners"
NOTICES = "notices"
# Seconds of work for each second of looking whether lost runners are back: short iterations would only look.
WORK_PER_LOOK = 20.0
# Learners that take so many times as long as ever before hang.
HANGING_ITERATIONS = 10


class OffloadAlgorithm(Algorithm):
    """Base of our algorithms: samples fragments, and keeps a policy with every checkpoint."""

    # RLlib declares these as optional, and by base types: for users of an algorithm they are there.
    config: Any
    env_runner_group: Any
    learner_group: Any

    policy_prefix = "actor."
    """What the names of the weights that a kept policy needs begin with."""

    _look_again = 0.0
    """When it is time to look for lost runners again, by the monotonic clock."""
    _longest_s = 0.0
    """What several learners have taken at most for a batch; 0: they have had none."""

    @property
    def env_steps(self) -> int:
        """Environment steps that the run has sampled so far."""
        return int(self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    def setup(self, config: AlgorithmConfig) -> None:
        """Make runners and learners, and what asks the runners for samples."""
        self.sampler = Sampler(
            float(config.sample_timeout_s or Training().sample_timeout_s),
            config.learner_config_dict.get(SAMPLE_ATTEMPTS, DEFAULT_ATTEMPTS),
        )
        self._counters_of_ray: RunCounters | None = None
        super().setup(config)
        settings: Any = config  # of `settings.OffloadConfig` as well
        start = settings.starting_weights
        if start is not None:
            for result in self.learner_group.foreach_learner(partial(DirectLearner.start_with, modules=start.modules)):
                result.get()
            self.sync_weights()  # they were made with other weights

    def step(self) -> dict[str, Any]:
        """Run one iteration; the result says how the runners are, and in `notices` what happened to them."""
        result = super().step()
        group = self.env_runner_group
        several = self.config.num_learners if self.config.num_learners > 1 else 0
        result[RUNNERS] = {
            "all": group.num_remote_env_runners() or several,
            "healthy": max(group.num_healthy_remote_workers() - len(self.sampler.late), 0) or several,
            "late": len(self.sampler.late),
            "restarts": self.sampler.restarts,
        }
        # One text: TensorBoard would take a list for numbers.
        self._count(result)
        result[NOTICES] = "\n".join(self.sampler.take_notices())
        return result

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what every result has, the configuration among it, without the weights that training started with."""
        filled = super().get_auto_filled_metrics(*args, **kwargs)
        filled.get("config", {}).pop("starting_weights", None)
        return filled

    def _count(self, result: dict[str, Any]) -> None:
        """Give Ray's metrics, which Prometheus reads from every node, what there is to count."""
        if self._counters_of_ray is None:
            self._counters_of_ray = RunCounters(str(self.config.env_config.get(RUN_NAME, "")))
        self._counters_of_ray.update(result)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Bring back runners that Ray has started again; now and then, for those that are not back cost a wait."""
        if time.monotonic() < self._look_again:
            return []
        return self._restore(env_runner_group)

    def _restore(self, env_runner_group: Any) -> list[int]:
        began = time.monotonic()
        restored = super().restore_env_runners(env_runner_group)
        ended = time.monotonic()
        self._look_again = ended + WORK_PER_LOOK * (ended - began)
        if env_runner_group is self.env_runner_group:
            self.sampler.restored(restored)
        return restored

    def _bring_back(self) -> None:
        restored = self._restore(self.env_runner_group)
        if restored:
            self._make_on_env_runners_recreated_callbacks(
                config=self.config,
                env_runner_group=self.env_runner_group,
                restored_env_runner_indices=restored,
            )

    def iterate(self, **how: Any) -> None:
        """Sample a batch and learn from it; several learners each do their share of both, of one batch or more.

        Args:
            how: `num_epochs` and `minibatch_size` of the learners' `update`.
        """
        if self.config.num_learners < 2:
            self.learn(self.sample(self.config.total_train_batch_size), **how)
            return
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            # RLlib waits for all learners, and if one is lost, those that remain wait for it.
            workers = self.learner_group._workers  # noqa: SLF001
            limit_s = math.inf  # for the first batch: they make their environments
            if self._longest_s:
                limit_s = max(HANGING_TIMEOUTS * self.sampler.timeout_s, HANGING_ITERATIONS * self._longest_s)
            began = time.monotonic()
            answers = answers_of(
                workers, "iterate", limit_s=limit_s, env_steps=self.env_steps, batches=self._batches(), **how
            )
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        self.metrics.aggregate([sampled for sampled, _, _ in answers], key=ENV_RUNNER_RESULTS)
        self.metrics.aggregate([learned for _, learned, _ in answers], key=LEARNER_RESULTS)
        self.env_runner_group.local_env_runner.set_state({COMPONENT_RL_MODULE: answers[0][2]})

    def _batches(self) -> int:
        """Return how many batches several learners learn from until they exchange weights; in the end what is left."""
        settings = self.config.learner_config_dict
        wanted, left = settings[EXCHANGE_BATCHES], settings[BUDGET] - self.env_steps
        return min(wanted, math.ceil(left / self.config.total_train_batch_size)) if left > 0 else wanted

    def sample(self, env_steps: int) -> list[Fragment | AgentSteps]:
        """Return at least so many environment steps from all runners that answer.

        Raises:
            NoSamplesError: none has answered for several timeouts.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            gathered = self.sampler.sample(self.env_runner_group, env_steps, self._bring_back)
            self.metrics.aggregate(gathered.metrics, key=ENV_RUNNER_RESULTS)
        return as_samples(gathered.samples)

    def learn(self, samples: list[Fragment | AgentSteps], **how: Any) -> None:
        """Let the learners update from samples, and give the runners the new weights."""
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            # A learner in a process of its own is given a list of shards: RLlib cannot divide the samples.
            alone = {"batches": [samples]} if self.config.num_learners else {"batch": samples}
            data = TrainingData(**alone)  # pyright: ignore[reportArgumentType] - our learners take these
            results = self.learner_group.update(
                training_data=data, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps}, **how
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.sync_weights()

    def sync_weights(self) -> None:
        """Give the runners the learners' weights."""
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def _report_class_trainable_checkpoint(self, checkpoint_dir: str, checkpoint_dict_or_path: Any) -> Any:
        """List what the checkpoint holds, then let Tune copy it: here all files of all subclasses are written."""
        write_manifest(Path(checkpoint_dir), self._last_result or {})
        return super()._report_class_trainable_checkpoint(checkpoint_dir, checkpoint_dict_or_path)

    def network(self, name: str) -> Any:
        """Return the module of a policy, one of `policies.module`; RLlib declares it as any module, or none."""
        module: Any = self.get_module(name)
        return module.unwrapped()

    def kept_as(self, model_config: dict[str, Any]) -> dict[str, Any]:
        """Return what a kept policy's description says of its networks, where it is not the default."""
        return {}

    def kept_policy(self) -> tuple[PolicyDescription, dict[str, dict[str, torch.Tensor]]]:
        """Return the present policies as they are kept: their description, and the weights of each by name."""
        module_ids = sorted(self.env_runner_group.local_env_runner.module.keys())
        first = self.network(module_ids[0])
        learned = self.learner_group.get_weights()
        weights = {
            name: {
                key.removeprefix(self.policy_prefix): torch.as_tensor(value)
                for key, value in learned[name].items()
                if key.startswith(self.policy_prefix)
            }
            for name in module_ids
        }
        assignment: Any = assignment_of(self.config.policy_mapping_fn, module_ids)
        config, context = first.model_config, self.config.env_config
        description = PolicyDescription.of(
            assignment,
            algorithm=type(self).__name__,
            observation_size=first.observation_space["observations"].shape[0],
            actions=int(first.action_space.n),
            network=Network(**{key: config[key] for key in Network.model_fields if key in config}),
            rows=config.get("rows", FULL_ROWS),
            weights=config.get("weights", {}),
            environment=context.get(FINGERPRINT, ""),
            decides=load_environment(context.get("env", self.config.env), context.get("overrides", ())).decisions.when,
            env_steps=self.env_steps,
            **self.kept_as(config),
        )
        return description, weights

    def kept_critics(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the weights of every policy's critic, which a training may start from; none without critics."""
        prefix = f"{CRITIC}."
        critics = {
            name: {
                key.removeprefix(prefix): torch.as_tensor(value)
                for key, value in weights.items()
                if key.startswith(prefix)
            }
            for name, weights in self.learner_group.get_weights().items()
        }
        return {name: weights for name, weights in critics.items() if weights}

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Save RLlib's checkpoint, and beside it the policy (see `policies.saved`) with its critic."""
        saved = super().save_checkpoint(checkpoint_dir)
        folder = Path(checkpoint_dir) / POLICY_FOLDER
        save_critics(folder, self.kept_critics())
        save_policies(folder, *self.kept_policy())
        return saved
