"""Messages on a channel: shares of its rate, waiting for it, and rates that change while a message is sent.

A channel is what messages contend for: one direction of a link, both, or all links of a node. A message needs an
airtime, the seconds that it takes if it is alone. With n messages on the channel each is sent at g(n) / n of its rate,
g being the throughput of the channel relative to one message. Where messages do not contend each has its full rate, and
where they wait one is sent at a time. All that are sent advance alike, in seconds of airtime (see `sharing.clock`).

When the rate of a link changes, the share of its messages that is not sent yet stays, and their airtime follows the
new rate: the share sent is the exact integral of the rate. Here departures cannot be foreseen, as `links.cross` does.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.energy import charge_sending, has_charges
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.links import draw_gain, draw_latency, is_drawn, is_lost, time_at_gain
from offload_rllib.simulator.pairing_heap import enter_heap, leave_heap
from offload_rllib.simulator.queues import append, unlink
from offload_rllib.simulator.sharing.clock import begin_clocks, bring_up_to_date, foresee_end, speed_of_each
from offload_rllib.simulator.streams import node_key
from offload_rllib.simulator.types import EXPIRY_ABORT, LOSS, NONE, RESULT, SHARING, TRANSFER, TRANSFERRED, record
from offload_rllib.simulator.variants import has_extensions

CHANNEL = record(  # of links; see `sharing.channels`
    sending="i4",  # messages that are sent at present
    queue_head="i4",  # those that wait for the channel
    queue_tail="i4",
    first="i4",  # see CORE_SHARING
    winner="i4",
    work_each="f8",  # seconds of sending that a message has had that was sent since the channel was last idle
    at_s="f8",
    end_s="f8",
)

MESSAGE = record(  # of a task on its way: its input, or its result
    bits="f8",
    left="f8",  # share that was not sent when its rate changed last
    airtime_s="f8",  # that the whole message needs if it is alone, at the present rate
    gain="f8",  # of the power at the receiver, as drawn
    latency_s="f8",  # as drawn
    begun_s="f8",  # when its sending began
    link="i4",  # that it is sent over, or waits for; NONE: it is not on a channel
    waiting="i4",
    lost="i4",
    at="i4",  # node that a result was forwarded to after a handover, or NONE
)


@kernel
def has_channels(scenario, environment):
    """Return whether messages contend for channels, or are sent at rates that change."""
    return has_extensions(scenario) and environment.channel.shape[0] > 0


@kernel
def begin_channels(environment):
    """Let no message be on any channel; at the start of an episode."""
    begin_clocks(environment.channel)
    for which in range(environment.channel.shape[0]):
        environment.channel[which].queue_head = NONE
        environment.channel[which].queue_tail = NONE
    for slot in range(environment.message.shape[0]):
        environment.message[slot].link = NONE
        environment.message[slot].at = NONE


@kernel
def _rate_of_each(scenario, environment, c):
    return speed_of_each(scenario.link_law[c], scenario.throughput, environment.channel[c].sending)


@kernel
def _bring_channel_up_to_date(scenario, environment, c, now_s):
    channel = environment.channel[c]
    bring_up_to_date(channel, channel.sending == 0, _rate_of_each(scenario, environment, c), now_s)


@kernel
def _needs(left, airtime_s):
    """Return the airtime that a share of a message needs; its rate may be 0."""
    return left * airtime_s if left > 0.0 else 0.0


@kernel
def _left(environment, c, slot):
    """Return the share of a message that is not sent yet, on a channel that is up to date."""
    message = environment.message[slot]
    if message.airtime_s == np.inf:
        return message.left
    if message.airtime_s <= 0.0:
        return 0.0
    return max(environment.task[slot].work_end - environment.channel[c].work_each, 0.0) / message.airtime_s


@kernel
def _begin_sending(scenario, environment, c, slot, now_s):
    channel = environment.channel[c]
    message = environment.message[slot]
    _bring_channel_up_to_date(scenario, environment, c, now_s)
    message.waiting = 0
    message.begun_s = now_s
    message.airtime_s = time_at_gain(scenario, message.link, message.bits, message.gain)
    environment.task[slot].work_end = channel.work_each + _needs(message.left, message.airtime_s)
    channel.first = enter_heap(environment.task, SHARING, channel.first, slot)
    channel.sending += 1
    environment.usage[scenario.link[message.link].source].sending_seconds -= now_s


@kernel
def _stop_sending(scenario, environment, c, slot, now_s):
    """Take a message that is being sent off its channel."""
    channel = environment.channel[c]
    message = environment.message[slot]
    _bring_channel_up_to_date(scenario, environment, c, now_s)
    if slot == channel.first and now_s == channel.end_s:
        channel.work_each = environment.task[slot].work_end  # without the rounding of the time of its end
    message.left = _left(environment, c, slot)
    channel.first = leave_heap(environment.task, SHARING, channel.first, slot)
    channel.sending -= 1
    _count_sending(scenario, environment, slot, message.left, now_s)


@kernel
def _count_sending(scenario, environment, slot, left, now_s):
    """Enter what was sent of a message, all but a share `left`, into the account of its sender."""
    message = environment.message[slot]
    source = scenario.link[message.link].source
    sent_bits = message.bits * (1.0 - left)
    usage = environment.usage[source]
    usage.sending_seconds += now_s
    usage.sent_bits += sent_bits
    if has_charges(scenario):
        origin = environment.task[slot].origin
        charge_sending(scenario, environment, source, origin, now_s - message.begun_s, sent_bits)


@kernel
def _go_on(scenario, environment, c, now_s):
    """Let a message that waits be sent, if there is room for one, and work out who leaves the channel next."""
    channel = environment.channel[c]
    if channel.queue_head != NONE and channel.sending < scenario.link_law[c].at_once:
        slot = np.int64(channel.queue_head)
        unlink(environment.task, environment.channel[c], slot)
        _begin_sending(scenario, environment, c, slot, now_s)
    foresee_end(environment.channel, environment.task, c, _rate_of_each(scenario, environment, c))


@called_kernel
def give(scenario, environment, link_index, slot, bits, now_s):
    """Give a message of a task to the channel of a link."""
    law = scenario.link_law[link_index]
    link = environment.link[link_index]
    message = environment.message[slot]
    number = link.transfers
    link.transfers += 1
    key = node_key(environment.episode[0].key, law.name_hash)
    message.bits = bits
    message.left = 1.0
    message.gain = draw_gain(law, key, number) if is_drawn(law) else 1.0
    message.latency_s = draw_latency(law, key, number)
    message.lost = is_lost(law, key, number)
    message.link = link_index
    message.waiting = 1
    c = np.int64(law.channel)
    append(environment.task, environment.channel[c], slot)
    _go_on(scenario, environment, c, now_s)


@called_kernel
def end_sending(scenario, environment, c, now_s):
    """Let the message whose sending ends leave its channel; it arrives when its latency is over."""
    settings = scenario.settings[0]
    slot = np.int64(environment.channel[c].first)
    message = environment.message[slot]
    task = environment.task[slot]
    link_index = np.int64(message.link)
    _stop_sending(scenario, environment, c, slot, now_s)
    message.link = NONE
    _go_on(scenario, environment, c, now_s)
    is_result = task.stage != TRANSFERRED
    kind = RESULT if is_result else TRANSFER
    if message.lost:
        kind = LOSS
    arrival_s = now_s + message.latency_s
    in_time = arrival_s < task.deadline_s or (is_result and arrival_s == task.deadline_s)
    if settings.expiry != EXPIRY_ABORT or in_time:
        push(environment, arrival_s, event_key(kind, scenario.link[link_index].destination, task.number), slot)


@called_kernel
def withdraw_message(scenario, environment, slot, now_s):
    """Take a message off its channel before it is sent, if it is on one."""
    message = environment.message[slot]
    if message.link == NONE:
        return
    c = np.int64(scenario.link_law[message.link].channel)
    if message.waiting:
        unlink(environment.task, environment.channel[c], slot)
    else:
        _stop_sending(scenario, environment, c, slot, now_s)
    message.link = NONE
    _go_on(scenario, environment, c, now_s)


@kernel
def _take_all(environment, c):
    """Take all messages that are being sent out of the order of their ends; return the first of their list."""
    task = environment.task
    channel = environment.channel[c]
    taken = np.int64(NONE)
    while channel.first != NONE:
        slot = np.int64(channel.first)
        channel.first = leave_heap(task, SHARING, channel.first, slot)
        task[slot].next = taken
        taken = slot
    return taken


@called_kernel
def change_rate(scenario, environment, link_index, seconds_per_bit, now_s):
    """Let a link have another rate from now on: 1 / `seconds_per_bit`, which may be 0."""
    link = scenario.link[link_index]
    if link.seconds_per_bit == seconds_per_bit:
        return
    c = np.int64(scenario.link_law[link_index].channel)
    channel = environment.channel[c]
    if channel.first == NONE:
        link.seconds_per_bit = seconds_per_bit
        return
    task = environment.task
    _bring_channel_up_to_date(scenario, environment, c, now_s)
    taken = _take_all(environment, c)
    link.seconds_per_bit = seconds_per_bit
    while taken != NONE:
        slot = taken
        taken = np.int64(task[slot].next)
        message = environment.message[slot]
        if message.link == link_index:
            message.left = _left(environment, c, slot)
            message.airtime_s = time_at_gain(scenario, link_index, message.bits, message.gain)
            task[slot].work_end = channel.work_each + _needs(message.left, message.airtime_s)
        channel.first = enter_heap(task, SHARING, channel.first, slot)
    foresee_end(environment.channel, task, c, _rate_of_each(scenario, environment, c))


@called_kernel
def lose_messages(scenario, environment, link_index, now_s):
    """Lose all messages that are being sent over a link, or wait for it."""
    for slot in range(environment.message.shape[0]):
        if environment.message[slot].link == link_index:
            withdraw_message(scenario, environment, slot, now_s)
            task = environment.task[slot]
            push(environment, now_s, event_key(LOSS, scenario.link[link_index].destination, task.number), slot)


@kernel
def close_channels(scenario, environment, now_s):
    """Count what has been sent by the end of the episode of messages that are still being sent."""
    for slot in range(environment.message.shape[0]):
        message = environment.message[slot]
        if message.link != NONE and not message.waiting:
            c = np.int64(scenario.link_law[message.link].channel)
            _bring_channel_up_to_date(scenario, environment, c, now_s)
            _count_sending(scenario, environment, slot, _left(environment, c, slot), now_s)
            message.link = NONE
