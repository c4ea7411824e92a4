"""The networks as RLlib's modules: mask-aware `TorchRLModule`s for actor-critic and for value-based algorithms."""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium.spaces import Discrete
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    QNetAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import validated
from offload_rllib.config.policy import Network
from offload_rllib.envs.layout import Blocks
from offload_rllib.policies.fitting import has_rows
from offload_rllib.policies.mixer import joint_state, make_mixer
from offload_rllib.policies.network import OF_ROWS, Actor, CentralCritic, Critic, QNetwork, epsilon_greedy
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.policies.remembering import RememberingActor, remembering_critic

LOCAL, CENTRAL = "local", "central"
EVERYONE = "everyone"
SHAPE = ("hidden", "activation", "kind", "heads")
# Key of `model_config`, and of a batch: what agents remember (`remembering.RememberingActor`), and which rows follow
# each other.
MEMORY, SEQUENCES = "memory", "sequences"
# Key of `model_config`, and attribute of a module: see `policies.mixer`.
MIXER = "mixer"


class _Masked(TorchRLModule):
    """A module over `Dict(observations, action_mask)`, for the stock runner and every learner.

    All keys of `model_config` have defaults: `hidden`, `activation`, `kind` and `heads` those of
    `config.policy.Network`; `rows`, which networks of rows read (see `policies.pointer`), that of a full observation.
    Other keys are not read: RLlib adds its own.

    The batch is only read. RLlib's own masking example takes keys out of it in place, which works for PPO alone.
    """

    def train(self, mode: bool = True) -> _Masked:
        """Switch the mode of training if it differs: RLlib asks at every forward pass, and each ask walks the tree."""
        return self if mode == self.training else super().train(mode)

    def _sizes(self) -> tuple[int, int]:
        if not isinstance(self.action_space, Discrete):
            raise ConfigError(
                f"policy: these algorithms choose one action at a time, Discrete; the environment asks for "
                f"{self.action_space}: several tasks per decision"
            )
        return self.observation_space["observations"].shape[0], int(self.action_space.n)

    def _shape(self) -> dict[str, Any]:
        given = self.model_config or {}
        network = validated(Network, {key: given[key] for key in SHAPE if key in given}, "model_config")
        rows = Blocks(*given.get("rows", FULL_ROWS))
        first, here_size, row_size = rows[:3]
        size, actions = self._sizes()
        if (network.kind in OF_ROWS or rows.embedding) and not has_rows(rows, size, actions):
            raise ConfigError(
                f"model_config.rows: ({first}, {here_size}, {row_size}) does not fit observations of {size} numbers "
                f"for {actions} actions; accepted: `vector_env(...).layout.blocks` of the environment"
            )
        return {key: getattr(network, key) for key in SHAPE} | {"rows": rows}


class MaskedActorCritic(_Masked, ValueFunctionAPI):
    """Actor and critic.

    `model_config` may hold `hidden`, `activation`, `kind`, `heads`, `rows`, `memory` (units; default: 0, none), and
    `critic`: ``local`` (default) or ``central`` (see `config.policy`). With a central critic, which this project's
    learners feed, a batch that needs values holds `EVERYONE`, [B, N, F]: the observations of all agents of the row's
    environment at its time. With a memory a batch holds `MEMORY`, and where rows follow each other `SEQUENCES`, as
    `remembering.RememberingActor` takes them; this project's runner and learners give both.
    """

    def setup(self) -> None:
        """Make the networks; a copy for inference alone has no critic."""
        size, actions = self._sizes()
        shape = self._shape()
        self.memory = int((self.model_config or {}).get(MEMORY, 0))
        self.action_dist_cls = TorchCategorical
        self.critic: nn.Module | None = None
        if self.memory:
            self.actor: nn.Module = RememberingActor(size, actions, **shape, memory=self.memory)
            if not self.inference_only:
                self.critic = remembering_critic(size, **shape, memory=self.memory)
            return
        self.actor = self.make_network(size, actions, **shape)
        if not self.inference_only:
            central = (self.model_config or {}).get("critic", LOCAL) == CENTRAL
            self.critic = (CentralCritic if central else Critic)(size, **shape)

    @classmethod
    def make_network(cls, observation_size: int, actions: int, **shape: Any) -> nn.Module:
        """Return the actor: a network from observations [..., F] and masks [..., R] to logits [..., R].

        A subclass may return its own: it is what a saved policy contains.

        Args:
            observation_size: F.
            actions: R.
            shape: `hidden`, `activation`, `kind`, `heads` and `rows`, as `network.Actor` takes them.
        """
        return Actor(observation_size, actions, **shape)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        seen = batch[Columns.OBS]
        observations, masks = seen["observations"], seen["action_mask"]
        if not self.memory:
            return {Columns.ACTION_DIST_INPUTS: self.actor(observations, masks)}
        if MEMORY not in batch:
            raise ConfigError("network.memory: only this package's runner and learners know what agents remember")
        actor = cast("RememberingActor", self.actor)
        if SEQUENCES in batch:
            return {Columns.ACTION_DIST_INPUTS: actor.along(observations, masks, batch[MEMORY], batch[SEQUENCES])}
        scores, states = actor(observations, masks, batch[MEMORY])
        return {Columns.ACTION_DIST_INPUTS: scores, Columns.STATE_OUT: states}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return the critic's values [B]; `embeddings` are not used."""
        own = batch[Columns.OBS]["observations"]
        if isinstance(self.critic, CentralCritic):
            return self.critic(own.unsqueeze(-2), batch[EVERYONE]).squeeze(-1)
        if self.memory:
            own = torch.cat([batch[MEMORY], own], -1)
        return cast("nn.Module", self.critic)(own)


class MaskedAPPO(MaskedActorCritic, TargetNetworkAPI, InferenceOnlyAPI):
    """Actor, critic, and the older actor that APPO measures its steps from; `model_config` as `MaskedActorCritic`."""

    def make_target_networks(self) -> None:
        """Make `target_actor`, a copy of `actor` that no optimiser moves."""
        self.target_actor = make_target_network(self.actor)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Return (network, its target), which the learner keeps in step."""
        return [(self.actor, self.target_actor)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the target's scores [B, R] of ``batch[Columns.OBS]``, under RLlib's key."""
        seen = batch[Columns.OBS]
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_actor(seen["observations"], seen["action_mask"])}

    def get_non_inference_attributes(self) -> list[str]:
        """Runners need the actor alone."""
        return ["critic", "target_actor"]


class MaskedQ(_Masked, QNetAPI, TargetNetworkAPI, InferenceOnlyAPI):
    """Action values, `INVALID_LOGIT` where an action is not valid; for `DDQN` and for RLlib's DQN.

    `model_config` may hold that of `MaskedActorCritic` (without `critic`), `dueling` (default: no), and `epsilon`: a
    number (default: 0), or RLlib's schedule ``[[env steps, value], ...]``. RLlib's DQN fills both in from its own
    settings. Exploration draws among the valid actions only: RLlib's own counts an
    action as invalid if its value is -inf or exactly 0.

    With `mixer` (`policies.mixer`), `mixing_units` and `agents`, A, there is a mixer for `MixingLearner`, too.
    """

    def setup(self) -> None:
        """Make the network; the target network comes from the learner, by `make_target_networks`."""
        size, actions = self._sizes()
        given = self.model_config or {}
        self.q = self.make_network(size, actions, **self._shape(), dueling=given.get("dueling", False))
        self.epsilon = Scheduler(fixed_value_or_schedule=given.get("epsilon", 0.0), framework=self.framework)
        self.action_dist_cls = TorchCategorical
        if given.get(MIXER) is not None and not self.inference_only:
            self.agents = int(given["agents"])
            first, here_size = given.get("rows", FULL_ROWS)[:2]
            # What an agent knows of its own node and of its task; where an observation has none of that, all of it.
            self._own_size = first + here_size or size
            self.mixer = make_mixer(given[MIXER], self.agents, self._own_size, given["mixing_units"])

    @classmethod
    def make_network(cls, observation_size: int, actions: int, **shape: Any) -> nn.Module:
        """Return the network from observations [..., F] and masks [..., R] to action values [..., R].

        As `MaskedActorCritic.make_network`; `shape` holds `dueling`, too.
        """
        return QNetwork(observation_size, actions, **shape)

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``{QF_PREDS: [B, R]}`` of ``batch[Columns.OBS]``."""
        seen = batch[Columns.OBS]
        return {QF_PREDS: self.q(seen["observations"], seen["action_mask"])}

    def make_target_networks(self) -> None:
        """Make `target_q`, a copy of `q` that no optimiser moves, and the same of a mixer."""
        self.target_q = make_target_network(self.q)
        if hasattr(self, MIXER):
            self.target_mixer = make_target_network(self.mixer)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Return (network, its target), which the learner keeps in step."""
        pairs = [(self.q, self.target_q)]
        return [*pairs, (self.mixer, self.target_mixer)] if hasattr(self, MIXER) else pairs

    def mix(self, values: Tensor, observations: Tensor) -> Tensor:
        """Return the team's values [B] of the agents' values [B, A], where they observe [B, A, F]."""
        return self.mixer(values, joint_state(observations, self._own_size))

    def mix_target(self, values: Tensor, observations: Tensor) -> Tensor:
        """Return what `mix` does, by the target of the mixer."""
        return self.target_mixer(values, joint_state(observations, self._own_size))

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``{QF_PREDS: [B, R]}`` of the target network for ``batch[Columns.OBS]``."""
        seen = batch[Columns.OBS]
        return {QF_PREDS: self.target_q(seen["observations"], seen["action_mask"])}

    def get_non_inference_attributes(self) -> list[str]:
        """Runners need no target network, and no mixer."""
        return ["target_q", MIXER, "target_mixer"]

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        outputs = self.compute_q_values(batch)
        if Columns.NEXT_OBS in batch:
            # What RLlib's DQN learner takes its targets from; this project's learner asks for them itself.
            following = {Columns.OBS: batch[Columns.NEXT_OBS]}
            with torch.no_grad():
                outputs[QF_NEXT_PREDS] = self.compute_q_values(following)[QF_PREDS]
                outputs[QF_TARGET_NEXT_PREDS] = self.forward_target(following)[QF_PREDS]
        return outputs

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        # The most probable action of these logits is the best one; RLlib takes it when it does not explore.
        return {Columns.ACTION_DIST_INPUTS: self.compute_q_values(batch)[QF_PREDS]}

    def _forward_exploration(self, batch: dict[str, Any], t: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        self.epsilon.update(t)
        values = self.compute_q_values(batch)[QF_PREDS]
        epsilon = float(self.epsilon.get_current_value())
        return {Columns.ACTION_DIST_INPUTS: epsilon_greedy(values, batch[Columns.OBS]["action_mask"], epsilon)}
