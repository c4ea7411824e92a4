"""From decision to decision, where a task is decided at the moment at which it arrives.

An environment stops right after the event that has brought a task to a deciding node with a hop left. Whatever comes
next, at the same instant too, comes after the decision.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.actions import apply_action
from offload_rllib.simulator.closing import close_episode
from offload_rllib.simulator.heuristics import decide_arrived
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.loop import DECISION, DONE, run_until
from offload_rllib.simulator.types import NONE


@kernel
def apply_decision(scenario, environment, action):
    """Carry out the decision that is due."""
    episode = environment.episode[0]
    agent = np.int64(episode.deciding)
    episode.deciding = NONE
    apply_action(scenario, environment, agent, action)


@kernel
def run_to_decision(scenario, environment, agents, others, planned):
    """Run to the next decision of an agent, or to the end of the episode.

    Args:
        scenario: of the environment.
        environment: a `State` without its leading axis, changed in place. No decision is due.
        agents: how many of the deciding nodes are agents; the others decide on the way.
        others: [2] float64, code and parameter of their rule; None if all deciding nodes are agents.
        planned: [R, 2] float64, zeros.

    Returns:
        DECISION; DONE, at the end; or UNFINISHED: the same call goes on (see `loop.run_until`).
    """
    episode = environment.episode[0]
    while True:
        status = run_until(scenario, environment, scenario.settings[0].horizon_s)
        if others is not None:  # noqa: SIM102 - alone, the test is decided when the kernel is compiled
            if status == DECISION and episode.deciding >= agents:
                action = decide_arrived(scenario, environment, np.int64(others[0]), others[1], planned)
                apply_decision(scenario, environment, action)
                continue
        if status == DECISION:
            episode.step += 1
        elif status == DONE:
            close_episode(scenario, environment)
        return status
