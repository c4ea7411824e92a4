"""A2C, synchronous advantage actor-critic, on RLlib's new API stack (see `on_policy`); RLlib itself dropped it."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from offload_rllib.algorithms.constraints import ConstrainedAlgorithm
from offload_rllib.algorithms.on_policy import HAS_CHOICE, OnPolicyLearner
from offload_rllib.algorithms.settings import UNSET, OnPolicyConfig
from offload_rllib.config import algorithms as schema


class A2CConfig(OnPolicyConfig):
    """Configuration of A2C; RLlib's names where RLlib has one."""

    section = schema.A2C

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults."""
        super().__init__(algo_class=algo_class or A2C)
        self.lambda_: float
        self.entropy_coeff: Any
        self.vf_loss_coeff: float
        self.apply_defaults()

    def training(
        self,
        *,
        lambda_: float = UNSET,
        entropy_coeff: Any = UNSET,
        vf_loss_coeff: float = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set hyperparameters.

        Args:
            lambda_: of generalised advantage estimation; 1: n-step returns, n up to the end of the fragment.
            entropy_coeff: weight of the entropy, or a schedule ``[[env steps, value], ...]``.
            vf_loss_coeff: weight of the critic's squared error.
            kwargs: as `AlgorithmConfig.training`.
        """
        super().training(**kwargs)
        for name, value in (("lambda_", lambda_), ("entropy_coeff", entropy_coeff), ("vf_loss_coeff", vf_loss_coeff)):
            if value is not UNSET:
                setattr(self, name, value)
        return self

    def get_default_learner_class(self) -> type[A2CLearner]:
        """Return A2C's learner."""
        return A2CLearner

    def validate(self) -> None:
        """Check what is set."""
        super().validate()
        Scheduler.validate(
            fixed_value_or_schedule=self.entropy_coeff,
            setting_name="entropy_coeff",
            description="entropy coefficient",
        )


class A2CLearner(OnPolicyLearner):
    """One gradient step per minibatch, along the policy gradient of the steps that have a choice."""

    def build(self) -> None:
        """Make networks, optimisers and the schedules of the entropy's weight."""
        super().build()
        self.entropy_coeff_schedulers_per_module = {
            module_id: Scheduler(
                fixed_value_or_schedule=self.config.get_config_for_module(module_id).entropy_coeff,
                framework=self.framework,
                device=self._device,  # pyright: ignore[reportArgumentType] - as RLlib itself does
            )
            for module_id in self.module.keys()  # noqa: SIM118 - RLlib's modules are no mapping to iterate over
        }

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return minus the mean of A log pi (Mnih et al., arXiv 1602.01783, section 4), with critic and entropy."""
        module = self.network(module_id)
        has_choice = batch[HAS_CHOICE]
        choices = has_choice.sum().clamp_min(1)
        distribution = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        logp = distribution.logp(batch[Columns.ACTIONS])
        policy_loss = -(batch[Postprocessing.ADVANTAGES] * logp * has_choice).sum() / choices
        entropy = (distribution.entropy() * has_choice).sum() / choices
        loss = self.whole_loss(module_id, config, batch, policy_loss, entropy, {})
        # Noted behind the other parts of the loss.
        return loss + self.pull_of(module_id, batch, fwd_out[Columns.ACTION_DIST_INPUTS])

    fused_loss = compute_loss_for_module

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move the schedules on."""
        super().after_gradient_based_update(timesteps=timesteps)
        for schedule in self.schedules():
            schedule.update(timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        """Return what a module must be able to do: give values."""
        return [ValueFunctionAPI]


class A2C(ConstrainedAlgorithm):
    """Samples a batch, takes one pass over it, gives the runners the new weights."""

    @classmethod
    def get_default_config(cls) -> A2CConfig:
        """Return the defaults."""
        return A2CConfig()

    def training_step(self) -> None:
        """Do one iteration."""
        self.iterate(num_epochs=1, minibatch_size=self.config.minibatch_size)
