"""What an agent sees: numbers from `simulator.information`, scaled to [-1, 1].

The layout is specified in the docstring of `offload_rllib.envs.parallel.OffloadParallelEnv`.
"""

from __future__ import annotations

from offload_rllib.simulator.information import estimate, known, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import NONE, UNBOUNDED

SELF_FEATURES = ("tasks", "held", "backlog", "own_unfinished", "speed", "client", "degree")
TASK_FEATURES = ("offered", "work", "bits_in", "bits_out", "time_left", "age", "hops")
ROW_FEATURES = (
    "valid",
    "wait",
    "service",
    "transfer",
    "return",
    "finish",
    "slack",
    "tasks",
    "information_age",
    "sent",
    "speed",
    "offers_again",
)
SELF_SIZE = len(SELF_FEATURES)
TASK_SIZE = len(TASK_FEATURES)
ROW_SIZE = len(ROW_FEATURES)
FIRST_ROW = SELF_SIZE + TASK_SIZE


def observation_size(rows: int) -> int:
    """Return the length of an observation with `rows` action rows."""
    return FIRST_ROW + rows * ROW_SIZE


def feature_names(rows: int) -> list[str]:
    """Return the name of every number of an observation, e.g. ``row_2.finish``."""
    names = [f"self.{name}" for name in SELF_FEATURES] + [f"task.{name}" for name in TASK_FEATURES]
    return names + [f"row_{row}.{name}" for row in range(rows) for name in ROW_FEATURES]


@kernel
def saturate(value, half):
    """Return value / (|value| + half): 0 at 0, 0.5 at `half`, towards 1 beyond; odd in `value`."""
    return value / (abs(value) + half)


@kernel
def fill(tasks, capacity):
    """Return the filled share of a queue; of an unbounded one, tasks / (tasks + 4)."""
    if capacity == UNBOUNDED:
        return saturate(float(tasks), 4.0)
    return min(tasks / capacity, 1.0)


@kernel
def observe(scenario, environment, observations, masks):
    """Write what every agent of one environment sees.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        observations: [A, F] float32, overwritten.
        masks: [A, R] int8, overwritten: 1 where an action is valid.
    """
    settings = scenario.settings[0]
    scale_s = settings.time_scale_s
    now_s = environment.episode[0].now_s
    rows = scenario.destination.shape[1]
    per_speed = 1.0 / settings.max_speed
    for agent in range(scenario.agent_node.shape[0]):
        seen = observations[agent]
        mask = masks[agent]
        n = scenario.agent_node[agent]
        here = scenario.node[n]
        node = environment.node[n]
        slot = offered(scenario, environment, agent)
        on_offer = slot != NONE
        task = environment.task[max(slot, 0)]
        left_s = task.deadline_s - now_s
        own = known(scenario, environment, agent, 0, now_s)
        seen[0] = fill(own.tasks, here.capacity)
        seen[1] = saturate(float(node.held), 2.0)
        seen[2] = saturate(own.work, scale_s * here.core_speed * here.servers)
        seen[3] = saturate(float(node.own_unfinished), 8.0)
        seen[4] = here.core_speed * here.servers * per_speed
        seen[5] = 1.0 if here.arrival_rate > 0.0 else 0.0
        seen[6] = here.degree / (here.degree + 4.0)
        if on_offer:
            seen[7] = 1.0
            seen[8] = saturate(task.work, settings.work_scale)
            seen[9] = saturate(task.bits_in, settings.bits_scale)
            seen[10] = saturate(task.bits_out, settings.bits_scale)
            seen[11] = saturate(left_s, scale_s) if settings.has_deadline else 1.0
            seen[12] = saturate(now_s - task.created_s, scale_s)
            seen[13] = task.hops / settings.max_hops
        else:
            seen[SELF_SIZE:FIRST_ROW] = 0.0
        again = on_offer and task.hops + 1 < settings.max_hops
        for action in range(rows):
            first = FIRST_ROW + action * ROW_SIZE
            if action > 0 and scenario.destination[agent, action] == NONE:
                seen[first : first + ROW_SIZE] = 0.0
                mask[action] = 0
                continue
            there = own if action == 0 else known(scenario, environment, agent, action, now_s)
            at = scenario.node[there.node]
            valid = action == 0 or on_offer
            mask[action] = 1 if valid else 0
            seen[first] = 1.0 if valid else 0.0
            if on_offer:
                expected = estimate(scenario, environment, agent, action, there, slot)
                seen[first + 1] = saturate(expected.wait_s, scale_s)
                seen[first + 2] = saturate(expected.service_s, scale_s)
                seen[first + 3] = saturate(expected.transfer_s, scale_s)
                seen[first + 4] = saturate(expected.return_s, scale_s)
                seen[first + 5] = saturate(expected.finish_s, scale_s)
                seen[first + 6] = saturate(left_s - expected.finish_s, scale_s) if settings.has_deadline else 1.0
            else:
                seen[first + 1 : first + 7] = 0.0
            seen[first + 7] = fill(there.tasks + there.sent_tasks, at.capacity)
            seen[first + 8] = saturate(there.age_s, scale_s)
            seen[first + 9] = saturate(float(there.sent_tasks), 2.0)
            seen[first + 10] = at.core_speed * at.servers * per_speed
            seen[first + 11] = 1.0 if again and action > 0 and at.agent != NONE else 0.0
