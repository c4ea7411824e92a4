"""Credit in hindsight: what each decision has cost all tasks together, known once most tasks after it have ended.

A task that joins a queue costs its own score, and what it costs those behind it (`rollout.externalities`), each by the
weight of its type (`score.weights`). This is a difference reward (D. H. Wolpert, K. Tumer, "Optimal payoff functions
for members of collectives", Advances in Complex Systems 4, 2001): the score of all with the task minus that without it,
with all other decisions held as they were. Figures that constraints bound are counted in the same way.

It is exact where nodes serve in order of arrival, on one core or several, with any deadlines and capacities. Tasks
still inside a queue are played to their end. Elsewhere it is an estimate: other disciplines and shared cores are played
in that order, what a task costs others on links is left out, and results that were never sent take no time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.costs import cost_table
from offload_rllib.rollout.externalities import Joined, charge_externalities, empty_course
from offload_rllib.rollout.rows import Rows
from offload_rllib.scenario.build import BuiltScenario
from offload_rllib.simulator.types import (
    EXPIRED,
    FINISHED,
    LATE,
    NONE,
    OPEN,
    QUEUE_FULL,
    RETURNING,
    SERVED,
    WAITING,
    Array,
)

# What `config.algorithms.OnPolicy.credit` may be in an environment.
STEPS, DECISIONS, ANNEALED = "steps", "decisions", "annealed"


# What the record of a task inside says as that of one that has ended does.
KNOWN = ("created_s", "deadline_s", "work", "bits_in", "holding_s", "transfer_s", "type", "node")


class Present(NamedTuple):
    """How far an episode is."""

    time_s: float
    inside: Array
    """[n] TASK, the tasks that have not ended."""


def hindsight_misfit(scenario: BuiltScenario) -> str:
    """Return why decisions cannot be credited in hindsight in an environment: key and what is accepted; or nothing."""
    config = scenario.config
    clocked = config.decisions.when == "interval"
    for key, value, accepted, fits in (
        ("decisions.offer", config.decisions.offer, "arrival", config.decisions.offer == "arrival"),
        ("tick_s", f"{config.tick_s}", "null", config.tick_s is None),
        (
            "decisions.max_hops",
            config.decisions.max_hops,
            "1 with decisions.when: interval",
            config.decisions.max_hops == 1 or not clocked,
        ),
        ("decisions.reject", "true", "false with decisions.when: interval", not (config.decisions.reject and clocked)),
        ("reward.energy_weight and price_weight", "above 0", "0", not len(scenario.arrays.charge)),
        ("reward.weights", "given", "null", config.reward.weights is None),
    ):
        if not fits:
            return f"{key}: {accepted} in the environment (given: {value})"
    return ""


def require_hindsight(scenario: BuiltScenario, credit: str = DECISIONS) -> None:
    """Reject environments in which decisions cannot be credited in hindsight.

    Args:
        scenario: of the environment.
        credit: `DECISIONS` or `ANNEALED`.

    Raises:
        ConfigError: says which key, and what is accepted.
    """
    misfit = hindsight_misfit(scenario)
    if credit == ANNEALED and scenario.config.decisions.when != "arrival":
        misfit = f"decisions.when: arrival in the environment (given: {scenario.config.decisions.when})"
    if misfit:
        raise ConfigError(f"algorithm.credit: {credit} needs {misfit}; accepted elsewhere: auto or steps")


def _complete(log: Array, present: Present | None) -> tuple[Array, Array, Array]:
    """Return [tasks] LOG with what is known of the tasks inside, which they are, and which of them are in a queue."""
    is_inside, in_queue = np.zeros(len(log), bool), np.zeros(len(log), bool)
    if present is None:
        return log, is_inside, in_queue
    log, inside = log.copy(), present.inside
    at = inside["number"]
    for field in KNOWN:
        log[field][at] = inside[field]
    log["ended_s"][at] = present.time_s
    log["return_s"][at] = inside["return_latency_s"] + inside["bits_out"] * inside["return_seconds_per_bit"]
    is_inside[at] = True
    in_queue[at] = np.isin(inside["stage"], (WAITING, SERVED, RETURNING))
    return log, is_inside, in_queue


class Costs(NamedTuple):
    """What the decisions on each task of an episode have cost all tasks together."""

    score_s: Array
    """[tasks] float64 s: by their scores."""
    counted: Array
    """[tasks, C] float64: of the figures that are bounded, how many more tasks each counts."""


def decision_costs(
    scenario: BuiltScenario, log: Array, present: Present | None = None, charges: Array | None = None
) -> Costs:
    """Return what the decisions on each task of an episode have cost.

    Before the end, a task that waits or is served costs what it will cost when it ends; one that is elsewhere
    costs its age, and no figure counts it.

    Args:
        scenario: of the episode.
        log: [tasks] LOG, all tasks of the episode so far.
        present: how far it is; None: at its end.
        charges: [C, Y, OUTCOMES] float64, what a bounded figure counts (see `envs.costs.cost_table`); None: there is
            none.
    """
    if charges is None:
        charges, _ = cost_table((), scenario.arriving.types)
    return _costs(scenario, *_complete(log, present), charges)


def _costs(scenario: BuiltScenario, log: Array, is_inside: Array, in_queue: Array, charges: Array) -> Costs:
    config, arrays = scenario.config, scenario.arrays
    weight = np.asarray(arrays.type_weight, float)[log["type"]]
    expires_s = np.full(len(log), np.inf) if config.deadlines.expiry == "never" else log["deadline_s"]
    aborted_s = expires_s if config.deadlines.expiry == "abort" else np.full(len(log), np.inf)
    finished = log["outcome"] == FINISHED
    age_s = log["ended_s"] - log["created_s"]
    # As `simulator.tasks.score_of_unfinished`.
    latest_s = np.where(np.isfinite(aborted_s), aborted_s, config.horizon_s)
    unfinished_s = np.maximum(np.maximum(latest_s - log["created_s"], age_s), config.score.drop_s or 0.0)
    cost_s = weight * np.where(finished | (is_inside & ~in_queue), age_s, unfinished_s)
    outcome = np.where(finished & (log["ended_s"] > log["deadline_s"]), LATE, log["outcome"])
    # Tasks that are open at the end join no queue here, so none counts for another, at the end or before it.
    of_others = charges.copy()
    of_others[:, :, OPEN] = 0.0
    counted = charges[:, log["type"], outcome].T
    counted[is_inside] = 0.0
    joined_s = log["created_s"] + log["holding_s"] + log["transfer_s"]
    full = log["outcome"] == QUEUE_FULL
    # What is unfinished at the end joined behind all that counts. What expired on its way joined nothing.
    has_joined = finished | full | in_queue | ((log["outcome"] == EXPIRED) & (joined_s < expires_s))
    for n, node in enumerate(arrays.node):
        here = np.flatnonzero(has_joined & (log["node"] == n))
        servers, waits = int(node["servers"]), in_queue[here]
        if node["core_speed"] <= 0 or (servers >= len(here) and not waits.any()):
            continue  # no task waits there, or none is ever served
        order = np.argsort(joined_s[here], kind="stable")
        here, waits = here[order], waits[order]
        service_s = log["work"][here] / node["core_speed"]
        if config.setup is not None:
            service_s = np.where(finished[here], log["service_s"][here], service_s)
        queue = Joined(
            joined_s=joined_s[here],
            service_s=service_s,
            bits=log["bits_in"][here],
            begin_until_s=expires_s[here],
            end_until_s=np.minimum(aborted_s[here], config.horizon_s),
            created_s=log["created_s"][here],
            return_s=log["return_s"][here],
            unfinished_s=unfinished_s[here],
            weight=weight[here],
            deadline_s=log["deadline_s"][here],
            type=log["type"][here].astype(np.int64),
        )
        of_queue, counted_here, course = cost_s[here], counted[here], empty_course(len(here))
        of_queue[waits] = 0.0
        charge_externalities(
            queue,
            of_others,
            int(node["capacity"]),
            float(node["capacity_bits"]),
            config.horizon_s,
            course,
            empty_course(len(here)),
            np.zeros((len(here) + 1, servers)),
            np.zeros(servers),
            of_queue,
            counted_here,
        )
        of_queue[waits] += (queue.weight * course.score_s)[waits]
        counted_here[waits] += charges[:, queue.type[waits], course.outcome[waits]].T
        cost_s[here], counted[here] = of_queue, counted_here
    return Costs(cost_s, counted)


def credit_arrivals(
    scenario: BuiltScenario,
    log: Array,
    places: Array,
    rows: Rows,
    charges: Array,
    *,
    pays: bool,
    present: Present | None = None,
) -> None:
    """Note what decisions of an episode have cost from their moment on.

    Nothing is noted of those of its last `drain_s`, whose costs are not all known.

    Args:
        scenario: of the episode.
        log: [tasks] LOG, all tasks of the episode so far.
        places: [n] int64, the rows of decisions.
        rows: changed in place.
        charges: [C, Y, OUTCOMES] float64, what a figure counts.
        pays: put costs in the place of rewards, and of what agents are charged; decisions of which nothing is noted
            become rows without a choice.
        present: how far the episode is; None: at its end.
    """
    config = scenario.config
    task = rows.task[places]
    log, is_inside, in_queue = _complete(log, present)
    costs, known = _costs(scenario, log, is_inside, in_queue, charges), log[task]
    cost_s, counted = costs.score_s[task], costs.counted[task]
    weight = np.asarray(scenario.arrays.type_weight, float)[known["type"]]
    gains = -config.reward.scale * (cost_s - weight * (rows.time_s[places] - known["created_s"]))
    unsettled = places[rows.time_s[places] > config.horizon_s - config.drain_s]
    rows.hindsight[places], rows.hindsight_costs[places] = gains, counted
    rows.hindsight[unsettled] = np.nan
    if not pays:
        return
    rows.rewards[places], rows.costs[places] = gains, counted
    rows.masks[unsettled, 1:] = 0
    rows.actions[unsettled] = 0


def hindsight_rewards(scenario: BuiltScenario, log: Array, steps: int, charges: Array) -> tuple[Array, Array]:
    """Return what the decisions of a finished episode have cost, at their steps.

    Args:
        scenario: of the episode (see `hindsight_misfit`).
        log: [tasks] LOG, all tasks of the episode.
        steps: of an episode.
        charges: [C, Y, OUTCOMES] float64, what a figure counts.

    Returns:
        Rewards [steps, A] float32, and [steps, A, C] float32, how many more tasks each figure counts.
    """
    config = scenario.config
    found = decision_costs(scenario, log, charges=charges)
    agents = len(scenario.agents)
    agent_of = np.full(len(scenario.arrays.node), NONE, np.int64)
    agent_of[np.asarray(scenario.arrays.agent_node)[:agents]] = np.arange(agents)
    agent = agent_of[log["origin"]]
    decided = np.rint((log["created_s"] + log["holding_s"]) / config.decisions.interval_s).astype(np.int64)
    paid = (agent != NONE) & (decided < steps)
    rewards, costs = np.zeros((steps, agents), np.float32), np.zeros((steps, agents, len(charges)), np.float32)
    rewards[decided[paid], agent[paid]] = -config.reward.scale * found.score_s[paid]
    costs[decided[paid], agent[paid]] = found.counted[paid]
    return rewards, costs


def settled_steps(scenario: BuiltScenario, steps: int) -> int:
    """Return how many steps of an episode are learned from: not its last `drain_s`, whose costs are not all known."""
    config = scenario.config
    return steps - round(config.drain_s / config.decisions.interval_s)
