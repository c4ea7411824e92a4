"""Credit in hindsight: what each decision has cost all tasks together, known once the episode is over.

A task that joins a queue costs its own response time and delays those behind it. Where servers work in order of
arrival, the delay is exact: without task i, a task k behind it would begin earlier by

    d(i, k) = min( service of i, the shortest wait of any task that joined after i, up to and including k )

for time that is freed is lost once a server would have been idle: the recursion of D. V. Lindley, "The theory of queues
with a single server", Mathematical Proceedings of the Cambridge Philosophical Society 48(2), 1952, with and without i.
The cost of a decision is the response time of its task plus the sum of d over those behind, each by the weight of its
type (`score.weights`): a difference reward (D. H.
Wolpert, K. Tumer, "Optimal payoff functions for members of collectives", Advances in Complex Systems 4, 2001), with all
other decisions held as they were.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.rollout.rows import Rows
from offload_rllib.scenario.build import BuiltScenario
from offload_rllib.scenario.links import gains_are_drawn
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import FINISHED, NONE, UNBOUNDED, Array

# A wait below this is rounding: the server was idle.
NO_WAIT_S = 1e-9


@kernel
def charge_delays(
    node: Array,
    wait_s: Array,
    service_s: Array,
    weight: Array,
    first: Array,
    following: Array,
    delay_s: Array,
    cost_s: Array,
) -> None:
    """Add to the cost of every task the delays of those behind it.

    Args:
        node: [n] int64, where each task was served; tasks are in the order in which they joined the queues.
        wait_s: [n] time in the queue.
        service_s: [n].
        weight: [n] of the tasks.
        first: [N] int64, scratch, `NONE`.
        following: [n] int64, scratch.
        delay_s: [n], scratch.
        cost_s: [n], added to.
    """
    for k in range(node.shape[0]):
        here = node[k]
        if wait_s[k] <= NO_WAIT_S:
            first[here] = NONE
        i = first[here]
        while i != NONE:
            delay_s[i] = min(delay_s[i], wait_s[k])
            cost_s[i] += weight[k] * delay_s[i]
            i = following[i]
        following[k] = first[here]
        first[here] = k
        delay_s[k] = service_s[k]


def require_hindsight(scenario: BuiltScenario) -> None:
    """Reject environments in which the delays that a task causes are not known exactly, or decisions are shared.

    Raises:
        ConfigError: says which key, and what is accepted.
    """
    config, node = scenario.config, scenario.arrays.node
    # A task that is late and served all the same delays others as if it had no deadline.
    untimed = not config.workload.has_deadlines or config.deadlines.expiry == "never"
    bounded = bool((node["capacity"] != UNBOUNDED).any() or np.isfinite(node["capacity_bits"]).any())
    links = (config.links, *config.link_overrides, *(override.medium for override in config.link_overrides))
    lossy = any(link is not None and link.loss_probability for link in links)
    contended = next((link.contention for link in links if link and link.contention not in (None, "none")), "none")
    for key, value, accepted, fits in (
        ("instructions_per_second", "0", "above 0 at every node", not len(scenario.arrays.onward)),
        ("decisions.max_hops", config.decisions.max_hops, "1", config.decisions.max_hops == 1),
        ("decisions.offer", config.decisions.offer, "arrival", config.decisions.offer == "arrival"),
        ("decisions.reject", "true", "false", not config.decisions.reject),
        ("setup", "given", "null", config.setup is None),
        ("queue", config.queue, "fifo", config.queue == "fifo"),
        ("service", config.service, "pooled", config.service == "pooled"),
        ("workload.deadline_s", "given", "null, or deadlines.expiry: never,", untimed),
        ("queue_capacity", "bounded", "null", not bounded),
        ("tick_s", f"{config.tick_s}", "null", config.tick_s is None),
        ("loss_probability", "above 0", "0 on every link", not lossy),
        ("contention", contended, "none on every link", contended == "none"),
        ("rate_schedule", "given", "null", not len(scenario.arrays.rate_change)),
        ("fading or shadowing_db", "given", "none", not gains_are_drawn(scenario.arrays.link_law)),
        ("mobility", "given", "null", config.mobility is None),
        ("failures", "given", "null", config.failures is None),
        ("cloud", "given", "null", config.cloud is None),
        ("reward.energy_weight and price_weight", "above 0", "0", not len(scenario.arrays.charge)),
        ("reward.weights", "given", "null", config.reward.weights is None),
    ):
        if not fits:
            raise ConfigError(
                f"algorithm.credit: decisions needs {key}: {accepted} in the environment (given: {value}); only there "
                "the delay that a task causes others is known exactly"
            )


def decision_costs(scenario: BuiltScenario, log: Array) -> Array:
    """Return what the decision on each task of a finished episode has cost, [tasks] float64 s.

    Args:
        scenario: of the episode (see `require_hindsight`).
        log: [tasks] LOG, all tasks of the episode.
    """
    arrays = scenario.arrays
    # What is unfinished at the end has cost its age so far; no task behind it has been served.
    weight = np.asarray(arrays.type_weight)[log["type"]]
    cost_s = weight * (log["ended_s"] - log["created_s"])
    done = np.flatnonzero(log["outcome"] == FINISHED)
    joined_s = (log["created_s"] + log["holding_s"] + log["transfer_s"])[done]
    done = done[np.argsort(joined_s, kind="stable")]
    of_done = cost_s[done]
    charge_delays(
        log["node"][done].astype(np.int64),
        log["waiting_s"][done],
        log["service_s"][done],
        weight[done],
        np.full(len(arrays.node), NONE, np.int64),
        np.full(len(done), NONE, np.int64),
        np.zeros(len(done)),
        of_done,
    )
    cost_s[done] = of_done
    return cost_s


def _agents_of(scenario: BuiltScenario, log: Array) -> Array:
    """Return the agent [tasks] int64 that each task began at, or `NONE`."""
    agents = len(scenario.agents)
    agent_of = np.full(len(scenario.arrays.node), NONE, np.int64)
    agent_of[np.asarray(scenario.arrays.agent_node)[:agents]] = np.arange(agents)
    return agent_of[log["origin"]]


def credit_arrivals(scenario: BuiltScenario, log: Array, places: Array, rows: Rows) -> None:
    """Pay the decisions of a finished episode, each at the arrival of its task, what they have cost.

    Those of its last `drain_s`, whose costs are not all known, become rows without a choice.

    Args:
        scenario: of the episode.
        log: [tasks] LOG, all tasks of the episode.
        places: [n] int64, the rows of its decisions, in the order of time.
        rows: changed in place.
    """
    config = scenario.config
    cost_s = decision_costs(scenario, log)
    agent = _agents_of(scenario, log)
    for a in range(len(scenario.agents)):
        here = places[rows.agent[places] == a]
        tasks = np.flatnonzero(agent == a)
        tasks = tasks[np.argsort(log["created_s"][tasks], kind="stable")]
        rows.rewards[here] = -config.reward.scale * cost_s[tasks[: len(here)]]
    unsettled = places[rows.time_s[places] > config.horizon_s - config.drain_s]
    rows.masks[unsettled, 1:] = 0
    rows.actions[unsettled] = 0


def hindsight_rewards(scenario: BuiltScenario, log: Array, steps: int) -> Array:
    """Return what the decisions of a finished episode have cost, as rewards [steps, A] float32 at their steps.

    Args:
        scenario: of the episode (see `require_hindsight`).
        log: [tasks] LOG, all tasks of the episode.
        steps: of an episode.
    """
    config = scenario.config
    cost_s = decision_costs(scenario, log)
    agents = len(scenario.agents)
    decided = np.rint((log["created_s"] + log["holding_s"]) / config.decisions.interval_s).astype(np.int64)
    agent = _agents_of(scenario, log)
    paid = (agent != NONE) & (decided < steps)
    rewards = np.zeros((steps, agents), np.float32)
    rewards[decided[paid], agent[paid]] = -config.reward.scale * cost_s[paid]
    return rewards


def settled_steps(scenario: BuiltScenario, steps: int) -> int:
    """Return how many steps of an episode are learned from: not its last `drain_s`, whose costs are not all known."""
    config = scenario.config
    return steps - round(config.drain_s / config.decisions.interval_s)
