"""The types of the simulator: what an array holds, its shape, its units.

Sizes of the network: E environments, N nodes, M directed links, S servers of all nodes. Sizes of decisions: A agents, D
deciding nodes (the agents first, then those that act by a rule), R action rows (self and destinations), k tasks decided
at a time. Sizes of the state: T task slots, K remembered broadcasts per node (a power of two), W buckets of expiries, H
hops at most, B histogram bins, L log rows, C costs of constraints. Sizes of the workload: Y task types, I values of
empirical distributions, P rows of recordings or of tables of rates, B states of a bursty rate. All times are absolute
seconds since the start of the episode unless a name says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray

# Kinds of events. At equal times they run in this order (then by node, then by task): what leaves goes before what
# arrives, so that a place freed at t can be taken at t. Broadcasts (which are no events) see the outcome.
RESULT, SERVICE_END, LOSS, EXPIRE, FAILURE, REPAIR, TRANSFER, ARRIVAL, TICK, OVERDUE = range(10)

# Where a task is.
FREE, HELD, WAITING, SERVED, TRANSFERRED, RETURNING = range(6)
SENT_BACK = 6  # on its way to the node that had sent it to one that is down

# How a task ended. The causes of a drop are consecutive.
OPEN = 0
FINISHED = 1
QUEUE_FULL = 2
EXPIRED = 3
LOST = 4
NODE_FAILED = 5
REJECTED = 6  # by its agent; see `information.rejects`
CAUSES = ("queue_full", "expired", "lost", "node_failed")  # those that there are in every environment
# What `Scenario.cost` tells apart beside these: a task that finished after its deadline.
LATE = 7
OUTCOMES = 8

# What a deadline does.
EXPIRY_NEVER, EXPIRY_QUEUED, EXPIRY_ABORT = range(3)

# What happens to tasks at nodes that are down.
FAILURES_NONE, TASKS_LOST, TASKS_RETURNED = range(3)

# Accounts of energy: none, in joules, in PeersimGym's unit.
ENERGY_NONE, ENERGY_POWER, ENERGY_PEERSIMGYM = range(3)
# The order in which a node serves its waiting tasks; the last is that in which those leave that share its cores.
FIFO, LIFO, EDF, SJF, PRIORITY, SHARING = range(6)

# Which task an agent decides: the one that entered first, held until then, or the newest that waits.
OFFER_ARRIVAL, OFFER_NEWEST = range(2)

UNBOUNDED = 2**31 - 1
NONE = -1


def record(**fields: object) -> np.dtype:
    """Return the type of a record with these fields."""
    return np.dtype(list(fields.items()), align=True)  # pyright: ignore[reportArgumentType, reportCallIssue]


# Numbers of an outlook: the time of a decision, and what `envs.outlook` keeps of what was seen.
OUTLOOK = 43

SETTINGS = record(
    decision_interval_s="f8",  # 0: tasks are decided when they arrive
    horizon_s="f8",
    score_from_s="f8",
    score_until_s="f8",
    broadcast_interval_s="f8",  # 0: neighbours know each other's state at once
    expiry_grace_s="f8",
    bucket_s="f8",  # width of the buckets of expiries; see `deadlines`
    drop_s="f8",  # least score of a task that does not finish
    tick_s="f8",  # 0: time is continuous; see `ticks`
    time_scale_s="f8",  # a response time that an observation shows as 0.5
    work_scale="f8",  # instructions that an observation shows as 0.5
    bits_scale="f8",
    clock_period_s="f8",  # of the time of day that an observation shows; 0 if the load does not follow it
    clock_phase="f8",  # in periods
    max_speed="f8",  # of one node with all its cores, instructions per second
    mean_work="f8",  # instructions per task
    mean_service_s="f8",  # of a mean task at a node of mean speed
    mean_bits_in="f8",
    steps="i8",  # decisions of an agent in an episode, where they are clocked
    max_hops="i4",
    expiry="i4",
    failures="i4",
    offer="i4",
    has_deadline="i4",  # whether any task has one
    energy="i4",  # which account is kept
    keep_warm_s="f8",  # how long a node holds a type that is not in use
    slots="i4",  # types that a node holds
    rejects="i4",  # 1: the last action rejects a task
    outlook="i4",  # numbers of an outlook that broadcasts tell of; 0: none
    ticks_in_order="i4",  # 1: messages, then work, then decisions; 0: in random order
)

NODE = record(
    name_hash="u8",
    core_speed="f8",  # instructions per second of one server
    speed="f8",  # of all servers
    seconds_per_instruction="f8",  # 1 / core_speed
    arrival_rate="f8",  # tasks per second made by the client here, mean over time and episodes; 0 without one
    capacity_bits="f8",  # of the inputs of these tasks
    room="f8",  # tasks that it has room for: `capacity`, or those of mean size that `capacity_bits` has room for
    servers="i4",  # each with a core of its own, or with all of them
    concurrency="i4",  # tasks served at once; more than `servers` where they share the cores
    capacity="i4",  # tasks held, waiting and served together
    queue="i4",  # discipline
    cloud="i4",  # 1 at the cloud
    works_in_ticks="i4",
    agent="i4",  # index among the deciding nodes, or NONE
    first_link="i4",
    first_server="i4",  # in `State.server`
    degree="i4",
)

LINK = record(  # sorted by source, then destination
    latency_s="f8",  # mean, of everything that a transfer takes beside its bits
    seconds_per_bit="f8",
    broadcast_delay_s="f8",  # how old a broadcast over this link is when it arrives
    source="i4",
    destination="i4",
    reverse="i4",  # index of the link the other way
    plain="i4",  # every transfer takes latency + bits x seconds per bit, and arrives; no account of energy
)

DURATION = record(a="f8", b="f8", c="f8", kind="i4")  # see `durations`

LINK_LAW = record(  # read for links that are not plain
    name_hash="u8",
    propagation_s="f8",
    latency=DURATION,
    jitter=DURATION,
    loss_probability="f8",
    message_noise_hz="f8",  # bandwidth, if the noise is that of the message's bits; otherwise 0
    message_snr_bits="f8",  # the signal-to-noise ratio is this over the message's bits
    seconds_per_bit="f8",  # as configured; that of LINK follows the time where rates vary
    bandwidth_hz="f8",  # of a radio whose rate is drawn, or follows its length; see `links.radio_rate`
    snr="f8",  # mean, where each transfer draws its own
    snr_m2="f8",  # at 1 m
    minimum_distance_m="f8",
    scattered="f8",  # share of the power in scattered waves: 1 Rayleigh fading, less Rician, 0 none
    shadowing_db="f8",  # standard deviation
    contention="i4",
    queue="i4",  # index of the link whose `free_s` is that of all links that wait for each other
    channel="i4",  # index of the link whose channel it is on, see `sharing.channels`; NONE: see `links.cross`
    at_once="i4",  # messages that are sent on its channel at once; the others wait
    first_throughput="i4",  # its part of `throughput`
    throughputs="i4",  # 0: every message is sent at the full rate
)

FAILURE_LAW = record(  # of a node
    up=DURATION,  # to the next failure
    down=DURATION,  # to the repair
    fails="i4",
)

POWER = record(  # of a node: what each kind of use costs; J, PeersimGym's unit, money, or seconds of reward
    idle_w="f8",
    server_w="f8",  # per busy server
    transmit_w="f8",  # per transfer being sent
    j_per_bit="f8",  # of tasks and results sent
    j_per_result_bit="f8",
    j_per_broadcast="f8",  # and neighbour
)

ONWARD = record(  # of a node: the way on to the processor that a task there is taken to go to; 0 with one of its own
    latency_s="f8",
    seconds_per_bit="f8",
    return_latency_s="f8",
    return_seconds_per_bit="f8",
    seconds_per_instruction="f8",  # at that processor
    hops="i4",  # the fewest
)

DISTRIBUTION = record(  # see `streams` for the kinds and what a, b, c mean
    a="f8",
    b="f8",
    c="f8",
    kind="i4",
)
# What is drawn for a task: the second axis of `Scenario.distribution`.
WORK = 0
BITS_IN = 1
BITS_OUT = 2
DEADLINE = 3  # relative to the creation
QUANTITIES = 4

ACCOUNT = {  # of the tasks made at a node, or at all
    "own_changed_s": "f8",
    "own_weight": "f8",  # sum of the weights of those that have not ended
    "own_task_seconds": "f8",  # integral of `own_weight`
    "own_drop_cost_s": "f8",  # sum over dropped tasks of weight x (score minus age)
    "own_finished": "f8",  # weights of those that finished
    "own_dropped": "f8",
}

EPISODE = record(
    key="u8",
    now_s="f8",
    step="i8",  # decisions so far; with a clock, of each agent
    tasks_made="i8",
    bucket="i8",  # of expiries, the present one; see `deadlines`
    bucket_end_s="f8",
    **ACCOUNT,  # of all nodes together, from the start of the episode on
    own_unfinished="i8",
    deciding="i4",  # node whose decision is due, an index among the deciding ones; NONE: none, or decisions are clocked
    heap_size="i4",
    expiries_in_heap="i4",
    overdue_in_heap="i4",
    free_slots="i4",
    stage="i4",  # where to continue after the arrays grew: 0 actions not applied yet, 1 events running
    finished="i8",
    dropped_queue_full="i8",
    dropped_expired="i8",
    dropped_lost="i8",
    dropped_node_failed="i8",
    dropped_rejected="i8",
    events="i8",
    choices="i8",  # decisions with a task on offer
    masked_actions="i8",  # actions that were not valid and acted as 0
    rate_changes="i8",  # of `Scenario.rate_change`, those that have been made
    moves="i8",  # times at which positions were looked at
    handovers="i8",
)

NODE_STATE = record(
    key="u8",  # of the node's random streams in this episode
    arrival_rate="f8",  # tasks per second made by the client here, in this episode, at level 1
    free_s="f8",  # when a server is free for one more task; see `waits`
    held_work="f8",  # instructions of the held tasks
    advertised_free_s="f8",  # the same if all held tasks are kept, and placed from `advertised_from_s` on
    advertised_from_s="f8",  # -1: to be computed again
    busy_until_s="f8",  # when the task in service leaves the only server; kept where `waits` may have to walk
    changed_s="f8",  # when `tasks` changed last
    bits="f8",  # inputs of `tasks`; kept where a capacity in bits may be
    task_seconds="f8",  # integral of `tasks`
    full_seconds="f8",  # time spent at capacity
    **ACCOUNT,  # of this step where decisions are clocked, otherwise from the start of the episode on
    phase_s="f8",  # of the broadcasts
    next_broadcast_s="f8",  # time of the first broadcast that is not saved; see `broadcasts`
    unsaved_turn="i8",  # its number
    failure_s="f8",  # next time the node goes down
    busy_seconds="f8",  # integral of the busy servers, less their number x now; in ticks, work done over speed
    work_left="f8",  # in ticks: instructions left of the task in service
    tick_work="f8",  # instructions that the node may still do in this tick; negative between its moments
    overdue_s="f8",  # in ticks: not later than the first expiry of a task that waits here
    tick="i8",  # in which it works next
    score_sum_s="f8",  # weight x score of the tasks made here that count and have ended
    scored="f8",  # their weights
    arrivals="i8",
    choices="i8",
    own_unfinished="i4",  # tasks made here that have not ended, wherever they are
    own_awaited="i4",  # tasks made here whose result the node still waits for; see `tasks.stop_awaiting`
    tasks="i4",  # held, waiting and served
    busy="i4",  # tasks in service
    down="i4",  # 1 while the node has failed
    stale="i4",  # 1 if `free_s` must be computed again
    held="i4",  # tasks to be decided: held ones, or, with `OFFER_NEWEST`, waiting ones
    held_head="i4",
    held_tail="i4",
    queue_head="i4",
    queue_tail="i4",
    received_head="i4",  # in ticks: tasks that wait to join the queue
    received_tail="i4",
    serving="i4",  # in ticks: the task in service
)

CORE_SHARING = record(  # of a node whose cores are shared; see `sharing`
    work_each="f8",  # instructions that a task has had that was in service since the node was last idle
    at_s="f8",  # when it had
    end_s="f8",  # when the next task leaves, if nothing changes until then; infinite without one
    first="i4",  # that task
    winner="i4",  # of a match between nodes
)

USAGE = record(  # of a node
    down_seconds="f8",  # time spent down, less now while it is down
    sending_seconds="f8",  # sum over its transfers of the time they are on the air, up to the horizon
    sent_bits="f8",
    sent_result_bits="f8",
    failures="i8",
    broadcasts="i8",
)

CLIENT_STATE = record(  # of clients whose rate varies: the present piece of the rate, a straight line
    start_s="f8",
    end_s="f8",
    level="f8",  # at start_s
    slope="f8",  # per second
    phase="f8",
    piece="i8",  # its index
    state="i4",  # of a bursty rate
    first_row="i4",  # of a recording: the first arrival of this episode
)

LINK_STATE = record(
    free_s="f8",  # when all that was given to a link with contention has left
    transfers="i8",  # tasks and results given to a link that is not plain
    sent_work="f8",
    arrived_work="f8",
    sent="i8",
    arrived="i8",
    unsaved_turn="i8",  # of the destination's broadcasts: the first that does not count what is saved of this link
)

BROADCAST = record(free_s="f8", tasks="i4", down="i4")
BROADCAST_LINK = record(arrived_work="f8", arrived="i8")  # over a link into the sender, as it broadcast

TASK = record(
    number="i8",  # in order of creation
    created_s="f8",
    deadline_s="f8",
    work="f8",
    bits_in="f8",
    bits_out="f8",
    since_s="f8",  # when the present stage began
    service_end_s="f8",
    work_end="f8",  # `work_each` of the node at which it leaves, where it shares the cores
    holding_s="f8",
    waiting_s="f8",
    service_s="f8",
    transfer_s="f8",
    return_latency_s="f8",
    return_seconds_per_bit="f8",
    origin="i4",
    destination="i4",  # as recorded, or NONE
    type="i4",
    node="i4",
    hops="i4",
    hops_left="i4",  # of the result on its way back
    stage="i4",
    awaited="i4",  # 1 while its origin waits for it
    undecided="i4",  # 1 while among its node's `held`
    received="i2",  # in ticks: 1 while it waits to join its node's queue
    priority="i2",  # of its type; where a queue may be by priority
    held_next="i4",
    held_previous="i4",
    next="i4",  # links of the queue, see `queues`
    previous="i4",
    child="i4",
    bucket="i4",
    bucket_next="i4",
    bucket_previous="i4",
)

EVENT = record(time_s="f8", key="u8", slot="i4")

LOG = record(
    created_s="f8",
    deadline_s="f8",
    ended_s="f8",
    work="f8",
    bits_in="f8",
    bits_out="f8",
    holding_s="f8",
    waiting_s="f8",
    service_s="f8",
    transfer_s="f8",
    return_s="f8",
    origin="i4",
    type="i4",
    node="i4",
    hops="i4",
    outcome="i4",
)


class Scenario(NamedTuple):
    """What does not change during an episode.

    A batch has the same struct with a leading axis V on what depends on the network (`batch.OWN`): V = 1 if all
    environments share one scenario, V = E if each has its own (`batch.scenario_of`).
    """

    variant: Array  # without elements; see `variants`
    settings: Array  # [1] SETTINGS
    node: Array  # [N] NODE
    link: Array  # [M] LINK
    link_law: Array  # [M] LINK_LAW
    failure_law: Array  # [N] FAILURE_LAW
    power: Array  # [N] POWER
    price: Array  # [N] POWER, in money; [0] without prices
    charge: Array  # [A, N] POWER: what use by a task takes off the reward of its origin, in s; see `energy`
    weight: Array  # [4] float64: of the objectives, in every episode; [0]: none; see `objectives`
    throughput: Array  # [P] float64: of channels with 1, 2, ... messages, relative to one message alone
    rate_change: Array  # [P] RATE_CHANGE, sorted by time
    movement: Array  # [1] MOVEMENT; empty where no node moves
    moving: Array  # [P] MOVING: the nodes that do
    position: Array  # [P] POSITION that they were recorded at, sorted by node, then time
    place: Array  # [N] PLACE; empty where no node moves
    next_link: Array  # [N, N] int32: that leads from one node to another one; [0, 0] where no node moves
    agent_node: Array  # [D] int32
    destination: Array  # [D, R] int32: link of each action; NONE in column 0 (self) and in padding
    first_leg: Array  # [M + 1] int32: where the links of each path begin in `leg`; [0] without paths (`events.routing`)
    leg: Array  # [K] int32: links of the paths whose links are crossed one by one
    setup_s: Array  # [Y] float64: seconds of the set-up of each type; [0] without set-ups
    onward: Array  # [N] ONWARD; [0] where every node has a processor
    arrivals: Array  # [1] `arrivals.ARRIVALS`
    client: Array  # [N] `arrivals.CLIENT`
    recording: Array  # [P] `arrivals.RECORDED`; empty without a recording
    rate_piece: Array  # [P] `arrivals.RATE_PIECE`, sorted by client, then time; empty without a table of rates
    burst_state: Array  # [B] `arrivals.BURST_STATE`
    burst_jump: Array  # [B, B] float64: cumulative probabilities of the next state, a row for each state
    type_share: Array  # [Y] float64: cumulative shares of the task types, where a client draws them
    type_weight: Array  # [Y] float64: of a task in score and reward
    type_priority: Array  # [Y] int16: of a task in queues by priority; higher ones go first
    distribution: Array  # [Y, 4] DISTRIBUTION of each type's WORK, BITS_IN, BITS_OUT, DEADLINE
    distribution_to: Array  # [Y, 4] DISTRIBUTION: upper ends of the parameters that episodes draw
    choice: Array  # [I, 2] float64: values of empirical distributions and their cumulative shares
    job: Array  # [J, 3] float64: work, bits in, bits out; drawn uniformly; empty if task types are used
    cost: Array  # [C, Y, OUTCOMES] float64: what a task that counts costs when it ends so; C = 0: no costs


class State(NamedTuple):
    """What changes, for all environments of a batch.

    Kernels work on one environment: the same struct without the leading axis (`batch.env_slice`), in which
    `episode` holds one record.
    """

    episode: Array  # [E] EPISODE
    node: Array  # [E, N] NODE_STATE
    sharing: Array  # [E, N] CORE_SHARING; [E, 0] where no node shares its cores
    usage: Array  # [E, N] USAGE
    client: Array  # [E, N] CLIENT_STATE
    distribution: Array  # [E, Y, 4] DISTRIBUTION of the episode; [1, Y, 4] where episodes do not differ
    server: Array  # [E, 3, S] float64: of each node a heap of times, one for each server; see `waits`
    link: Array  # [E, M] LINK_STATE
    channel: Array  # [E, M] CHANNEL; [E, 0] where all messages are sent as if they were alone, or in turn
    message: Array  # [E, T] MESSAGE; [E, 0] likewise
    moving: Array  # [E, P] MOVING_STATE
    warm: Array  # [E, N, Y] `events.setups.WARM`; [E, 0, 0] without set-ups
    broadcast_warm: Array  # [E, N, K] uint64: the types that the sender holds, as bits; [E, 0, K] without set-ups
    outlook: Array  # [E, N, D] float32: what a node saw at its last decision, see `envs.outlook`; [E, 0, 0]: no matter
    broadcast_outlook: Array  # [E, N, K, D] float32: the sender's outlook; [E, 0, K, 0] likewise
    broadcast: Array  # [E, N, K] BROADCAST
    broadcast_link: Array  # [E, M, K] BROADCAST_LINK
    task: Array  # [E, T] TASK
    path: Array  # [E, T, H] int32: links, or paths, travelled so far
    leg: Array  # [E, T] int32: links of its path that a message was given to; [E, 0] without legs
    free: Array  # [E, T] int32: stack of unused slots; [E, 2 T], the rest scratch, where nodes share their cores
    heap: Array  # [E, 3N + 3T] EVENT
    bucket: Array  # [E, W] int32: first task of those that expire in each bucket
    metrics: Array  # [E, Y] METRICS
    histogram: Array  # [E, Y, 2, B] uint32: response times of the finished; scores of the others
    log: Array  # [E, L] LOG by task number; L = 0: no log
    cost: Array  # [E, N + 1, C] float64: costs so far of the tasks made at each node; last, of all of them
    charged: Array  # [E, C, N + 1] float64: charges so far of the same, in a step where decisions are clocked
    weight: Array  # [E, 4] float64: of the objectives, in this episode; [E, 0]: none
