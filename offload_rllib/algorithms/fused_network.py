"""Which networks the fused learner covers, as the layers that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from offload_rllib.algorithms.fused_perceptron import Layer, PerceptronPass
from offload_rllib.algorithms.fused_pointer import PooledPass, ScoresPass
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.network import Actor, Critic
from offload_rllib.policies.perceptron import is_hooked, plain_layers
from offload_rllib.policies.pointer import DestinationLayers, DestinationScores, PooledDestinations

Pass = PerceptronPass | ScoresPass | PooledPass

# What the fused learner's Adam does not do.
ADAMS_OPTIONS = ("weight_decay", "amsgrad", "maximize", "differentiable")


@dataclass(frozen=True)
class Part:
    """An actor or a critic."""

    kind: type[Pass]
    layers: list[nn.Linear]
    is_tanh: bool
    actions: int

    def passes(self, layers: list[Layer], inputs: Tensor) -> Pass:
        """Return the passes over some inputs, with weights at these places."""
        if self.kind is PerceptronPass:
            return PerceptronPass(layers, inputs, is_tanh=self.is_tanh)
        pointer: Any = self.kind
        return pointer(layers, inputs, self.actions, is_tanh=self.is_tanh)


@dataclass(frozen=True)
class CoveredNetwork:
    """An actor and a critic whose gradient steps the fused learner takes."""

    actor: Part
    critic: Part
    actions: int

    @classmethod
    def of(cls, module: Any, optimizer: Any) -> CoveredNetwork | None:
        """Return what there is of a module, or None if it is not covered.

        It is if actor and critic are those of `policies.network` on the CPU, the critic a local one; if one plain Adam
        learns all their weights, and if nothing is hooked into them.
        """
        if (
            type(module) is not MaskedActorCritic
            or type(module.actor) is not Actor
            or type(module.critic) is not Critic
        ):
            return None
        actions = int(module.action_space.n)
        actor = _part([module.actor.scores], actions)
        critic = _part([module.critic.features, module.critic.value], actions)
        if actor is None or critic is None or is_hooked(module):
            return None
        found = cls(actor, critic, actions)
        return found if found._is_learned_by(optimizer, module) else None

    def parameters(self) -> list[Any]:
        """Return weights and offsets of one layer after another."""
        layers = self.actor.layers + self.critic.layers
        return [weights for layer in layers for weights in (layer.weight, layer.bias) if weights is not None]

    def _is_learned_by(self, optimizer: Any, module: nn.Module) -> bool:
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        (group,) = optimizer.param_groups
        # Torch has no public question for hooks.
        is_plain = not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks) and not any(  # noqa: SLF001
            group[option] for option in ADAMS_OPTIONS
        )
        parameters, state = self.parameters(), optimizer.state
        # A weight that is used twice would get the gradient of one of its places.
        is_whole = all(
            sorted(map(id, parameters)) == sorted(map(id, others)) for others in (module.parameters(), group["params"])
        )
        is_learned = all(parameter.requires_grad for parameter in parameters)
        taken = {float(state[parameter]["step"]) if parameter in state else 0.0 for parameter in parameters}
        return is_plain and is_whole and is_learned and len(taken) == 1


def _part(networks: list[nn.Module], actions: int) -> Part | None:
    """Return one network behind the other as the layers of a part; None if they are not covered."""
    first, *behind = networks
    if type(first) is nn.Sequential:
        return _checked(PerceptronPass, [], [*first, *behind], actions)
    if type(first) is DestinationScores and not behind:
        return _pointer(ScoresPass, first.layers, [first.score], actions)
    if type(first) is PooledDestinations and type(first.head) is nn.Sequential:
        return _pointer(PooledPass, first.layers, [*first.head, *behind], actions)
    return None


def _pointer(kind: type[Pass], layers: nn.Module, behind: list[nn.Module], actions: int) -> Part | None:
    if type(layers) is not DestinationLayers or type(layers.rest) is not nn.Sequential:
        return None
    parts: list[Any] = [layers.context, layers.here, layers.row]
    of_rows = [layer.bias is None for layer in parts] == [False, False, True]
    return _checked(kind, parts[:2], [layers.row, *layers.rest, *behind], actions) if of_rows else None


def _checked(kind: type[Pass], before: list[nn.Module], chain: list[nn.Module], actions: int) -> Part | None:
    """Return a part if all its layers are plain: `before`, and a chain of layers and activations of one kind."""
    plain = plain_layers(chain)
    if plain is None or any(plain_layers([layer]) is None for layer in before):
        return None
    linear = [layer for layer in [*before, *plain] if isinstance(layer, nn.Linear)]
    activations = {type(layer) for layer in plain} - {nn.Linear}
    # Of the layers only that of a pointer's rows has no offsets.
    unusual = any(layer.bias is None for layer in linear[0 if kind is PerceptronPass else 3 :])
    if unusual or len(activations) > 1:
        return None
    return Part(kind, linear, nn.Tanh in activations, actions)
