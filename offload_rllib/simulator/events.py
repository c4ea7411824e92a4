"""What happens between two decisions: arrivals, transfers, service, results, expiry and broadcasts, in exact time.

Every function takes the `Scenario` and one environment: a `State` without its leading axis.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.arrivals import RECORDING, next_arrival
from offload_rllib.simulator.failures import fail, repair, send_back
from offload_rllib.simulator.heap import (
    KIND_SHIFT,
    NODE_MASK,
    NODE_SHIFT,
    NUMBER_MASK,
    event_key,
    pop,
    push,
    replace_first,
)
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.links import cross
from offload_rllib.simulator.prefetch import prefetch
from offload_rllib.simulator.queues import dequeue_first, enqueue, first_overdue, join_queue, leave_queue, receive
from offload_rllib.simulator.streams import quantile, stream, uniform
from offload_rllib.simulator.tasks import (
    append_held,
    change_tasks,
    change_unfinished,
    insert_held,
    release,
    remove_held,
    stop_awaiting,
    watch_deadline,
)
from offload_rllib.simulator.ticks import RESULTS, delivery_moment, work_moment
from offload_rllib.simulator.types import (
    ARRIVAL,
    BITS_IN,
    BITS_OUT,
    DEADLINE,
    EXPIRE,
    EXPIRED,
    EXPIRY_ABORT,
    EXPIRY_NEVER,
    EXPIRY_QUEUED,
    FAILURE,
    FINISHED,
    FREE,
    HELD,
    LOSS,
    LOST,
    NODE_FAILED,
    NONE,
    OFFER_ARRIVAL,
    OVERDUE,
    QUEUE_FULL,
    REPAIR,
    RESULT,
    RETURNING,
    SENT_BACK,
    SERVED,
    SERVICE_END,
    TICK,
    TRANSFER,
    TRANSFERRED,
    WAITING,
    WORK,
    Scenario,
    State,
)
from offload_rllib.simulator.variants import has_ticks, is_full, is_large
from offload_rllib.simulator.waits import advertised_free_at, begin_service, join

# A kernel returns after so many events, some tenths of a second, so that Ctrl-C finds Python listening.
EVENTS_PER_CALL = 2**18


@kernel
def scenario_of(scenarios, e):
    """Return the scenario of environment `e` of a batch, sharing memory."""
    v = min(e, scenarios.node.shape[0] - 1)
    return Scenario(
        scenarios.variant,
        scenarios.settings[v],
        scenarios.node[v],
        scenarios.link[v],
        scenarios.link_law[v],
        scenarios.failure_law[v],
        scenarios.power[v],
        scenarios.agent_node,
        scenarios.destination[v],
        scenarios.arrivals[v],
        scenarios.client[v],
        scenarios.recording,
        scenarios.rate_piece,
        scenarios.burst_state,
        scenarios.burst_jump,
        scenarios.type_share,
        scenarios.type_weight,
        scenarios.distribution,
        scenarios.distribution_to,
        scenarios.choice,
        scenarios.job,
    )


@kernel
def environment(state, e):
    """Return environment `e` of a batch: the same struct without its leading axis, sharing memory."""
    return State(
        state.episode[e : e + 1],
        state.node[e],
        state.usage[e],
        state.client[e],
        state.distribution[min(e, state.distribution.shape[0] - 1)],
        state.server[e],
        state.link[e],
        state.broadcast_order[e],
        state.broadcast[e],
        state.broadcast_link[e],
        state.task[e],
        state.path[e],
        state.free[e],
        state.heap[e],
        state.bucket[e],
        state.metrics[e],
        state.histogram[e],
        state.log[e],
    )


@kernel
def _start_service(scenario, environment, n, slot, now_s):
    settings = scenario.settings[0]
    node = environment.node[n]
    task = environment.task[slot]
    task.stage = SERVED
    task.since_s = now_s
    end_s = now_s + task.work / scenario.node[n].core_speed
    task.service_end_s = end_s
    node.busy += 1
    if has_ticks(scenario) and scenario.node[n].works_in_ticks:
        node.serving = slot
        node.work_left = task.work
        return
    last_s = task.deadline_s if settings.expiry == EXPIRY_ABORT else np.inf
    if is_full(scenario):
        node.busy_seconds -= now_s
        last_s = min(last_s, node.failure_s)
    begin_service(scenario, environment, n, task, now_s)
    # An event that would come after the task's abortion, or the node's failure, is never scheduled, so none is stale.
    if end_s <= last_s:
        push(environment, end_s, event_key(SERVICE_END, n, task.number), slot)


@kernel
def _leave_service(scenario, environment, n, slot, now_s):
    """Free the server of a task and let the queue's head take it."""
    node = environment.node[n]
    task = environment.task[slot]
    node.busy -= 1
    in_ticks = has_ticks(scenario) and scenario.node[n].works_in_ticks
    if is_full(scenario) and not in_ticks:
        node.busy_seconds += now_s
    task.service_s += now_s - task.since_s
    change_tasks(node, scenario.node[n].capacity, now_s, -1)
    if node.queue_head != NONE and not in_ticks:
        _serve_next(scenario, environment, n, now_s)


@kernel
def _serve_next(scenario, environment, n, now_s):
    """Let an idle server of node `n` take the queue's head, which must not be NONE."""
    head = environment.node[n].queue_head
    dequeue_first(scenario, environment, n)
    task = environment.task[head]
    task.waiting_s += now_s - task.since_s
    _start_service(scenario, environment, n, head, now_s)


@kernel
def schedule_work(scenario, environment, n, tick):
    """Let node `n` have its moment of tick number `tick`: for its work, if it works in ticks, and its broadcast."""
    node = environment.node[n]
    node.tick = tick
    node.tick_work = -1.0
    time_s = work_moment(scenario, environment, n, tick)
    if time_s <= scenario.settings[0].horizon_s:
        push(environment, time_s, event_key(TICK, n, 0), NONE)


@kernel
def _work(scenario, environment, n, now_s):
    """Let node `n` work on one task as long as its tick allows, or the task.

    Returns:
        Whether the task has ended: then the event comes again at the same instant, behind that end.
    """
    settings = scenario.settings[0]
    speed = scenario.node[n].core_speed
    node = environment.node[n]
    if node.tick_work < 0.0:
        node.tick_work = speed * settings.tick_s
    if node.tick_work <= 0.0:
        return False
    if node.busy == 0:
        if node.queue_head == NONE:
            join_queue(scenario, environment, n)
        if node.queue_head == NONE:
            return False
        _serve_next(scenario, environment, n, now_s)
    done = min(node.work_left, node.tick_work)
    node.work_left -= done
    node.tick_work -= done
    node.busy_seconds += done / speed
    task = environment.task[node.serving]
    task.service_end_s = now_s + node.work_left / speed
    if node.work_left > 0.0:
        return False
    push(environment, now_s, event_key(SERVICE_END, n, task.number), node.serving)
    push(environment, now_s, event_key(TICK, n, 0), NONE)
    return True


@kernel
def _expire_overdue(scenario, environment, n, now_s):
    """End the tasks in node `n`'s queue whose deadline and grace have passed by this tick."""
    settings = scenario.settings[0]
    node = environment.node[n]
    # The sum of a creation time and a deadline may be rounded up.
    until_s = (node.tick + 1e-9) * settings.tick_s
    while node.overdue_s <= until_s:
        slot = first_overdue(environment.task, node, settings.expiry_grace_s, until_s)
        if slot == NONE:
            return
        node.overdue_s = until_s  # there may be more
        leave_queue(scenario, environment, n, slot, now_s)
        change_tasks(node, scenario.node[n].capacity, now_s, -1)
        release(scenario, environment, slot, now_s, EXPIRED)


@kernel
def _tick(scenario, environment, n, now_s):
    """Let node `n` do what it does once a tick: it works, gives up what is overdue, lets tasks join, and broadcasts."""
    settings = scenario.settings[0]
    node = environment.node[n]
    if scenario.node[n].works_in_ticks:
        if _work(scenario, environment, n, now_s):
            return
        if settings.expiry == EXPIRY_QUEUED:
            _expire_overdue(scenario, environment, n, now_s)
        if node.tick % 2 == 0 or node.queue_head == NONE:
            join_queue(scenario, environment, n)
    tick = node.tick
    schedule_work(scenario, environment, n, tick + 1)
    if settings.broadcast_interval_s > 0.0:
        _broadcast(scenario, environment, n, tick, now_s)


@kernel
def keep(scenario, environment, n, slot, now_s):
    """Let node `n` process a task: serve it if a server is idle, else queue it."""
    node = environment.node[n]
    task = environment.task[slot]
    join(scenario, environment, n, slot, now_s)
    if node.busy < scenario.node[n].servers and not (has_ticks(scenario) and scenario.node[n].works_in_ticks):
        _start_service(scenario, environment, n, slot, now_s)
    else:
        task.stage = WAITING
        task.since_s = now_s
        enqueue(scenario, environment, n, slot)


@kernel
def _enter(scenario, environment, n, slot, now_s):
    """Let a task enter node `n`, from its client or from a neighbour."""
    settings = scenario.settings[0]
    here = scenario.node[n]
    node = environment.node[n]
    task = environment.task[slot]
    task.node = n
    if is_full(scenario) and node.down:
        if not send_back(scenario, environment, slot, now_s):
            release(scenario, environment, slot, now_s, NODE_FAILED)
        return
    if node.tasks >= here.capacity:
        release(scenario, environment, slot, now_s, QUEUE_FULL)
        return
    to_decide = here.agent != NONE and task.hops < settings.max_hops
    held = to_decide and (not is_full(scenario) or settings.offer == OFFER_ARRIVAL)
    in_ticks = has_ticks(scenario) and here.works_in_ticks and not held
    # In ticks a late task is let in: it may be served before the node gives up what is overdue.
    if (
        settings.expiry != EXPIRY_NEVER
        and now_s >= task.deadline_s + settings.expiry_grace_s
        and not (in_ticks and settings.expiry == EXPIRY_QUEUED)
    ):
        release(scenario, environment, slot, now_s, EXPIRED)
        return
    change_tasks(node, here.capacity, now_s, 1)
    if held:
        task.stage = HELD
        task.since_s = now_s
        append_held(environment, node, slot)
    elif in_ticks and task.hops == 0:
        task.stage = WAITING
        task.since_s = now_s
        receive(scenario, environment, n, slot)
        if to_decide:
            append_held(environment, node, slot)
    else:
        keep(scenario, environment, n, slot, now_s)
        if is_full(scenario) and to_decide and task.stage == WAITING:
            # What has been received joins the queue later, as what is newer.
            insert_held(environment, node, slot, node.received_head if has_ticks(scenario) else NONE)


@kernel
def send(scenario, environment, n, slot, link_index, now_s):
    """Send a task that has left the held ones, or the queue, of node `n` over one of its links."""
    settings = scenario.settings[0]
    link = scenario.link[link_index]
    back = scenario.link[link.reverse]
    sent = environment.link[link_index]
    task = environment.task[slot]
    environment.path[slot, task.hops] = link_index
    task.hops += 1
    task.return_latency_s += back.latency_s
    task.return_seconds_per_bit += back.seconds_per_bit
    task.stage = TRANSFERRED
    task.since_s = now_s
    sent.sent += 1
    sent.sent_work += task.work
    change_tasks(environment.node[n], scenario.node[n].capacity, now_s, -1)
    arrival_s = now_s + link.latency_s + task.bits_in * link.seconds_per_bit
    kind = TRANSFER
    if is_full(scenario) and not link.plain:
        arrival_s, lost = cross(scenario, environment, link_index, task.bits_in, task.deadline_s, now_s)
        if lost:
            kind = LOSS
    if has_ticks(scenario):
        arrival_s = delivery_moment(scenario, environment, slot, task.hops, now_s, arrival_s - now_s)
    if settings.expiry != EXPIRY_ABORT or arrival_s < task.deadline_s:
        push(environment, arrival_s, event_key(kind, link.destination, task.number), slot)


@kernel
def _leave_link(environment, slot):
    """Note that a task is no more on the link it was sent over."""
    task = environment.task[slot]
    link = environment.link[environment.path[slot, task.hops - 1]]
    link.arrived += 1
    link.arrived_work += task.work


@kernel
def _return_result(scenario, environment, slot, now_s):
    """Send a result one hop back along the path of its task, or end the task at its origin."""
    settings = scenario.settings[0]
    task = environment.task[slot]
    if task.hops_left == 0:
        release(scenario, environment, slot, now_s, FINISHED)
        return
    task.hops_left -= 1
    link_index = scenario.link[environment.path[slot, task.hops_left]].reverse
    link = scenario.link[link_index]
    arrival_s = now_s + link.latency_s + task.bits_out * link.seconds_per_bit
    kind = RESULT
    if is_full(scenario) and not link.plain:
        environment.usage[link.source].sent_result_bits += task.bits_out
        arrival_s, lost = cross(scenario, environment, link_index, task.bits_out, task.deadline_s, now_s)
        if lost:
            kind = LOSS
    if has_ticks(scenario):
        arrival_s = delivery_moment(scenario, environment, slot, RESULTS + task.hops_left, now_s, arrival_s - now_s)
    if settings.expiry != EXPIRY_ABORT or arrival_s <= task.deadline_s:
        push(environment, arrival_s, event_key(kind, link.destination, task.number), slot)


@kernel
def _end_service(scenario, environment, slot, now_s):
    task = environment.task[slot]
    _leave_service(scenario, environment, task.node, slot, now_s)
    task.stage = RETURNING
    task.since_s = now_s
    task.hops_left = task.hops
    _return_result(scenario, environment, slot, now_s)


@kernel
def _expire(scenario, environment, slot, now_s):
    """End a task at its deadline, wherever it is; with expiry ``queued`` only where it waits."""
    settings = scenario.settings[0]
    task = environment.task[slot]
    n = task.node
    node = environment.node[n]
    if task.stage == HELD:
        remove_held(environment, node, slot)
        task.holding_s += now_s - task.since_s
        change_tasks(node, scenario.node[n].capacity, now_s, -1)
    elif task.stage == WAITING:
        if has_ticks(scenario) and settings.expiry == EXPIRY_QUEUED and scenario.node[n].works_in_ticks:
            stop_awaiting(environment.node[task.origin], task)
            return  # the node gives it up when it has worked
        leave_queue(scenario, environment, n, slot, now_s)
        change_tasks(node, scenario.node[n].capacity, now_s, -1)
    elif settings.expiry != EXPIRY_ABORT:
        stop_awaiting(environment.node[task.origin], task)
        return
    elif task.stage == SERVED:
        _leave_service(scenario, environment, n, slot, now_s)
    elif task.stage == TRANSFERRED:
        _leave_link(environment, slot)
        task.transfer_s += now_s - task.since_s
    elif task.stage == SENT_BACK:
        task.transfer_s += now_s - task.since_s
    release(scenario, environment, slot, now_s, EXPIRED)


@kernel
def _lose(scenario, environment, slot, now_s):
    """End a task that, or whose result, a link has lost: at the moment at which it would have arrived."""
    task = environment.task[slot]
    if task.stage == TRANSFERRED:
        # The receiver notices the gap, and its next broadcast says so.
        _leave_link(environment, slot)
        task.transfer_s += now_s - task.since_s
    release(scenario, environment, slot, now_s, LOST)


@kernel
def _draw_type(scenario, environment, n, number):
    """Return the task type of a client's task number `number`; 0 where there is but one."""
    types = scenario.type_share.shape[0]
    if types == 1:
        return 0
    which = uniform(stream(environment.node[n].key, streams.TASK_TYPE), number)
    index = 0
    while index < types - 1 and which >= scenario.type_share[index]:
        index += 1
    return index


@kernel
def _fill(scenario, environment, n, slot, number, kind):
    """Draw work and sizes of a client's task number `number`, of task type `kind`."""
    key = environment.node[n].key
    task = environment.task[slot]
    jobs = scenario.job.shape[0]
    if jobs > 0:
        row = np.int64(uniform(stream(key, streams.TASK_TYPE), number) * jobs)
        task.work = scenario.job[row, 0]
        task.bits_in = scenario.job[row, 1]
        task.bits_out = scenario.job[row, 2]
        return
    drawn = environment.distribution[kind]
    task.work = quantile(drawn[WORK], scenario.choice, uniform(stream(key, streams.WORK), number))
    task.bits_in = quantile(drawn[BITS_IN], scenario.choice, uniform(stream(key, streams.BITS_IN), number))
    task.bits_out = quantile(drawn[BITS_OUT], scenario.choice, uniform(stream(key, streams.BITS_OUT), number))


@kernel
def _arrive(scenario, environment, n, now_s, end_s):
    """Let the client at node `n` make a task; the arrival is the first event, and its successor takes its place."""
    settings = scenario.settings[0]
    episode = environment.episode[0]
    node = environment.node[n]
    episode.free_slots -= 1
    slot = environment.free[episode.free_slots]
    task = environment.task[slot]
    number = node.arrivals
    node.arrivals += 1
    next_s = next_arrival(scenario, environment, n, now_s)
    if next_s <= settings.horizon_s:
        replace_first(environment, next_s, event_key(ARRIVAL, n, 0), NONE)
    else:
        pop(environment)
    entered = n
    kind = _draw_type(scenario, environment, n, number)
    arrivals = scenario.arrivals[0]
    if arrivals.kind == RECORDING:
        recorded = scenario.recording[environment.client[n].first_row + number]
        entered = np.int64(recorded.node)
        task.work = recorded.work
        task.bits_in = recorded.bits_in
        task.bits_out = recorded.bits_out
        if arrivals.rows_have_types:
            kind = np.int64(recorded.type)
    if not arrivals.rows_have_sizes:
        _fill(scenario, environment, n, slot, number, kind)
    task.number = episode.tasks_made
    episode.tasks_made += 1
    task.created_s = now_s
    task.deadline_s = np.inf
    task.holding_s = 0.0
    task.waiting_s = 0.0
    task.service_s = 0.0
    task.transfer_s = 0.0
    task.return_latency_s = 0.0
    task.return_seconds_per_bit = 0.0
    task.origin = n
    task.type = kind
    task.node = entered
    task.hops = 0
    task.undecided = 0
    task.bucket = NONE
    task.stage = HELD
    task.awaited = 1
    node.own_awaited += 1
    change_unfinished(node, now_s, 1, scenario.type_weight[kind])
    if settings.has_deadline:
        if arrivals.rows_have_deadlines:
            relative_s = scenario.recording[environment.client[n].first_row + number].deadline_s
        else:
            u = uniform(stream(node.key, streams.DEADLINE), number)
            relative_s = quantile(environment.distribution[kind, DEADLINE], scenario.choice, u)
        task.deadline_s = now_s + relative_s
        if settings.expiry != EXPIRY_NEVER:
            expire_s = task.deadline_s + settings.expiry_grace_s
            if expire_s <= end_s:
                _schedule_expiry(environment, slot, expire_s)
            else:
                watch_deadline(environment, slot, expire_s, settings.decision_interval_s)
    _enter(scenario, environment, entered, slot, now_s)


@kernel
def _schedule_expiry(environment, slot, expire_s):
    task = environment.task[slot]
    environment.episode[0].expiries_in_heap += 1
    push(environment, expire_s, event_key(EXPIRE, task.origin, task.number), slot)


@kernel
def schedule_expiries(scenario, environment):
    """Schedule the expiry of the tasks whose time falls into the step that begins."""
    settings = scenario.settings[0]
    step = environment.episode[0].step
    slot = environment.bucket[step]
    while slot != NONE:
        task = environment.task[slot]
        following = task.bucket_next
        task.bucket = NONE
        _schedule_expiry(environment, slot, task.deadline_s + settings.expiry_grace_s)
        slot = following
    environment.bucket[step] = NONE


@kernel
def _broadcast(scenario, environment, n, turn, now_s):
    """Note what node `n` tells its neighbours at `now_s`: its state, and what it had received from each."""
    node = environment.node[n]
    place = turn & (environment.broadcast.shape[1] - 1)
    message = environment.broadcast[n, place]
    message.stamp_s = now_s
    if is_full(scenario):
        # The silence of a node that is down tells its neighbours as much: that it is down, and empty.
        environment.usage[n].broadcasts += 1 - node.down
        message.down = node.down
    message.tasks = node.tasks
    message.free_s = advertised_free_at(scenario, environment, n, now_s)
    here = scenario.node[n]
    for link in range(here.first_link, here.first_link + here.degree):
        incoming = scenario.link[link].reverse
        environment.broadcast_link[incoming, place].arrived = environment.link[incoming].arrived
        environment.broadcast_link[incoming, place].arrived_work = environment.link[incoming].arrived_work


@kernel
def next_broadcast(scenario, environment):
    """Return the time of the next broadcast: nodes take turns in the order of their phases."""
    settings = scenario.settings[0]
    interval_s = settings.broadcast_interval_s
    if interval_s <= 0.0 or (has_ticks(scenario)):
        return np.inf
    episode = environment.episode[0]
    n = environment.broadcast_order[episode.broadcast_position]
    return environment.node[n].phase_s + episode.broadcast_round * interval_s


@kernel
def has_room(environment):
    """Return whether one more task fits into the task slots, the heap and the log."""
    episode = environment.episode[0]
    slots = environment.task.shape[0]
    # Before the next check every task may expire, or be dropped.
    if episode.free_slots == 0 or episode.expiries_in_heap >= 2 * slots or episode.overdue_in_heap >= slots:
        return False
    rows = environment.log.shape[0]
    return rows == 0 or episode.tasks_made < rows


@kernel
def _foresee_event(environment, place):
    """Ask for the node and the task of the event in a place of the heap."""
    if place < environment.episode[0].heap_size:
        event = environment.heap[place]
        prefetch(environment.node, np.int64((event.key >> NODE_SHIFT) & NODE_MASK))
        if event.slot != NONE:
            prefetch(environment.task, np.int64(event.slot))


@kernel
def _foresee_broadcasts(scenario, environment, position):
    """Ask for the links of the node that broadcasts next, and for the node after it."""
    if position + 2 < environment.broadcast_order.shape[0]:
        after = np.int64(environment.broadcast_order[position + 2])
        prefetch(environment.node, after)
        prefetch(environment.broadcast, after)
        prefetch(scenario.node, after)
        here = scenario.node[environment.broadcast_order[position + 1]]
        for link in range(here.first_link, here.first_link + here.degree):
            incoming = np.int64(scenario.link[link].reverse)
            prefetch(environment.link, incoming)
            prefetch(environment.broadcast_link, incoming)


@kernel
def run_until(scenario, environment, end_s):
    """Run all events up to and including `end_s`.

    Returns:
        False if there is more to do: the arrays must grow before the next arrival, or many events have been run and
        the caller may want to stop. The environment is left between two events, and the call can be repeated.
    """
    episode = environment.episode[0]
    heap = environment.heap
    next_broadcast_s = next_broadcast(scenario, environment)
    left = EVENTS_PER_CALL
    while True:
        if left == 0:
            return False
        left -= 1
        if is_large(scenario):
            _foresee_event(environment, 1)
            _foresee_event(environment, 2)
        time_s = heap[0].time_s if episode.heap_size > 0 else np.inf
        if next_broadcast_s < time_s:
            if next_broadcast_s > end_s:
                break
            if is_large(scenario):
                _foresee_broadcasts(scenario, environment, np.int64(episode.broadcast_position))
            n = environment.broadcast_order[episode.broadcast_position]
            _broadcast(scenario, environment, n, episode.broadcast_round, next_broadcast_s)
            episode.broadcast_position += 1
            if episode.broadcast_position == environment.broadcast_order.shape[0]:
                episode.broadcast_position = 0
                episode.broadcast_round += 1
            next_broadcast_s = next_broadcast(scenario, environment)
            continue
        if time_s > end_s:
            break
        key = heap[0].key
        slot = heap[0].slot
        kind = np.int64(key >> KIND_SHIFT)
        if kind == ARRIVAL:
            if not has_room(environment):
                return False
            _arrive(scenario, environment, np.int64((key >> NODE_SHIFT) & NODE_MASK), time_s, end_s)
        else:
            pop(environment)
            if kind == SERVICE_END:
                _end_service(scenario, environment, slot, time_s)
            elif kind == RESULT:
                n = np.int64((key >> NODE_SHIFT) & NODE_MASK)
                if is_full(scenario) and environment.node[n].down:
                    release(scenario, environment, slot, time_s, NODE_FAILED)
                else:
                    _return_result(scenario, environment, slot, time_s)
            elif kind == TRANSFER:
                task = environment.task[slot]
                if not is_full(scenario) or task.stage == TRANSFERRED:
                    _leave_link(environment, slot)
                task.transfer_s += time_s - task.since_s
                _enter(scenario, environment, np.int64((key >> NODE_SHIFT) & NODE_MASK), slot, time_s)
            elif kind == EXPIRE:
                episode.expiries_in_heap -= 1
                task = environment.task[slot]
                # The task may have ended earlier in this step, and its slot may hold another one already.
                if task.stage != FREE and np.uint64(task.number) & NUMBER_MASK == key & NUMBER_MASK:
                    _expire(scenario, environment, slot, time_s)
            elif kind == OVERDUE:
                episode.overdue_in_heap -= 1
                environment.node[np.int64((key >> NODE_SHIFT) & NODE_MASK)].own_awaited -= 1
            elif is_full(scenario):
                if kind == LOSS:
                    _lose(scenario, environment, slot, time_s)
                elif kind == FAILURE:
                    fail(scenario, environment, np.int64((key >> NODE_SHIFT) & NODE_MASK), time_s)
                elif kind == REPAIR:
                    repair(scenario, environment, np.int64((key >> NODE_SHIFT) & NODE_MASK), time_s)
                elif has_ticks(scenario) and kind == TICK:
                    _tick(scenario, environment, np.int64((key >> NODE_SHIFT) & NODE_MASK), time_s)
        episode.events += 1
    episode.now_s = end_s
    return True
