"""The schema of a policy file (`policies/*.yaml`): how a policy is trained. RLlib's names where RLlib has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Count, Natural, NonNegative, Positive, Schema

Share = Annotated[float, Field(ge=0, le=1, strict=True)]


class Network(Schema):
    """Actor and critic, two multilayer perceptrons of the same shape."""

    hidden: tuple[Count, ...] = (64, 64)
    """Units of each hidden layer."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between the layers."""


class PPO(Schema):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347), as RLlib runs it."""

    name: Literal["PPO"]
    """Chooses this algorithm."""
    lr: Positive = 3e-4
    """Step size of Adam."""
    gamma: Share = 0.99
    """Discount per decision interval."""
    lambda_: Share = Field(default=0.95, alias="lambda")
    """Generalised advantage estimation: 0 trusts the critic, 1 the returns."""
    clip: Positive = 0.2
    """How far the probability ratio may move before the gradient stops."""
    entropy_coeff: NonNegative = 0.0
    """Weight of the entropy in the loss."""
    vf_loss_coeff: NonNegative = 0.5
    """Weight of the critic's squared error in the loss."""
    epochs: Count = 6
    """Passes over each batch."""
    minibatch_steps: Count = 512
    """Agent steps per gradient step."""
    batch_env_steps: Count = 4000
    """Environment steps sampled per iteration."""
    grad_clip: Positive | None = 0.5
    """Largest global norm of a gradient."""
    idle_per_choice: NonNegative = 1.0
    """Agent steps without a choice kept for the critic, per step with one; the actor never learns from them."""


class Training(Schema):
    """Budget and workers."""

    env_steps: Count = 200_000
    """Environment steps after which training ends (at the end of an iteration)."""
    runners: Natural = 2
    """Processes that sample; 0: sample in the trainer's own process."""
    env_runner: Literal["batched", "stock"] = "batched"
    """batched: all environments of a runner as one array program; stock: RLlib's own, two hundred times slower."""
    envs_per_runner: Count = 16
    """Environments that each runner steps."""
    checkpoint_every: Count = 1
    """Iterations between two checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that stay on disk."""
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    """Of the networks, of sampling and of the training episodes."""


class PolicyConfig(Schema):
    """One policy set."""

    description: str = ""
    """One line for the list of policies."""
    sharing: Literal["shared"] = "shared"
    """shared: all agents use and train one policy."""
    algorithm: PPO
    """What learns."""
    network: Network = Network()
    """The networks."""
    training: Training = Training()
    """Budget and workers."""

    @model_validator(mode="after")
    def _batch_is_whole_fragments(self) -> PolicyConfig:
        environments = max(self.training.runners, 1) * self.training.envs_per_runner
        if self.algorithm.batch_env_steps % environments:
            raise ValueError(
                f"algorithm.batch_env_steps ({self.algorithm.batch_env_steps}) must be a multiple of "
                f"runners x envs_per_runner ({environments}): every environment contributes as many steps"
            )
        if self.algorithm.minibatch_steps > self.algorithm.batch_env_steps:
            raise ValueError(
                f"algorithm.minibatch_steps ({self.algorithm.minibatch_steps}) must not exceed "
                f"algorithm.batch_env_steps ({self.algorithm.batch_env_steps})"
            )
        return self
