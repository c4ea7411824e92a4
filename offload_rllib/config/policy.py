"""The schema of a policy file (`policies/*.yaml`): how a policy is trained. RLlib's names where RLlib has one."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from offload_rllib.config.algorithms import A2C, PPO, Algorithm
from offload_rllib.config.appo import APPO
from offload_rllib.config.base import NAMES_CODE, CodePath, Count, Natural, NonNegative, Positive, Schema
from offload_rllib.config.ddqn import DDQN
from offload_rllib.config.imitation import Imitation
from offload_rllib.config.seeds import Seed

# A policy's name is the name of its files and of RLlib's module.
PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]*$")]
# Beyond both, building a network takes too long.
MOST_LAYERS, MOST_UNITS = 64, 2**16
Units = Annotated[int, Field(ge=1, le=MOST_UNITS, strict=True)]


class Network(Schema):
    """The networks of a policy, all of the same shape; formulas in `docs/policies.md`."""

    kind: Literal["mlp", "pointer", "attention"] = "mlp"
    """mlp: a perceptron over the whole observation, for one number of actions; pointer: every destination is scored by
    the same weights, for any number of them; attention: the same, and every destination sees all others."""
    hidden: Annotated[tuple[Units, ...], Field(max_length=MOST_LAYERS)] = (64, 64)
    """Units of each hidden layer."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers."""
    heads: Count = 2
    """With `kind: attention`: how many weighted means of all destinations each of them sees; a divisor of the last
    layer's units."""
    memory: Annotated[int, Field(ge=0, le=MOST_UNITS, strict=True)] = 0
    """Units of a recurrent memory that every agent has (a gated recurrent unit); 0: none. PPO and A2C, with
    decisions.when: arrival."""
    module: Annotated[CodePath | None, NAMES_CODE] = None
    """Your own module class, as package.module:Class: a subclass of this package's module for the algorithm
    (`docs/policies.md`)."""

    @model_validator(mode="after")
    def _pointer_has_layers(self) -> Network:
        if self.kind != "mlp" and not self.hidden:
            raise ValueError(f"kind: {self.kind} needs at least one hidden layer")
        return self

    @model_validator(mode="after")
    def _heads_share_the_units(self) -> Network:
        if self.kind == "attention" and self.hidden and self.hidden[-1] % self.heads:
            divisors = [str(n) for n in range(1, self.hidden[-1] + 1) if self.hidden[-1] % n == 0]
            raise ValueError(
                f"heads ({self.heads}) must divide the units of the last hidden layer ({self.hidden[-1]}); accepted: "
                f"{', '.join(divisors)}"
            )
        return self


class Sharing(Schema):
    """Which agents use the same policy; in YAML a bare word, or `mapping` alone."""

    kind: Literal["shared", "per_device", "per_node", "mapping"] = "shared"
    """shared: one policy for all agents; per_device: one per device type; per_node: one per agent; mapping: as
    written out."""
    mapping: dict[PolicyName, Annotated[tuple[str, ...], Field(min_length=1)]] | None = None
    """With `kind: mapping`: for each policy the names of nodes, or device types; a node's name has precedence over its
    type."""

    @model_validator(mode="before")
    @classmethod
    def _from_word_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "kind" not in value and value.get("mapping") is not None:
            return {"kind": "mapping"} | value
        return value

    @model_validator(mode="after")
    def _mapping_belongs_to_its_kind(self) -> Sharing:
        if (self.kind == "mapping") != bool(self.mapping):
            raise ValueError("kind: mapping needs mapping: {POLICY: [NODE or DEVICE TYPE, ...]}, other kinds have none")
        return self


class Overrides(Schema):
    """Hyperparameters of one policy in place of the algorithm's; null: as the algorithm's.

    Those that RLlib's learner reads per module; the algorithm must have the key.
    """

    lr: Positive | None = None
    """Step size of Adam; the algorithm's `final_lr` stays, unless that is given too."""
    final_lr: NonNegative | None = None
    """Step size at the end of training, reached along a line."""
    clip: Positive | None = None
    """How far the probability ratio may move before the gradient stops."""
    entropy_coeff: NonNegative | None = None
    """Weight of the entropy in the loss; the algorithm's `final_entropy_coeff` stays, unless that is given too."""
    final_entropy_coeff: NonNegative | None = None
    """Weight of the entropy at the end of training, reached along a line."""
    vf_loss_coeff: NonNegative | None = None
    """Weight of the critic's squared error in the loss."""
    grad_clip: Positive | None = None
    """Largest global norm of a gradient."""

    @property
    def given(self) -> dict[str, float]:
        """The keys that are set, and their values."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class Training(Schema):
    """Budget and workers."""

    env_steps: Count = 200_000
    """Environment steps after which training ends (at the end of an iteration)."""
    runners: Natural = 2
    """Processes that sample; 0: sample in the trainer's own process."""
    env_runner: Literal["batched", "stock"] = "batched"
    """batched: all environments of a runner as one array program; stock: RLlib's own, over a hundred times slower."""
    envs_per_runner: Count = 16
    """Environments that each runner steps."""
    cpus_per_runner: Positive | None = None
    """CPUs that Ray reserves for each runner; null: an equal share of the available CPUs, at most 1."""
    learners: Annotated[int, Field(ge=0, le=64, strict=True)] = 0
    """Processes that learn; 0: learn in the trainer's process. Two or more, for PPO and A2C, also sample, each its
    part of every batch in `envs_per_runner` environments; there are then no `runners`. Those of APPO learn from what
    the runners sample (`docs/scaling.md`)."""
    gpus: NonNegative = 0
    """GPUs for learning, divided among the learners."""
    learner_threads: Annotated[int, Field(ge=1, le=256, strict=True)] = 1
    """Threads of the learner; more than one is faster for large networks on an idle machine, and stalls on a busy
    one."""
    checkpoint_every: Count = 1
    """Iterations between two checkpoints."""
    checkpoint_every_s: Positive | None = None
    """Seconds after which there is a checkpoint at the end of the iteration, whatever `checkpoint_every` says."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that stay on disk."""
    keep_best: bool = True
    """Whether the policy of the checkpoint with the best training score so far stays too, in `best/`."""
    final_policy: Literal["last", "selected"] = "last"
    """selected: at the end the clone of `imitate`, the best while training, and the last policy play 64 training
    episodes greedily, and the one with the lowest mean score, or mean cost, stays (`docs/warm_start.md`). Those that
    break the bounds of `algorithm.constraints` come behind those that do not."""
    sample_timeout_s: Positive = 60.0
    """How long the trainer waits for a runner's samples; then it continues without them, with a warning."""
    sample_attempts: Count = 5
    """Attempts to get samples from any runner at all, each as long as `sample_timeout_s`, before training fails."""
    seed: Seed = 0
    """Of the networks, of sampling and of the training episodes."""
    start_from: Annotated[str, Field(min_length=1), AfterValidator(os.path.abspath)] | None = None
    """Folder of a run, a checkpoint or a saved policy whose weights training starts with; null: random weights
    (`docs/warm_start.md`)."""
    imitate: Imitation | None = None
    """Rule, or file of decisions, that is cloned before training; null: random weights (`docs/warm_start.md`)."""
    tracking: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers that receive the results in addition to TensorBoard; each needs the extra of its name
    (`docs/tensorboard.md`)."""
    callbacks: Annotated[tuple[CodePath, ...], NAMES_CODE] = ()
    """Your own callbacks of RLlib, as package.module:Class, in addition to this package's (`docs/rollout.md`)."""
    metrics: Annotated[dict[PolicyName, CodePath], NAMES_CODE] = Field(default_factory=dict)
    """Your own metrics, by name: functions package.module:function from the figures of an episode to a number."""

    @property
    def samplers(self) -> int:
        """Processes that sample: several learners of PPO or A2C, or runners, or the trainer's own."""
        return self.learners if self.learners > 1 else max(self.runners, 1)

    @model_validator(mode="after")
    def _one_start(self) -> Training:
        if self.start_from is not None and self.imitate is not None:
            raise ValueError(
                f"start_from ({self.start_from}) and imitate ({self.imitate.teacher}): give one of the two"
            )
        if self.imitate is not None and not self.imitate.start and self.final_policy != "selected":
            raise ValueError(
                f"imitate.start: false makes a clone for final_policy: selected alone (given: {self.final_policy})"
            )
        return self

    @property
    def starts_with_clone(self) -> bool:
        """Whether training starts with what was cloned."""
        return self.imitate is not None and self.imitate.start


def _misfit_of_memory(policy: PolicyConfig) -> str:
    """Return the first setting that a memory does not fit, with what is accepted; nothing if there is none."""
    algorithm, training = policy.algorithm, policy.training
    if not isinstance(algorithm, PPO | A2C):
        return f"algorithm.name: {algorithm.name}; accepted: PPO, A2C"
    settings = {
        "network.module": (policy.network.module, None),
        "algorithm.critic": (algorithm.critic, "local"),
        "algorithm.pull_coeff": (algorithm.pull_coeff, 0),
        "training.env_runner": (training.env_runner, "batched"),
        "training.imitate": (training.imitate and training.imitate.teacher, None),
    }
    wrong = [f"{key}: {given}; accepted: {wanted}" for key, (given, wanted) in settings.items() if given != wanted]
    if training.learners > 1:
        wrong.append(f"training.learners: {training.learners}; accepted: 0 or 1")
    return next(iter(wrong), "")


def _misfit_of_mixer(policy: PolicyConfig) -> str:
    """Return the first setting that a mixer does not go with, and what is accepted; nothing if there is none."""
    if policy.sharing.kind != "shared":
        return f"sharing: {policy.sharing.kind}; accepted: shared. The values of one network are mixed"
    if policy.training.env_runner != "batched":
        return f"training.env_runner: {policy.training.env_runner}; accepted: batched"
    return ""


class PolicyConfig(Schema):
    """One policy set."""

    description: str = ""
    """One line for the list of policies."""
    version: Count = 1
    """Version of the preset: the next number whenever its results change."""
    sharing: Sharing = Sharing()
    """Which agents use the same policy."""
    algorithm: Algorithm
    """What learns."""
    network: Network = Network()
    """The networks of every policy."""
    policies: dict[PolicyName, Overrides] = Field(default_factory=dict)
    """Exceptions from `algorithm` for single policies, by name."""
    training: Training = Training()
    """Budget and workers."""

    @model_validator(mode="after")
    def _overrides_are_of_the_algorithm(self) -> PolicyConfig:
        for name, overrides in self.policies.items():
            for key in overrides.given:
                if key not in type(self.algorithm).model_fields:
                    raise ValueError(f"policies.{name}.{key}: {self.algorithm.name} has no such key")
        return self

    @model_validator(mode="after")
    def _a_pull_has_a_first_policy(self) -> PolicyConfig:
        pull = getattr(self.algorithm, "pull_coeff", 0.0)
        if pull and self.training.start_from is None and not self.training.starts_with_clone:
            raise ValueError(
                f"algorithm.pull_coeff ({pull:g}) pulls to the policy that training starts with, and this one starts "
                "with random weights; accepted: 0, or training.start_from or training.imitate beside it"
            )
        return self

    @model_validator(mode="after")
    def _a_memory_is_learned(self) -> PolicyConfig:
        units = self.network.memory
        misfit = _misfit_of_memory(self) if units else ""
        if misfit:
            raise ValueError(f"network.memory ({units}) does not go with {misfit.replace('None', 'null')}")
        return self

    @model_validator(mode="after")
    def _a_mixer_has_one_policy(self) -> PolicyConfig:
        mixer = getattr(self.algorithm, "mixer", None)
        misfit = _misfit_of_mixer(self) if mixer is not None else ""
        if misfit:
            raise ValueError(f"algorithm.mixer: {mixer} does not go with {misfit}")
        return self

    @model_validator(mode="after")
    def _batch_is_whole_fragments(self) -> PolicyConfig:
        if isinstance(self.algorithm, APPO):
            return self
        environments = self.training.samplers * self.training.envs_per_runner
        key = "sample_env_steps" if isinstance(self.algorithm, DDQN) else "batch_env_steps"
        env_steps = getattr(self.algorithm, key)
        if env_steps % environments:
            raise ValueError(
                f"algorithm.{key} ({env_steps}) must be a multiple of "
                f"{'learners' if self.training.learners > 1 else 'runners'} x envs_per_runner ({environments}): every "
                "environment contributes as many steps"
            )
        return self

    @model_validator(mode="after")
    def _every_learner_has_its_share(self) -> PolicyConfig:
        learners = self.training.learners
        if learners < 2:
            return self
        if isinstance(self.algorithm, DDQN):
            raise ValueError(  # noqa: TRY004 - of the two settings neither has a wrong type
                f"training.learners ({learners}): DDQN learns in one process; accepted: 0 or 1"
            )
        if isinstance(self.algorithm, PPO | A2C) and self.algorithm.constraints:
            raise ValueError(
                f"training.learners ({learners}): algorithm.constraints are measured over whole batches, and each of "
                "several learners has a part; accepted: 0 or 1"
            )
        if self.training.env_runner == "stock":
            raise ValueError(f"training.env_runner: stock does not go with {learners} learners; accepted: batched")
        minibatch = self.algorithm.minibatch_steps
        if minibatch is not None and minibatch < learners:
            raise ValueError(
                f"algorithm.minibatch_steps ({minibatch}) must be at least training.learners ({learners}), which share "
                "every minibatch"
            )
        return self

    @model_validator(mode="after")
    def _asynchronous_batch_is_whole_samples(self) -> PolicyConfig:
        if not isinstance(self.algorithm, APPO):
            return self
        if self.training.runners == 0:
            raise ValueError("training.runners: APPO samples while it learns and needs at least one runner; 0 has none")
        learners = max(self.training.learners, 1)
        samples = learners * self.training.envs_per_runner * self.algorithm.fragment_steps
        if self.algorithm.batch_env_steps % samples:
            raise ValueError(
                f"algorithm.batch_env_steps ({self.algorithm.batch_env_steps}) must be a multiple of "
                f"{'learners x ' if learners > 1 else ''}envs_per_runner x fragment_steps ({samples}): "
                f"{'each learner has its part of a batch, which' if learners > 1 else 'a batch'} is whole samples"
            )
        least, most = self.algorithm.least_uses_per_batch, self.algorithm.uses_per_batch
        if learners > 1 and least < most:
            raise ValueError(
                f"algorithm.least_uses_per_batch ({least:g}): of {learners} learners each uses every batch as often as "
                f"the others do; accepted: {most}, as uses_per_batch"
            )
        return self

    @property
    def learners_sample(self) -> bool:
        """Whether several learners sample by themselves, so that there are no runners."""
        return self.training.learners > 1 and not isinstance(self.algorithm, APPO)

    @property
    def processes(self) -> int:
        """Processes of a training beside the trainer's."""
        return self.training.learners + (0 if self.learners_sample else self.training.runners)
