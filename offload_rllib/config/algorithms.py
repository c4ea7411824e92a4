"""The schema of `algorithm` in a policy file: what learns, and how. RLlib's names where RLlib has one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from offload_rllib.config.appo import APPO
from offload_rllib.config.base import AlgorithmSettings, Count, NonNegative, Positive, Schema, Share
from offload_rllib.config.ddqn import DDQN

CONSTRAINED = (
    "dropped_share",
    "dropped_queue_full_share",
    "dropped_expired_share",
    "dropped_lost_share",
    "dropped_node_failed_share",
    "dropped_rejected_share",
    "late_share",
    "unfinished_share",
    "missed_share",
)


def _figure(value: str) -> str:
    if value.partition("_of_")[0] not in CONSTRAINED:
        raise ValueError(
            f"must be {', '.join(CONSTRAINED)}, with _of_TYPE behind it for the tasks of one type: other figures have "
            "no exact cost at each step"
        )
    return value


Figure = Annotated[
    str,
    AfterValidator(_figure),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(CONSTRAINED)})(_of_.+)?$"}),
]


class Constraint(Schema):
    """A figure that is to be at most so much on average; formulas in `docs/constraints.md`.

    Its multiplier is what a task that the figure counts costs, in the unit of the reward before `reward.scale`: seconds
    with `reward.name: delay`.
    """

    figure: Figure
    """A share of the tasks (`docs/metrics.md`)."""
    at_most: Share
    """The bound, from 0 to 1."""
    initial: NonNegative = 0.0
    """The multiplier before the first batch."""
    proportional: NonNegative = 2000.0
    """Factor on the smoothed excess over the bound."""
    integral: NonNegative = 200.0
    """Factor on the excess of each batch in what it adds to the multiplier for good; below the bound it subtracts."""
    derivative: NonNegative = 0.0
    """Factor on the rise of the smoothed excess since the last batch."""
    largest_excess: Positive = 0.02
    """More excess in a batch counts as this much. An untrained policy breaks a bound many times over, which says
    nothing about the price at which a trained one keeps it."""
    smoothing: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.8
    """Weight of the past in the smoothed excess: 0 smoothes nothing."""
    largest: Positive = 1000.0
    """Bound of the multiplier: it stays there where the constraint cannot be met."""


def constraints_of(algorithm: object) -> tuple[Constraint, ...]:
    """Return the constraints in a section `algorithm`; none of an algorithm that takes none."""
    return getattr(algorithm, "constraints", ())


def excess_over(bounds: Sequence[Constraint], shares: Iterable[float]) -> float:
    """Return by how much shares exceed their bounds, the largest excess; 0.0 if by none."""
    return max([0.0, *(share - bound.at_most for bound, share in zip(bounds, shares, strict=True))])


class OnPolicy(AlgorithmSettings):
    """The keys that PPO and A2C have in common."""

    lr: Positive = 3e-4
    """Step size of Adam."""
    final_lr: NonNegative | None = None
    """Step size at the end of training, reached along a line; null: as at the beginning."""
    gamma: Share = 0.99
    """Discount per `discount_s`."""
    discount_s: Positive | None = None
    """Time in which gamma and lambda apply once; between two decisions they stand to the power of the time that passes,
    in units of this. Null stands for a 150th of the mean time from arrival to deadline, or 1 s without deadlines."""
    lambda_: Share = Field(default=0.95, alias="lambda")
    """Generalised advantage estimation: 0 trusts the critic, 1 the returns."""
    entropy_coeff: NonNegative = 0.0
    """Weight of the entropy in the loss."""
    final_entropy_coeff: NonNegative | None = None
    """Weight of the entropy at the end of training, reached along a line; null: as at the beginning."""
    pull_coeff: NonNegative = 0.0
    """Weight, at the beginning, of the divergence from the policy that training starts with; it falls to 0 along a line
    until the end. Needs `training.start_from` or `training.imitate` (`docs/warm_start.md`)."""
    vf_loss_coeff: NonNegative = 0.5
    """Weight of the critic's squared error in the loss."""
    batch_env_steps: Count = 4000
    """Environment steps sampled per iteration."""
    grad_clip: Positive | None = 0.5
    """Largest global norm of a gradient."""
    idle_per_choice: NonNegative = 1.0
    """Agent steps without a choice kept for the critic, per step with one; the actor never learns from them."""
    memory_steps: Count = 16
    """With `network.memory`: decisions of an agent through which a gradient is passed back."""
    critic: Literal["local", "central"] = "local"
    """What the critic sees in training: local: the agent's observation; central: in addition the mean of all agents'
    embedded observations (MAPPO). Actors see their own observation, always."""
    credit: Literal["steps", "decisions", "annealed", "auto"] = "steps"
    """What is learned from. steps: the reward of each step; decisions: the cost of each decision for all tasks, known
    in hindsight, with gamma 0. With annealed it is decisions at the beginning of training and steps at its end, and
    both in between. With auto it is annealed with the reward `delay` where that is possible, elsewhere steps; and
    decisions where rewards are those of an agent's own tasks alone, or with constraints (`docs/algorithms/ppo.md`)."""
    constraints: tuple[Constraint, ...] = ()
    """Bounds that training keeps, each by a multiplier that it learns (`docs/constraints.md`)."""
    learner: Literal["torch", "fused"] = "fused"
    """How gradient steps are taken. torch: by autograd; fused: written out, several times faster, for the networks of
    this package with a local critic on the CPU, otherwise as torch. Both give the same except for rounding."""
    exchange: Literal["weights", "gradients"] = "weights"
    """What several learners exchange (`training.learners`). weights: each learns from its own samples, and then their
    weights are averaged, once per batch; gradients: they are averaged for every minibatch."""
    exchange_batches: Count = 1
    """With several learners and `exchange: weights`: batches from which each learns by itself before their weights are
    averaged. An iteration of the run is then so many batches. More cost less time for the exchange and the trainer, and
    let the learners drift apart (`docs/scaling.md`)."""
    late_share: NonNegative | None = None
    """Of several learners that exchange weights, one that takes longer to learn from a batch than the median learner
    took for the last one, by this share of that time, is cut short. Results are then not repeatable; null: all are
    waited for."""

    @model_validator(mode="after")
    def _constraints_differ(self) -> OnPolicy:
        figures = [constraint.figure for constraint in self.constraints]
        for figure in figures:
            if figures.count(figure) > 1:
                raise ValueError(f"constraints: {figure} is bounded {figures.count(figure)} times; accepted: once")
        return self

    @model_validator(mode="after")
    def _who_is_late_can_stop(self) -> OnPolicy:
        if self.late_share is not None and self.exchange == "gradients":
            raise ValueError(
                f"late_share ({self.late_share:g}): exchange: gradients takes every step together; accepted: null"
            )
        return self

    @model_validator(mode="after")
    def _gradients_are_exchanged_always(self) -> OnPolicy:
        if self.exchange_batches > 1 and self.exchange == "gradients":
            raise ValueError(
                f"exchange_batches ({self.exchange_batches}): exchange: gradients meets at every minibatch; accepted: 1"
            )
        return self

    @model_validator(mode="after")
    def _credit_is_complete(self) -> OnPolicy:
        if self.credit == "decisions" and self.gamma != 0:
            raise ValueError(
                f"credit: decisions needs gamma 0, is {self.gamma:g}: all that follows from a decision is in its own "
                "reward already"
            )
        return self


class PPO(OnPolicy):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347)."""

    name: Literal["PPO"]
    """Chooses this algorithm."""
    clip: Positive = 0.2
    """How far the probability ratio may move before the gradient stops."""
    epochs: Count = 6
    """Passes over each batch."""
    minibatch_steps: Count = 512
    """Agent steps per gradient step."""

    @model_validator(mode="after")
    def _minibatches_fit(self) -> PPO:
        if self.minibatch_steps > self.batch_env_steps:
            raise ValueError(
                f"minibatch_steps ({self.minibatch_steps}) must not exceed batch_env_steps ({self.batch_env_steps})"
            )
        return self


class A2C(OnPolicy):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783), synchronous: one pass over each batch."""

    name: Literal["A2C"]
    """Chooses this algorithm."""
    minibatch_steps: Count | None = None
    """Agent steps per gradient step; null: one step for the whole batch."""


Algorithm = Annotated[PPO | A2C | APPO | DDQN, Field(discriminator="name")]
