"""Gradient steps without RLlib's machinery around each: what all our learners share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis import TargetNetworkAPI
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from offload_rllib.algorithms.exchange.averaging import add_gradients, average, parameters_of
from offload_rllib.algorithms.exchange.meeting import Meeting
from offload_rllib.simulator.types import Array

GRADIENT_NORM = "gradient_norm"
TORCH_THREADS = "torch_threads"
SCHEDULES_AT = "schedules_at_env_steps"


class DivergedError(RuntimeError):
    """A loss or a gradient is not a number."""


class DirectLearner(TorchLearner):
    """Takes gradient steps on ready tensors.

    RLlib's own learner builds its batches with connectors and counts metrics for every minibatch; both cost more than
    the networks of these policies do. A subclass gives the loss, reports figures with `note`, and calls `descend`.
    """

    # RLlib declares these by base types, the module as optional.
    config: Any
    _module: Any

    meeting: Meeting | None = None
    """Of several learners."""
    adds_gradients = False
    """Whether several learners take every gradient step together."""

    def build(self) -> None:
        """Make networks and optimisers, with as many threads as are asked for."""
        threads = self.config.learner_config_dict.get(TORCH_THREADS)
        if threads is not None:
            # Threads of one process wait for each other by spinning: on a busy machine two are far slower than one.
            torch.set_num_threads(threads)
        super().build()
        self._noted: dict[str, list[dict[str, Tensor]]] = {}
        self._schedules_at = 0

    def _make_modules_ddp_if_necessary(self) -> None:
        """Leave modules as they are: several learners meet by themselves (see `exchange`)."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register one Adam per module, with the update of all its weights in one call."""
        parameters = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.Adam(parameters, fused=True)  # pyright: ignore[reportArgumentType] - RLlib's name for tensors
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def network(self, module_id: str) -> Any:
        """Return the module of a policy, one of `policies.module`; RLlib declares it as any module."""
        return self.module[module_id].unwrapped()  # pyright: ignore[reportOptionalSubscript] - there once built

    def start_with(self, modules: Mapping[str, Mapping[str, Array]]) -> None:
        """Put weights into modules before the first update, and into their target networks.

        Args:
            modules: by policy, weights by name; those that are not given stay.
        """
        for module_id, weights in modules.items():
            module = self.network(module_id)
            module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)
            self._follow(module_id)

    def begin_as_the_first(self, meeting: Meeting) -> None:
        """Take over the first learner's weights: without a seed every learner has drawn its own."""
        module_ids = list(self._module.keys())
        optimizers = [self.get_optimizer(module_id) for module_id in module_ids]
        is_first = float(meeting.index == 0)
        average(meeting, optimizers, [is_first] * len(optimizers), [0] * len(optimizers))
        for module_id in module_ids:
            self._follow(module_id)

    def taught_optimizers(self) -> dict[str, Any]:
        """Return the optimizers of the policies that learn."""
        modules = list(self._module.keys())
        return {one: self.get_optimizer(one) for one in modules if self.should_module_be_updated(one)}

    def _follow(self, module_id: str) -> None:
        """Let target networks, if a policy has any, be copies of what they follow."""
        module = self.network(module_id)
        if isinstance(module, TargetNetworkAPI):
            for network, target in module.get_target_network_pairs():
                target.load_state_dict(network.state_dict())

    def schedules(self) -> Iterable[Scheduler]:
        """Return what follows a schedule beside learning rates."""
        return ()

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Move schedules on, and remember where they are."""
        super().after_gradient_based_update(timesteps=timesteps)
        self.schedules_are_at(timesteps)

    def schedules_are_at(self, timesteps: dict[str, Any]) -> None:
        """Remember, for checkpoints, up to where schedules have moved."""
        self._schedules_at = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state, and the environment steps at which schedules are."""
        return super().get_state(*args, **kwargs) | {SCHEDULES_AT: self._schedules_at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore `get_state`: the next update uses the values that it would have used without an interruption."""
        super().set_state(state)
        if SCHEDULES_AT not in state:
            return
        self._schedules_at = state[SCHEDULES_AT]
        for schedule in self.schedules():
            schedule.update(timestep=self._schedules_at)
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=self._schedules_at))

    def note(self, module_id: str, values: dict[str, Any]) -> None:
        """Report figures of one minibatch; their means over an update are logged."""
        self._noted.setdefault(module_id, []).append({key: value.detach() for key, value in values.items()})

    def descend(self, module_id: str, config: Any, loss: Tensor) -> None:
        """Take one gradient step for a loss whose figures have been noted.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        optimizer = self.get_optimizer(module_id)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        noted = self._noted[module_id][-1]
        noted[GRADIENT_NORM] = self._step(module_id, config, loss.detach(), noted)

    def descend_with_others(self, module_id: str, config: Any) -> None:
        """Take one gradient step along the sum of the other learners' gradients; errors as `descend`."""
        self.get_optimizer(module_id).zero_grad(set_to_none=True)
        self._step(module_id, config, 0.0, {})

    def _step(self, module_id: str, config: Any, loss: Tensor | float, noted: dict[str, Tensor]) -> Tensor:
        """Move the weights along their gradient; return its norm."""
        optimizer = self.get_optimizer(module_id)
        parameters = parameters_of(optimizer)
        if self.meeting is not None and self.adds_gradients:
            add_gradients(self.meeting, parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest_norm(config))
        self.check_finite(module_id, loss, norm, lambda: noted)
        optimizer.step()
        return norm

    def check_finite(
        self, module_id: str, loss: Tensor | float, norm: Tensor | float, figures: Callable[[], dict[str, Tensor]]
    ) -> None:
        """Refuse to move the weights along a gradient that is not finite.

        Args:
            module_id: the policy.
            loss: of a minibatch.
            norm: of its gradient.
            figures: of the minibatch, for the message.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        if not math.isfinite(norm + loss):
            text = ", ".join(f"{key} {value.item():g}" for key, value in figures().items())
            raise DivergedError(
                f"policy '{module_id}': a loss or its gradient is not finite (loss {float(loss):g}; {text})"
            )

    def log_noted(self, module_id: str) -> None:
        """Log the means of what was noted since the last call."""
        noted = self._noted.pop(module_id, [])
        if noted:
            names = list(noted[0])
            means = torch.stack([torch.stack([values[name] for name in names]) for values in noted]).mean(0)
            self.metrics.log_dict(dict(zip(names, means.tolist(), strict=True)), key=module_id, window=1)


def largest_norm(config: Any) -> float:
    """Return the largest norm of a gradient, infinite if it is not limited."""
    return float("inf") if config.grad_clip is None else config.grad_clip
