"""What an agent sees: numbers from `simulator.information`, scaled to [-1, 1].

The layout is specified in the docstring of `offload_rllib.envs.parallel.OffloadParallelEnv`.
"""

from __future__ import annotations

import re

import numpy as np

from offload_rllib.simulator.information import estimate, known, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import FAILURES_NONE, NONE, UNBOUNDED, Array, Scenario
from offload_rllib.simulator.variants import is_full

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


def observation_size(rows: int, *, failures: bool = False) -> int:
    """Return the length of an observation with `rows` action rows, where nodes fail or not."""
    return FIRST_ROW + rows * ROW_SIZE + (rows if failures else 0)


def feature_names(rows: int, *, failures: bool = False) -> list[str]:
    """Return the name of every number of an observation, e.g. ``row_2.finish``."""
    names = [f"self.{name}" for name in SELF_FEATURES] + [f"task.{name}" for name in TASK_FEATURES]
    names += [f"row_{row}.{name}" for row in range(rows) for name in ROW_FEATURES]
    return names + ([f"row_{row}.alive" for row in range(rows)] if failures else [])


# A time that stands for "never": far beyond every scale, and still a float32.
NEVER_S = 1e30


def scaling(scenario: Scenario) -> Array:
    """Return [2, F] float32: a and b of x / (a + b |x|), which brings each raw number x of an observation to [-1, 1].

    b = 1: the number saturates, and x = a shows as 0.5. b = 0: it is a ratio already.
    """
    settings = scenario.settings[0]
    time_s, one = (float(settings["time_scale_s"]), 1.0), (1.0, 0.0)
    bits = (float(settings["bits_scale"]), 1.0)
    halves = {
        "self.held": (2.0, 1.0),
        "self.backlog": time_s,
        "self.own_unfinished": (8.0, 1.0),
        "self.speed": (float(settings["max_speed"]), 0.0),
        "self.degree": (4.0, 1.0),
        "task.work": (float(settings["work_scale"]), 1.0),
        "task.bits_in": bits,
        "task.bits_out": bits,
        "task.time_left": time_s,
        "task.age": time_s,
        "task.hops": (float(settings["max_hops"]), 0.0),
        "row.wait": time_s,
        "row.service": time_s,
        "row.transfer": time_s,
        "row.return": time_s,
        "row.finish": time_s,
        "row.slack": time_s,
        "row.information_age": time_s,
        "row.sent": (2.0, 1.0),
        "row.speed": (float(settings["max_speed"]), 0.0),
    }
    failures = bool(settings["failures"] != FAILURES_NONE)
    names = feature_names(scenario.destination.shape[1], failures=failures)
    names = [re.sub(r"^row_\d+", "row", name) for name in names]
    return np.array([halves.get(name, one) for name in names], np.float32).T.copy()


@kernel
def fill(tasks, capacity):
    """Return the filled share of a queue; of an unbounded one, tasks / (tasks + 4)."""
    if capacity == UNBOUNDED:
        return tasks / (tasks + 4.0)
    return min(tasks / capacity, 1.0)


@kernel
def observe(scenario, environment, scales, observations, masks):
    """Write what every agent of one environment sees.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        scales: [2, F] float32 from `scaling`.
        observations: [A, F] float32, overwritten.
        masks: [A, R] int8, overwritten: 1 where an action is valid.
    """
    max_hops = scenario.settings[0].max_hops
    now_s = environment.episode[0].now_s
    rows = scenario.destination.shape[1]
    failures = is_full(scenario) and scenario.settings[0].failures != FAILURES_NONE
    first_alive = FIRST_ROW + rows * ROW_SIZE
    for agent in range(scenario.agent_node.shape[0]):
        seen = observations[agent]
        mask = masks[agent]
        n = scenario.agent_node[agent]
        here = scenario.node[n]
        node = environment.node[n]
        slot = offered(scenario, environment, agent)
        on_offer = slot != NONE
        task = environment.task[max(slot, 0)]
        left_s = min(task.deadline_s - now_s, NEVER_S)
        own = known(scenario, environment, agent, 0, now_s)
        # Raw numbers in SI units first; all are scaled in one pass at the end, which the compiler vectorises.
        seen[0] = fill(own.tasks, here.capacity)
        seen[1] = node.held
        seen[2] = own.work / here.speed
        seen[3] = node.own_unfinished
        seen[4] = here.speed
        seen[5] = 1.0 if here.arrival_rate > 0.0 else 0.0
        seen[6] = here.degree
        if on_offer:
            seen[7] = 1.0
            seen[8] = task.work
            seen[9] = task.bits_in
            seen[10] = task.bits_out
            seen[11] = left_s
            seen[12] = now_s - task.created_s
            seen[13] = task.hops
        else:
            seen[SELF_SIZE:FIRST_ROW] = 0.0
        again = on_offer and task.hops + 1 < max_hops
        for action in range(rows):
            row = seen[FIRST_ROW + action * ROW_SIZE : FIRST_ROW + (action + 1) * ROW_SIZE]
            if action > 0 and scenario.destination[agent, action] == NONE:
                row[:] = 0.0
                mask[action] = 0
                if failures:
                    seen[first_alive + action] = 0.0
                continue
            there = own if action == 0 else known(scenario, environment, agent, action, now_s)
            at = scenario.node[there.node]
            valid = action == 0 or on_offer
            mask[action] = 1 if valid else 0
            row[0] = 1.0 if valid else 0.0
            if on_offer:
                expected = estimate(scenario, environment, agent, action, there, slot)
                row[1] = expected.wait_s
                row[2] = expected.service_s
                row[3] = expected.transfer_s
                row[4] = expected.return_s
                row[5] = expected.finish_s
                row[6] = left_s - expected.finish_s
            else:
                row[1:7] = 0.0
            row[7] = fill(there.tasks + there.sent_tasks, at.capacity)
            row[8] = there.age_s
            row[9] = there.sent_tasks
            row[10] = at.speed
            row[11] = 1.0 if again and action > 0 and at.agent != NONE else 0.0
            if failures:
                seen[first_alive + action] = there.alive
        for i in range(seen.shape[0]):
            seen[i] = seen[i] / (scales[0, i] + scales[1, i] * abs(seen[i]))
