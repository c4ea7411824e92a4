"""What broadcasts tell of a node's last decision: its outlook, of which networks make the embedding that is sent.

An outlook is what an agent saw when it decided last: of its node, of the task, of row 0, and the mean and the least of
every number over its destinations. So it has one size whatever the number of destinations, and their order does not
matter. Nodes that are no agents, or have not decided yet, have none: zeros.

What travels is an embedding of it, of as many numbers as `information.embedding`. The sender could compute it, for all
have the networks. Here the receiver's network does (`policies.hearing`), from the outlook as it was when the broadcast
was sent: the numbers are the same, and gradients reach the weights that make them.
"""

from __future__ import annotations

from offload_rllib.envs.layout import HERE, ROW, SELF, TASK, names_of
from offload_rllib.simulator.events.broadcasts import save_broadcasts
from offload_rllib.simulator.information import news_of
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import NONE

SELF_SIZE, TASK_SIZE, HERE_SIZE, ROW_SIZE = (len(names_of(block)) for block in (SELF, TASK, HERE, ROW))
# Behind the time of the decision.
NUMBERS = SELF_SIZE + TASK_SIZE + HERE_SIZE + 2 * ROW_SIZE


@kernel
def note_outlook(scenario, environment, agent, seen, blocks):
    """Keep what an agent sees as it decides; broadcasts that were sent before hold what it saw earlier.

    Args:
        scenario: of the environment.
        environment: a `State` without its leading axis.
        agent: the one that decides.
        seen: [F] float32, its whole observation.
        blocks: numbers of it about the node, about row 0, and of each other row.
    """
    n = scenario.agent_node[agent]
    now_s = environment.episode[0].now_s
    save_broadcasts(scenario, environment, n, now_s)
    self_size, here_size, row_size = blocks
    outlook = environment.outlook[n]
    outlook[0] = now_s
    at = 1
    for k in range(SELF_SIZE):
        outlook[at + k] = seen[k]
    at += SELF_SIZE
    for k in range(TASK_SIZE + HERE_SIZE):
        outlook[at + k] = seen[self_size + k]
    at += TASK_SIZE + HERE_SIZE
    first = self_size + TASK_SIZE + here_size
    outlook[at:] = 0.0
    count = 0
    for action in range(1, scenario.destination.shape[1]):
        if scenario.destination[agent, action] == NONE:
            break
        row = seen[first + (action - 1) * row_size :]
        for k in range(ROW_SIZE):
            outlook[at + k] += row[k]
            least = outlook[at + ROW_SIZE + k]
            outlook[at + ROW_SIZE + k] = row[k] if count == 0 else min(least, row[k])
        count += 1
    for k in range(ROW_SIZE):
        outlook[at + k] /= max(count, 1)


@kernel
def write_outlook(scenario, environment, link_index, now_s, row):
    """Write what a link's source has heard of the outlook of its destination: its age, s, and `NUMBERS` numbers."""
    row[: 1 + NUMBERS] = 0.0
    news = news_of(scenario, environment, link_index, now_s)
    if news.turn < 0:
        return
    n = scenario.link[link_index].destination
    heard = environment.outlook[n]
    if news.is_saved:
        heard = environment.broadcast_outlook[n, news.turn & (environment.broadcast.shape[1] - 1)]
    # An agent that decides holds the task on offer at least.
    if heard[1] > 0.0:
        row[0] = now_s - heard[0]
        for k in range(1, 1 + NUMBERS):
            row[k] = heard[k]
