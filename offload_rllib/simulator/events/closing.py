"""The end of an episode."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.energy import charge_open_services, has_charges
from offload_rllib.simulator.events.broadcasts import save_broadcasts
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.sharing.channels import close_channels, has_channels
from offload_rllib.simulator.tasks import account, change_tasks
from offload_rllib.simulator.types import FREE, OPEN


@kernel
def close_episode(scenario, environment):
    """Enter the tasks still inside at the end of the episode into the metrics, and close every account."""
    now_s = environment.episode[0].now_s
    for slot in range(environment.task.shape[0]):
        if environment.task[slot].stage != FREE:
            account(scenario, environment, slot, now_s, OPEN)
    if has_charges(scenario):
        charge_open_services(scenario, environment, now_s)
    if has_channels(scenario, environment):
        close_channels(scenario, environment, now_s)
    for n in range(environment.node.shape[0]):
        save_broadcasts(scenario, environment, n, np.nextafter(now_s, np.inf))  # those at the end itself, too
        change_tasks(scenario, environment, n, now_s, 0, 0.0)
