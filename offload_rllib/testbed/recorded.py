"""The arrivals that both sides play, when nodes fail, and how a contender decides on a node."""

from __future__ import annotations

from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.evaluation.players import Contender
from offload_rllib.policies.heuristic import HeuristicPolicy
from offload_rllib.policies.portable import PORTABLE, Shape
from offload_rllib.policies.saved import SavedPolicy
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator import streams
from offload_rllib.simulator.durations import draw_duration
from offload_rllib.simulator.streams import node_key
from offload_rllib.simulator.types import Array
from offload_rllib.testbed.playing import Fault
from offload_rllib.testbed.setup import ARRIVAL_ROW, Brain, Network
from offload_rllib.testbed.support import check_rule_of_node

KEEPS_ALL = "local"


def network_of(env: ArrivalEnv) -> Network:
    """Return the network of an environment, as its nodes need it."""
    scenario = env.scenario
    others = (0, 0.0)
    if scenario.others:
        others = check_rule_of_node(scenario.config.agents.others, "agents.others")
    names = tuple(node.name for node in scenario.network.nodes)
    return Network.of(scenario.arrays, names, env.num_actions, len(env.agents), others)


def arrivals_of(env: ArrivalEnv, key: int) -> Array:
    """Return the tasks [n] ARRIVAL_ROW that an episode brings; they do not depend on decisions.

    Args:
        env: one environment that keeps a log.
        key: of the episode.

    Raises:
        ConfigError: a task enters another node than the one it is of.
    """
    env.reset(np.array([key], np.uint64))
    env.play(KEEPS_ALL)
    log = env.task_log(0)
    strays = np.flatnonzero(log["node"] != log["origin"])
    if len(strays):
        raise ConfigError(
            "testbed: workload.arrivals.columns: a task enters another node than the one that it is of; accepted: "
            "recordings whose tasks enter their own node"
        )
    rows = np.zeros(len(log), ARRIVAL_ROW)
    rows["number"] = np.arange(len(log))
    for name in ARRIVAL_ROW.names or ():
        if name != "number":
            rows[name] = log[name]
    return rows


def faults_of(scenario: BuiltScenario, key: int) -> list[Fault]:
    """Return when nodes fail in an episode, and are repaired: the same times as in the simulator."""
    draw: Any = draw_duration
    horizon_s = float(scenario.arrays.settings[0]["horizon_s"])
    faults = []
    for n, law in enumerate(scenario.arrays.failure_law):
        own = np.uint64(node_key(np.uint64(key), scenario.arrays.node[n]["name_hash"]))
        number, time_s = 0, 0.0
        while law["fails"]:
            from_s = time_s + draw(law["up"], own, streams.FAILURE_GAP, number)
            if from_s > horizon_s:
                break
            time_s = from_s + draw(law["down"], own, streams.REPAIR_TIME, number)
            faults.append(Fault(n, from_s, time_s))
            number += 1
    return sorted(faults, key=lambda fault: fault.from_s)


def brain_of(contender: Contender, env: ArrivalEnv, seed: int) -> Brain:
    """Return how the agents of a testbed decide that follow a contender.

    Args:
        contender: a rule or a trained policy.
        env: where it plays.
        seed: of its draws.

    Raises:
        ConfigError: it does not fit, or no single node can follow it.
    """
    policy = contender.begin(env, seed)
    if isinstance(policy, HeuristicPolicy):
        return Brain(rule=check_rule_of_node(policy.name, "policies"))
    if not isinstance(policy, SavedPolicy):
        raise ConfigError(f"policies: '{contender.name}': a node asks no service; accepted: rules and trained policies")
    described = policy.description
    if described.network.module is not None:
        raise ConfigError(
            f"policies: '{contender.name}': network.module ({described.network.module}) needs torch, which nodes do "
            "without; accepted: network.kind mlp or pointer"
        )
    if described.network.kind not in PORTABLE:
        raise ConfigError(
            f"policies: '{contender.name}': network.kind: {described.network.kind}; accepted: {', '.join(PORTABLE)}"
        )
    shape = Shape(
        described.output,
        described.network.kind,
        described.network.activation,
        described.epsilon,
        described.dueling,
        described.blocks[:3],
        described.network.memory,
    )
    weights = {
        name: {key: value.detach().numpy() for key, value in network.state_dict().items()}
        for name, network in policy.networks.items()
    }
    return Brain(
        shape=shape,
        weights=weights,
        policy_of=policy.assignment.policy_of,
        columns=env.shown_columns,
        deterministic=contender.deterministic,
        seed=seed,
    )
