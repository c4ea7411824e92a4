"""How one node decides: by a rule, or by its own network."""

from __future__ import annotations

from offload_rllib.envs.node_view import NodeView
from offload_rllib.policies.portable import PortablePolicy
from offload_rllib.simulator.types import NONE
from offload_rllib.testbed.setup import Brain, Network


class Decider:
    """The decisions of a node.

    Attributes:
        wall_s: real seconds that each decision took, the node's own tasks written down included.
        masked: actions that were not valid and acted as 0.
    """

    def __init__(self, view: NodeView, network: Network, brain: Brain) -> None:
        """Take the node's knowledge, and how agents and other nodes decide."""
        self.wall_s: list[float] = []
        self.masked = 0
        self._view = view
        self._columns = brain.columns
        self._deterministic = brain.deterministic
        self._rule = brain.rule if view.agent < network.agents else network.others
        own = self._rule is None and view.agent != NONE
        weights = brain.weights[brain.policy_of[view.agent]] if own else {}
        self._policy = PortablePolicy(brain.shape, weights, seed=brain.seed + max(view.agent, 0))

    def __call__(self, now_s: float) -> int:
        """Return the link over which to send the held task, or `NONE`: keep it. The node's tasks were written."""
        if self._rule is not None:
            action = self._view.decide(*self._rule, now_s)
        else:
            seen, mask = self._view.observe(now_s)
            if self._columns is not None:
                seen = seen[self._columns]
            action = self._policy(seen, mask, now_s=now_s, deterministic=self._deterministic)
        self._view.chosen()
        link = self._view.action_link(action)
        self.masked += action != 0 and link == NONE
        return link
