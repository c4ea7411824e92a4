"""What an agent sees: numbers from `simulator.information`, scaled to [-1, 1].

The layout is specified in the docstring of `offload_rllib.envs.parallel.OffloadParallelEnv`.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.envs.layout import HERE, ROW, SELF, TASK, Feature, ObservationLayout, available, layout_of, names_of
from offload_rllib.envs.outlook import NUMBERS, write_outlook
from offload_rllib.simulator.energy import has_charges
from offload_rllib.simulator.events.broadcasts import has_outlooks
from offload_rllib.simulator.events.setups import has_setups
from offload_rllib.simulator.information import (
    estimate,
    expected_charge,
    expected_wait,
    fill,
    has_processor,
    is_valid,
    is_warm,
    known,
    offered,
    offered_next,
)
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.objectives import ABSENT, ENERGY, has_weights, objectives_of
from offload_rllib.simulator.prefetch import prefetch
from offload_rllib.simulator.tasks import score_of_unfinished
from offload_rllib.simulator.types import FAILURES_NONE, NONE, Array, Scenario
from offload_rllib.simulator.variants import has_extensions, is_large

__all__ = [
    "FIRST_ROW",
    "HERE_FEATURES",
    "HERE_SIZE",
    "ROW_FEATURES",
    "ROW_SIZE",
    "SELF_FEATURES",
    "TASK_FEATURES",
    "ObservationLayout",
    "layout_of",
    "observe",
    "scaling",
]

SELF_FEATURES = names_of(SELF)
TASK_FEATURES = names_of(TASK)
HERE_FEATURES = names_of(HERE)
ROW_FEATURES = names_of(ROW)
SELF_SIZE = len(SELF_FEATURES)
TASK_SIZE = len(TASK_FEATURES)
HERE_SIZE = len(HERE_FEATURES)
ROW_SIZE = len(ROW_FEATURES)
FIRST_ROW = SELF_SIZE + TASK_SIZE


# A time that stands for "never": far beyond every scale, and still a float32.
NEVER_S = 1e30
# Larger numbers than this are shown as this one: float32 ends at 3e38.
LARGEST = np.float32(1e30)


def features_of_scenario(scenario: Scenario) -> tuple[Feature, ...]:
    """Return all features of an environment, in order."""
    settings = scenario.settings[0]
    return available(
        failures=bool(settings["failures"] != FAILURES_NONE),
        clock=bool(settings["clock_period_s"] > 0),
        rejects=bool(settings["rejects"]),
        charges=len(scenario.charge) > 0,
        setups=len(scenario.setup_s) > 0,
        objectives=objectives_of(scenario),
        embedding=bool(settings["outlook"]),
    )


def scaling(scenario: Scenario, rows: int, tasks: int = 1) -> Array:
    """Return [2, F] float32: a and b of x / (a + b |x|), which brings each raw number x of an observation to [-1, 1].

    b = 1: the number saturates, and x = a shows as 0.5. b = 0: it is a ratio already.
    """
    settings = scenario.settings[0]
    scales = {
        "share": (1.0, 0.0),
        "2": (2.0, 1.0),
        "4": (4.0, 1.0),
        "8": (8.0, 1.0),
        "time": (float(settings["time_scale_s"]), 1.0),
        "work": (float(settings["work_scale"]), 1.0),
        "bits": (float(settings["bits_scale"]), 1.0),
        "speed": (float(settings["max_speed"]), 0.0),
        "hops": (float(settings["max_hops"]), 0.0),
    }
    every = features_of_scenario(scenario)
    of_block = {block: [scales[f.scale] for f in every if f.block == block] for block in (SELF, TASK, HERE, ROW)}
    offer = of_block[TASK] + of_block[HERE] + (rows - 1) * of_block[ROW]
    return np.minimum(np.array(of_block[SELF] + tasks * offer), LARGEST).astype(np.float32).T.copy()


@kernel
def _foresee(scenario, environment, agent):
    """Ask for what a deciding node knows: its task on offer, and what stands for its neighbours."""
    slot = offered(scenario, environment, agent)
    if slot != NONE:
        prefetch(environment.task, np.int64(slot))
    for action in range(1, scenario.destination.shape[1]):
        link_index = np.int64(scenario.destination[agent, action])
        if link_index != NONE:
            link = scenario.link[link_index]
            n = np.int64(link.destination)
            prefetch(scenario.link, np.int64(link.reverse))
            prefetch(scenario.node, n)
            prefetch(environment.node, n)
            prefetch(environment.broadcast, n)


@kernel
def observe(scenario, environment, scales, first, observations, masks):
    """Write what deciding nodes of one environment see.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        scales: [2, F] float32 from `scaling`.
        first: index of the first node, among the deciding ones.
        observations: [nodes, F] float32, overwritten.
        masks: [nodes, k, R] int8, overwritten: 1 where an action is valid.
    """
    clock = clock_of_day(scenario, environment)
    for i in range(observations.shape[0]):
        agent = first + i
        if is_large(scenario) and i + 4 < observations.shape[0]:
            _foresee(scenario, environment, agent + 4)
        observe_agent(scenario, environment, scales, clock, agent, observations[i], masks[i])


@kernel
def clock_of_day(scenario, environment):
    """Return sine and cosine of the time of day; of no use where the load does not follow it."""
    settings = scenario.settings[0]
    if settings.clock_period_s <= 0.0:
        return 0.0, 1.0
    angle = 2.0 * math.pi * (environment.episode[0].now_s / settings.clock_period_s + settings.clock_phase)
    return math.sin(angle), math.cos(angle)


@kernel
def _is_account_shown(scenario, account):
    return not has_weights(scenario) or scenario.weight[ENERGY + account] != ABSENT


@kernel
def _accounts_shown(scenario):
    """Return how many charges an action shows."""
    count = 0
    for account in range(scenario.charge.shape[0]):
        if _is_account_shown(scenario, account):
            count += 1
    return count


@kernel
def _write_charges(scenario, environment, agent, action, known_state, slot, row):
    """Write what an action is expected to be charged with into the first numbers of `row`; 0 with nothing on offer."""
    at = 0
    for account in range(scenario.charge.shape[0]):
        if _is_account_shown(scenario, account):
            row[at] = 0.0
            if slot != NONE:
                row[at] = expected_charge(scenario, account, environment, agent, action, known_state, slot)
            at += 1


@kernel
def observe_agent(scenario, environment, scales, clock, agent, seen, mask_of_tasks):
    """Write what one deciding node sees: `seen` [F], and `mask_of_tasks` [k, R]; `clock` is of `clock_of_day`.

    Returns:
        Numbers about the node, about row 0, and of each other row.
    """
    settings = scenario.settings[0]
    now_s = environment.episode[0].now_s
    rows = mask_of_tasks.shape[1]
    failures = has_extensions(scenario) and settings.failures != FAILURES_NONE
    here_size = HERE_SIZE + 1 if failures else HERE_SIZE
    row_size = ROW_SIZE + 1 if failures else ROW_SIZE
    may_reject = has_extensions(scenario) and settings.rejects != 0
    at_rejects = row_size
    if may_reject:
        row_size += 1
    charges = has_charges(scenario)
    here_charge = here_size
    row_charge = row_size
    if charges:
        accounts = _accounts_shown(scenario)
        here_size += accounts
        row_size += accounts
    setups = has_setups(scenario)
    if setups:
        here_size += 1
        row_size += 1
    at_warm = row_size - 1
    outlooks = has_outlooks(scenario)
    at_outlook = row_size
    if outlooks:
        row_size += 1 + NUMBERS
    end = rows - 1 if may_reject else rows  # the last row is that of rejecting
    has_clock = settings.clock_period_s > 0.0
    self_size = SELF_SIZE + 2 if has_clock else SELF_SIZE
    n = scenario.agent_node[agent]
    here = scenario.node[n]
    node = environment.node[n]
    slot = offered(scenario, environment, agent)
    own = known(scenario, environment, agent, 0, now_s)
    padding = 0
    # Raw numbers in SI units first; all are scaled in one pass at the end, which the compiler vectorises.
    seen[0] = node.held
    seen[1] = node.own_awaited
    seen[2] = 1.0 if here.arrival_rate > 0.0 else 0.0
    seen[3] = here.degree
    if has_clock:
        seen[4], seen[5] = clock
    if has_weights(scenario):
        for k in range(scenario.weight.shape[0]):
            if scenario.weight[k] != ABSENT:
                seen[self_size] = environment.weight[k]
                self_size += 1
    offer_size = TASK_SIZE + here_size + (rows - 1) * row_size
    for k in range(mask_of_tasks.shape[0]):
        mask = mask_of_tasks[k]
        offer = seen[self_size + k * offer_size :]
        on_offer = slot != NONE
        task = environment.task[max(slot, 0)]
        left_s = min(task.deadline_s - now_s, NEVER_S)
        if on_offer:
            offer[0] = 1.0
            offer[1] = task.work
            offer[2] = task.bits_in
            offer[3] = task.bits_out
            offer[4] = left_s
            offer[5] = now_s - task.created_s
            offer[6] = task.hops
        else:
            offer[:TASK_SIZE] = 0.0
        row = offer[TASK_SIZE:]
        processor = has_processor(scenario, n)
        mask[0] = 1 if processor or not on_offer else 0
        row[0] = expected_wait(scenario, own)
        if on_offer and processor:
            expected = estimate(scenario, environment, agent, 0, own, slot)
            row[1] = expected.service_s
            row[2] = expected.return_s
            row[3] = expected.finish_s
            row[4] = left_s - expected.finish_s
        else:
            row[1:5] = 0.0
        row[5] = fill(own.tasks, here.room)
        row[6] = here.speed
        if failures:
            row[7] = own.alive
        if charges:
            _write_charges(scenario, environment, agent, 0, own, slot, row[here_charge:])
        if setups:
            row[here_size - 1] = 1.0 if on_offer and is_warm(own, task.type) else 0.0
        padding = 0
        again = on_offer and task.hops + 1 < settings.max_hops
        for action in range(1, end):
            start = TASK_SIZE + here_size + (action - 1) * row_size
            row = offer[start : start + row_size]
            if scenario.destination[agent, action] == NONE:
                # Behind the last destination there is only padding.
                offer[start : TASK_SIZE + here_size + (end - 1) * row_size] = 0.0
                mask[action:end] = 0
                padding = (end - action) * row_size
                break
            there = known(scenario, environment, agent, action, now_s)
            at = scenario.node[there.node]
            valid = is_valid(scenario, environment, agent, action, slot)
            mask[action] = 1 if valid else 0
            row[0] = 1.0 if valid else 0.0
            row[1] = expected_wait(scenario, there)
            if on_offer:
                expected = estimate(scenario, environment, agent, action, there, slot)
                row[2] = expected.service_s
                row[3] = expected.transfer_s
                row[4] = expected.return_s
                row[5] = expected.finish_s
                row[6] = left_s - expected.finish_s
            else:
                row[2:7] = 0.0
            row[7] = fill(there.tasks + there.sent_tasks, at.room)
            row[8] = there.age_s
            row[9] = there.sent_tasks
            row[10] = at.speed
            row[11] = 1.0 if again and at.agent != NONE else 0.0
            if failures:
                row[12] = there.alive
            if may_reject:
                row[at_rejects] = 0.0
            if charges:
                _write_charges(scenario, environment, agent, action, there, slot, row[row_charge:])
            if setups:
                row[at_warm] = 1.0 if on_offer and is_warm(there, task.type) else 0.0
            if outlooks:
                write_outlook(scenario, environment, scenario.destination[agent, action], now_s, row[at_outlook:])
        if may_reject:
            padding = 0
            row = offer[offer_size - row_size : offer_size]
            row[:] = 0.0
            row[at_rejects] = 1.0
            mask[end] = 1 if on_offer else 0
            if on_offer:
                age_s = now_s - task.created_s
                row[0] = 1.0
                row[5] = score_of_unfinished(settings, task, age_s) - age_s  # in place of a finish: what it costs
                row[6] = left_s - row[5]
        slot = offered_next(environment, slot)
    for feature in range(seen.shape[0] - padding):  # zeros stay zeros
        value = min(max(seen[feature], -LARGEST), LARGEST)
        seen[feature] = value / (scales[0, feature] + scales[1, feature] * abs(value))
    return self_size, here_size, row_size
