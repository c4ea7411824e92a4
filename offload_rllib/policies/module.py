"""RLlib's view of the networks: a mask-aware `TorchRLModule` for actor-critic algorithms."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from offload_rllib.policies.network import Actor, Critic


class MaskedActorCritic(TorchRLModule, ValueFunctionAPI):
    """Actor and critic over `Dict(observations, action_mask)`, for the stock runner and every learner.

    The batch is only read. RLlib's own masking example takes keys out of it in place, which works for PPO alone.
    `model_config` holds `hidden` and `activation` (see `config.policy.Network`).
    """

    def setup(self) -> None:
        """Make the networks; a copy for inference alone has no critic."""
        size = self.observation_space["observations"].shape[0]
        shape = {"hidden": self.model_config["hidden"], "activation": self.model_config["activation"]}
        self.actor = Actor(size, int(self.action_space.n), **shape)
        self.critic = None if self.inference_only else Critic(size, **shape)
        self.action_dist_cls = TorchCategorical

    def train(self, mode: bool = True) -> MaskedActorCritic:
        """Switch the mode of training if it differs: RLlib asks at every forward pass, and each ask walks the tree."""
        return self if mode == self.training else super().train(mode)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        seen = batch[Columns.OBS]
        return {Columns.ACTION_DIST_INPUTS: self.actor(seen["observations"], seen["action_mask"])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return the critic's values [B]; `embeddings` are not used."""
        return self.critic(batch[Columns.OBS]["observations"])
