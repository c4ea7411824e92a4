"""What nodes use, in energy or in money: from time integrals that the kernels keep in any case, or of links not plain.

What tasks use is also charged to their origins, where a reward has a term for it: each use by a task when it ends, at
the node that is used. Over an episode the charges are the same sums, without what nodes use by themselves: idling and
broadcasts. There is one account for energy and price together, or one for each where the reward has several objectives.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import NONE, SERVED, Array, Scenario, State
from offload_rllib.simulator.variants import has_extensions, has_ticks


def node_use(scenario: Scenario, state: State, e: int, cost: Array) -> dict[str, np.ndarray]:
    """Return what the use of each node of environment `e` has cost so far [N], by kind: idle, compute, transmit.

    Exact at the end of an episode; before it, transfers count as sent when they begin.

    Args:
        scenario: of the environment.
        state: of the batch.
        e: which environment.
        cost: [N] POWER, for example `scenario.power`, whose unit is that of what is returned.
    """
    node, usage = state.node[e], state.usage[e]
    now_s = float(state.episode[e]["now_s"])
    busy = np.minimum(node["busy"], scenario.node["servers"])  # where cores are shared, more tasks than cores
    busy_s = node["busy_seconds"] + busy * now_s * (scenario.node["works_in_ticks"] == 0)
    down_s = usage["down_seconds"] + node["down"] * now_s
    sending_s = usage["sending_seconds"].copy()
    message = state.message[e]
    sent = message[(message["link"] != NONE) & (message["waiting"] == 0)]
    np.add.at(sending_s, scenario.link["source"][sent["link"]], now_s)  # of those on a channel, it began at -now
    return {
        "idle": cost["idle_w"] * (now_s - down_s),
        "compute": cost["server_w"] * busy_s,
        "transmit": cost["transmit_w"] * sending_s
        + cost["j_per_bit"] * usage["sent_bits"]
        + cost["j_per_result_bit"] * usage["sent_result_bits"]
        + cost["j_per_broadcast"] * usage["broadcasts"] * scenario.node["degree"],
    }


def node_energy(scenario: Scenario, state: State, e: int) -> dict[str, np.ndarray]:
    """Return what each node of environment `e` has used so far, see `node_use`. Unit: J, or PeersimGym's."""
    return node_use(scenario, state, e, scenario.power)


@kernel
def has_charges(scenario):
    """Return whether the reward has a term for what tasks use."""
    return has_extensions(scenario) and scenario.charge.shape[0] > 0


@kernel
def _charge(environment, account, origin, seconds):
    charged = environment.charged[account]
    charged[origin] += seconds
    charged[charged.shape[0] - 1] += seconds


@kernel
def charge_service(scenario, environment, n, origin, busy_s):
    """Charge the origin of a task for a server of node `n`, or for a core, for some seconds."""
    for account in range(scenario.charge.shape[0]):
        _charge(environment, account, origin, scenario.charge[account, n].server_w * busy_s)


@kernel
def charge_sending(scenario, environment, n, origin, sending_s, bits):
    """Charge the origin of a task for the transmitter of node `n`: for some seconds, and for bits sent."""
    for account in range(scenario.charge.shape[0]):
        charge = scenario.charge[account, n]
        _charge(environment, account, origin, charge.transmit_w * sending_s + charge.j_per_bit * bits)


@kernel
def charge_result(scenario, environment, n, origin, bits):
    """Charge the origin of a task for a result that node `n` sends, where results cost in addition."""
    for account in range(scenario.charge.shape[0]):
        _charge(environment, account, origin, scenario.charge[account, n].j_per_result_bit * bits)


@kernel
def charge_open_services(scenario, environment, now_s):
    """Charge the tasks that are in service at the end of an episode for what they have had; in ticks they are."""
    for slot in range(environment.task.shape[0]):
        task = environment.task[slot]
        n = np.int64(task.node)
        here = scenario.node[n]
        if task.stage != SERVED or (has_ticks(scenario) and here.works_in_ticks):
            continue
        if here.concurrency > here.servers:
            shared = environment.sharing[n]
            busy = environment.node[n].busy
            speed = here.core_speed if busy <= here.servers else here.speed / busy
            left = task.work_end - shared.work_each - (now_s - shared.at_s) * speed
            charge_service(scenario, environment, n, task.origin, (task.work - max(left, 0.0)) / here.core_speed)
        else:
            charge_service(scenario, environment, n, task.origin, now_s - task.since_s)
