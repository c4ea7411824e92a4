"""How probable the actions of a policy were, for data sets that others learn from."""

from __future__ import annotations

import numpy as np
import torch

from offload_rllib.policies.heuristic import HeuristicPolicy
from offload_rllib.policies.network import epsilon_greedy
from offload_rllib.policies.policy import Policy
from offload_rllib.policies.saved import SavedPolicy
from offload_rllib.simulator.types import Array

UNIFORM_RULE = "random"


@torch.inference_mode()
def probabilities_of(
    policy: Policy, observations: Array, masks: Array, agents: Array, actions: Array, *, deterministic: bool
) -> Array:
    """Return the probabilities [N] float32 with which a policy takes actions where it took them.

    NaN where the policy does not state it: rules but `random`, which may draw among equals, users' functions, services,
    and drawn actions of policies that remember.

    Args:
        policy: fitted to the agents.
        observations: [N, F] float32.
        masks: [N, R], 1 where an action is valid.
        agents: [N] int64.
        actions: [N], valid ones.
        deterministic: whether the best actions were taken, not drawn ones.
    """
    valid = masks.sum(-1, dtype=np.int32)
    if isinstance(policy, HeuristicPolicy):
        known = 1 / valid if policy.name == UNIFORM_RULE else np.full(len(valid), np.nan)
        return np.where(valid == 1, 1.0, known).astype(np.float32)
    if not isinstance(policy, SavedPolicy):
        return np.where(valid == 1, 1.0, np.nan).astype(np.float32)
    found = np.ones(len(valid), np.float32)
    if deterministic:
        return found
    if policy.description.network.memory:
        return np.where(valid == 1, 1.0, np.nan).astype(np.float32)
    owners = policy.assignment.owners_of(agents)
    for number, network in enumerate(policy.networks.values()):
        rows = np.flatnonzero((owners == number) & (valid > 1))
        if not len(rows):
            continue
        seen, allowed = torch.from_numpy(observations[rows]), torch.from_numpy(masks[rows].astype(np.int8, copy=False))
        logits = network(seen, allowed)
        if policy.description.output == "values":
            logits = epsilon_greedy(logits, allowed, policy.description.epsilon)
        taken = torch.from_numpy(np.asarray(actions[rows], np.int64)).unsqueeze(-1)
        found[rows] = logits.softmax(-1).gather(-1, taken).squeeze(-1).numpy()
    return found
