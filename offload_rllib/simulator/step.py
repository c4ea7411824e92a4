"""The clocked form: apply the agents' actions, then run the events of one decision interval."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.actions import apply_action
from offload_rllib.simulator.events.closing import close_episode
from offload_rllib.simulator.events.loop import DONE, UNFINISHED, run_until
from offload_rllib.simulator.information import offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.prefetch import prefetch
from offload_rllib.simulator.tasks import integrate_unfinished
from offload_rllib.simulator.types import NONE
from offload_rllib.simulator.variants import is_large

ACTIONS_PENDING = 0
EVENTS_RUNNING = 1


@kernel
def begin_step(environment):
    """Open the account of a step: what happens from now on is this step's."""
    now_s = environment.episode[0].now_s
    environment.charged[:] = 0.0
    for n in range(environment.node.shape[0]):
        node = environment.node[n]
        node.own_changed_s = now_s
        node.own_task_seconds = 0.0
        node.own_drop_cost_s = 0.0
        node.own_finished = 0.0
        node.own_dropped = 0.0


@kernel
def end_step(environment):
    """Close the account of a step: its integrals reach to the present."""
    for n in range(environment.node.shape[0]):
        integrate_unfinished(environment.node[n], environment.episode[0].now_s)


@kernel
def advance(scenario, environment, actions):
    """Advance one environment by one decision interval.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis, changed in place.
        actions: [D, k] int32: of each deciding node, for the tasks it has held longest, in that order.

    Returns:
        DONE, or UNFINISHED: the same call continues where it stopped, after the arrays have grown (`state.grow`) if
            they
        are full (`state.lacks_room`).
    """
    settings = scenario.settings[0]
    episode = environment.episode[0]
    end_s = (episode.step + 1) * settings.decision_interval_s
    if episode.stage == ACTIONS_PENDING:
        if episode.step > 0:  # what happened at the very start belongs to the first step
            begin_step(environment)
        for agent in range(actions.shape[0]):
            if is_large(scenario) and agent + 4 < actions.shape[0]:
                slot = offered(scenario, environment, agent + 4)
                if slot != NONE:
                    prefetch(environment.task, np.int64(slot))
            for turn in range(actions.shape[1]):
                apply_action(scenario, environment, agent, actions[agent, turn])
        episode.stage = EVENTS_RUNNING
    if run_until(scenario, environment, end_s) == UNFINISHED:
        return UNFINISHED
    end_step(environment)
    episode.stage = ACTIONS_PENDING
    episode.step += 1
    if episode.step == settings.steps:
        close_episode(scenario, environment)
    return DONE
