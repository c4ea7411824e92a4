"""The schema of APPO in a policy file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import AlgorithmSettings, Count, NonNegative, Positive, Share


class APPO(AlgorithmSettings):
    """Asynchronous PPO (IMPACT; Luo et al., arXiv 1912.00167): runners sample while the learner learns."""

    name: Literal["APPO"]
    """Chooses this algorithm."""
    lr: Positive = 3e-4
    """Step size of Adam."""
    final_lr: NonNegative | None = None
    """Step size at the end of training, reached along a line; null: as at the beginning."""
    gamma: Share = 0.99
    """Discount per `discount_s`."""
    discount_s: Positive | None = None
    """Time in which gamma and lambda apply once; between two decisions they stand to the power of the time that passes,
    in units of this. Null stands for a 150th of the mean time from arrival to deadline, or 1 s without deadlines."""
    lambda_: Share = Field(default=1.0, alias="lambda")
    """V-trace: how fast traces fade; 0 trusts the critic, 1 the returns."""
    clip: Positive = 0.2
    """How far the probability ratio to the target network may move before the gradient stops."""
    entropy_coeff: NonNegative = 0.0
    """Weight of the entropy in the loss."""
    final_entropy_coeff: NonNegative | None = None
    """Weight of the entropy at the end of training, reached along a line; null: as at the beginning."""
    vf_loss_coeff: NonNegative = 0.5
    """Weight of the critic's squared error in the loss."""
    grad_clip: Positive | None = 0.5
    """Largest global norm of a gradient."""
    fragment_steps: Count = 50
    """Steps of each environment in one sample of a runner; runners take new weights between two samples."""
    batch_env_steps: Count = 800
    """Environment steps of a batch, which is whole samples."""
    minibatch_steps: Count = 256
    """Agent steps per gradient step; each use of a batch passes over it once."""
    idle_per_choice: NonNegative = 1.0
    """Agent steps without a choice kept for the critic, per step with one; the actor never learns from them."""
    uses_per_batch: Count = 2
    """How often a batch is learned from, unless the buffer overflows first."""
    least_uses_per_batch: NonNegative = 1.0
    """Sampling waits where batches were learned from less often than this on average, those of one full buffer apart;
    at most `uses_per_batch`, and 0: it never waits."""
    buffer_batches: Count = 4
    """Batches that wait to be learned from, in random order; a new one replaces the oldest, with several learners once
    that is used up."""
    learner: Literal["torch", "fused"] = "fused"
    """How gradient steps are taken, as PPO's: torch: by autograd; fused: written out, several times faster, for the
    networks of this package on the CPU, otherwise as torch. Both give the same except for rounding."""
    exchange_uses: Count = 4
    """With several learners (`training.learners`): uses of batches for which each learns by itself, before their
    weights are averaged and handed to the runners."""
    target_update_every: Count = 32
    """Gradient steps of a policy between two moves of its target network."""
    importance_clip: Positive = 2.0
    """Largest ratio of the sampling policy to the target network in the loss."""
    rho_clip: Positive = 1.0
    """V-trace: largest importance ratio in the critic's targets."""
    pg_rho_clip: Positive = 1.0
    """V-trace: largest importance ratio in the advantages."""
    report_env_steps: Count = 8000
    """Environment steps between two reports, each with a checkpoint when one is due."""

    @model_validator(mode="after")
    def _uses_fit(self) -> APPO:
        if self.least_uses_per_batch > self.uses_per_batch:
            raise ValueError(
                f"least_uses_per_batch: {self.least_uses_per_batch:g} is more than uses_per_batch "
                f"({self.uses_per_batch}), so that sampling would wait indefinitely"
            )
        return self
