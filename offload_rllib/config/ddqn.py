"""The schema of DDQN in a policy file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import AlgorithmSettings, Count, Flag, NonNegative, Positive, Share

LARGEST_REPLAY = 2**31


class DDQN(AlgorithmSettings):
    """Double deep Q-learning (van Hasselt, Guez, Silver, arXiv 1509.06461) over the choices of agents, with replay."""

    name: Literal["DDQN"]
    """Chooses this algorithm."""
    lr: Positive = 5e-4
    """Step size of Adam."""
    final_lr: NonNegative | None = None
    """Step size at the end of training, reached along a line; null: as at the beginning."""
    gamma: Share = 0.99
    """Discount per `discount_s`."""
    discount_s: Positive | None = None
    """Time in which gamma applies once; between two decisions it stands to the power of the time that passes, in units
    of this. Null stands for a 150th of the mean time from arrival to deadline, or 1 s without deadlines."""
    n_step: Annotated[int, Field(ge=1, le=100, strict=True)] = 1
    """Choices of an agent until the value of what follows is taken from the network."""
    dueling: Flag = True
    """Learn the value of the state apart from the advantages of actions (Wang et al., arXiv 1511.06581)."""
    mixer: Literal["vdn", "qmix"] | None = None
    """What makes the value of the team's joint action of its agents' values (`docs/algorithms/value_factorisation.md`).
    vdn: their sum; qmix: a network that rises with each; null: nothing, each agent learns from its own reward."""
    mixing_units: Annotated[int, Field(ge=1, le=1024, strict=True)] = 32
    """With `mixer: qmix`: units of the hidden layer between the values of the agents and that of the team."""
    batch_transitions: Count = 256
    """Transitions per gradient step."""
    replay_ratio: Positive = 4.0
    """Transitions learned from, repetitions counted, per transition sampled."""
    replay_capacity: Annotated[int, Field(ge=1, le=LARGEST_REPLAY, strict=True)] = 100_000
    """Latest choices that are kept, for each policy. All policies together may take half of the available memory."""
    replay_in_checkpoints: Flag = True
    """Save the replay memory with each checkpoint; without it a resumed run collects new transitions, and ends
    differently."""
    learning_starts: Count = 2000
    """Transitions that replay must hold before learning begins; at most replay_capacity / 2."""
    priority_alpha: Share = 0.6
    """Exponent of TD errors in priorities (Schaul et al., arXiv 1511.05952); 0: transitions are drawn alike."""
    priority_beta: Share = 0.4
    """How far importance weights correct for priorities at the start; grows to 1 by the end of training."""
    target_update_every: Count = 250
    """Gradient steps between two updates of the target network."""
    target_tau: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    """How far an update moves the target network towards the network; 1: all the way."""
    huber_delta: Positive = 1.0
    """TD error beyond which the loss grows in a straight line, in units of the return."""
    grad_clip: Positive | None = 10.0
    """Largest global norm of a gradient."""
    epsilon_initial: Share = 1.0
    """Probability of a random valid action at the start."""
    epsilon_final: Share = 0.05
    """Probability of a random valid action from epsilon_decay_env_steps on."""
    epsilon_decay_env_steps: Count = 50_000
    """Environment steps in which the probability falls, in a straight line."""
    learner: Literal["torch", "fused"] = "fused"
    """How gradient steps are taken. torch: by autograd; fused: written out, several times faster, for the networks of
    this package on the CPU, otherwise as torch. Both give the same except for rounding."""
    sample_env_steps: Count = 320
    """Environment steps sampled between two rounds of gradient steps."""
    batch_env_steps: Count = 4000
    """Environment steps per iteration. A report follows each, and a checkpoint when one is due."""

    @model_validator(mode="after")
    def _replay_can_fill(self) -> DDQN:
        if 2 * self.learning_starts > self.replay_capacity:
            raise ValueError(
                f"learning_starts ({self.learning_starts}) must be at most replay_capacity / 2 "
                f"({self.replay_capacity // 2}): replay would rarely, or never, hold as many transitions"
            )
        return self
