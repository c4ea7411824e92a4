"""Which networks the fused learner covers, as the layers that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from offload_rllib.algorithms.fused.perceptron import Layer, PerceptronPass
from offload_rllib.algorithms.fused.pointer import PooledPass, ScoresPass
from offload_rllib.policies.module import MaskedActorCritic, MaskedAPPO, MaskedQ
from offload_rllib.policies.network import Actor, Critic, QNetwork
from offload_rllib.policies.perceptron import is_hooked, plain_layers
from offload_rllib.policies.pointer import DestinationLayers, DestinationScores, PooledDestinations

Pass = PerceptronPass | ScoresPass | PooledPass

ACTOR_CRITICS = (MaskedActorCritic, MaskedAPPO)
OF_TARGET = "target_actor."
# What the fused learner's Adam does not do.
ADAMS_OPTIONS = ("weight_decay", "amsgrad", "maximize", "differentiable")


@dataclass(frozen=True)
class Part:
    """Scores of the actions, or the value of the state."""

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
    """A network whose gradient steps the fused learner takes."""

    parts: tuple[Part, ...]
    """Actor and critic; or the scores of actions and, if the network is dueling, the value of the state."""
    actions: int
    target: tuple[Part, ...] = ()
    """The parts of the target network of action values, which is not learned."""

    @classmethod
    def of(cls, module: Any, optimizer: Any) -> CoveredNetwork | None:
        """Return what is learned of a module, or None if it is not covered.

        It is if its networks are those of `policies.network` on the CPU, a critic a local one; if one plain Adam
        learns all their weights, and if nothing is hooked into them.
        """
        if is_hooked(module):
            return None
        actions = int(module.action_space.n)
        found: list[tuple[Part, ...] | None]
        if type(module) in ACTOR_CRITICS and type(module.actor) is Actor and type(module.critic) is Critic:
            found = [_joined([_scores_of(module.actor, actions), _value_of(module.critic, actions)]), ()]
            learned = [one for name, one in module.named_parameters() if not name.startswith(OF_TARGET)]
        elif type(module) is MaskedQ:
            found = [_parts_of_values(network, actions) for network in (module.q, module.target_q)]
            learned = list(module.q.parameters())
        else:
            return None
        parts, target = found
        if parts is None or target is None:
            return None
        network = cls(parts, actions, target)
        return network if network._is_learned_by(optimizer, learned) else None

    def parameters(self) -> list[Any]:
        """Return weights and offsets of one layer after another."""
        layers = [layer for part in self.parts for layer in part.layers]
        return [weights for layer in layers for weights in (layer.weight, layer.bias) if weights is not None]

    def _is_learned_by(self, optimizer: Any, learned: list[Any]) -> bool:
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        (group,) = optimizer.param_groups
        # Torch has no public question for hooks.
        is_plain = not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks) and not any(  # noqa: SLF001
            group[option] for option in ADAMS_OPTIONS
        )
        parameters, state = self.parameters(), optimizer.state
        # A weight that is used twice would get the gradient of one of its places.
        is_whole = all(sorted(map(id, parameters)) == sorted(map(id, others)) for others in (learned, group["params"]))
        is_learned = all(parameter.requires_grad for parameter in parameters)
        taken = {float(state[parameter]["step"]) if parameter in state else 0.0 for parameter in parameters}
        return is_plain and is_whole and is_learned and len(taken) == 1


def _parts_of_values(network: nn.Module, actions: int) -> tuple[Part, ...] | None:
    """Return the parts of a network of action values; None if they are not covered."""
    if type(network) is not QNetwork:
        return None
    parts = [_scores_of(network, actions)]
    if network.value is not None:
        parts.append(_value_of(network.value, actions) if type(network.value) is Critic else None)
    return _joined(parts)


def _scores_of(network: Actor | QNetwork, actions: int) -> Part | None:
    return _part([network.scores], actions)


def _value_of(critic: Critic, actions: int) -> Part | None:
    return _part([critic.features, critic.value], actions)


def _joined(parts: list[Part | None]) -> tuple[Part, ...] | None:
    found = tuple(part for part in parts if part is not None)
    return found if len(found) == len(parts) else None


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
