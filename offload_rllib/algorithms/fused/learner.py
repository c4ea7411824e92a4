"""Who takes a gradient step: autograd, or what is written out for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.algorithms.fused.network import CoveredNetwork
from offload_rllib.algorithms.fused.steps import FusedSteps

GRADIENTS, FUSED = "gradients", "fused"


class FusedLearner(DirectLearner):
    """A learner whose gradient steps may be written out.

    A subclass names the loss for which they are, `fused_loss`, and makes them, `make_steps`.
    """

    # The `compute_loss_for_module` whose gradient steps are written out; None: there is none.
    fused_loss: Callable[..., Tensor] | None = None
    fused_descend = DirectLearner.descend

    def build(self) -> None:
        """Make networks and optimisers."""
        super().build()
        self._fused: dict[str, FusedSteps] = {}

    def make_steps(self, network: CoveredNetwork, optimizer: Any) -> FusedSteps:
        """Return the gradient steps of a policy whose network is covered."""
        raise NotImplementedError

    def fused_steps(self, module_id: str) -> Any:
        """Return the gradient steps of a policy that are written out, of `make_steps`; None: autograd takes them."""
        if self.config.learner_config_dict[GRADIENTS] != FUSED:
            return None
        # A loss or a step that a subclass or a caller has put in its place is autograd's.
        present = self.compute_loss_for_module, self.descend
        written_out = type(self).fused_loss, type(self).fused_descend
        if not all(
            _is_same(getattr(one, "__func__", None), other) for one, other in zip(present, written_out, strict=True)
        ):
            return None
        optimizer = self.get_optimizer(module_id)
        network = CoveredNetwork.of(self.network(module_id), optimizer)
        if network is None:
            return None
        steps = self._fused.get(module_id)
        if steps is None or steps.network != network or steps.optimizer is not optimizer:
            steps = self._fused[module_id] = self.make_steps(network, optimizer)
        return steps


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two functions are the same, under equally many wrappers: Ray wraps all methods of an actor."""
    while hasattr(one, "__wrapped__") and hasattr(other, "__wrapped__"):
        one, other = one.__wrapped__, other.__wrapped__
    return one is other
