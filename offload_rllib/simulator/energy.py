"""Energy of the nodes, from time integrals that the kernels keep in any case, or where links are not plain."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.types import NONE, Scenario, State


def node_energy(scenario: Scenario, state: State, e: int) -> dict[str, np.ndarray]:
    """Return what each node of environment `e` has used so far [N], by kind of use: idle, compute, transmit.

    Unit: J, or PeersimGym's. Exact at the end of an episode; before it, transfers count as sent when they begin.
    """
    node, usage, power = state.node[e], state.usage[e], scenario.power
    now_s = float(state.episode[e]["now_s"])
    busy = np.minimum(node["busy"], scenario.node["servers"])  # where cores are shared, more tasks than cores
    busy_s = node["busy_seconds"] + busy * now_s * (scenario.node["works_in_ticks"] == 0)
    down_s = usage["down_seconds"] + node["down"] * now_s
    sending_s = usage["sending_seconds"].copy()
    message = state.message[e]
    sent = message[(message["link"] != NONE) & (message["waiting"] == 0)]
    np.add.at(sending_s, scenario.link["source"][sent["link"]], now_s)  # of those on a channel, it began at -now
    return {
        "idle": power["idle_w"] * (now_s - down_s),
        "compute": power["server_w"] * busy_s,
        "transmit": power["transmit_w"] * sending_s
        + power["j_per_bit"] * usage["sent_bits"]
        + power["j_per_result_bit"] * usage["sent_result_bits"]
        + power["j_per_broadcast"] * usage["broadcasts"] * scenario.node["degree"],
    }
