"""What an agent knows of a destination, next to the truth."""

from __future__ import annotations

from offload_rllib.simulator.batch import env_slice
from offload_rllib.simulator.information import known
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.waits import advertised_free_at


@kernel
def what_is_known(scenario, state, e, agent, action):
    """Return node, tasks, wait, age, tasks and work in flight as an agent knows them, and the true wait in s."""
    environment = env_slice(state, e)
    there = known(scenario, environment, agent, action, environment.episode[0].now_s)
    true_wait_s = advertised_free_at(scenario, environment, there.node, environment.episode[0].now_s)
    true_wait_s = max(true_wait_s - environment.episode[0].now_s, 0.0)
    return there.node, there.tasks, there.wait_s, there.age_s, there.sent_tasks, there.sent_work, true_wait_s
