"""Transfers over links that are not plain: contention, random latency, loss, and the energy of sending.

A link with contention sends one message at a time in each direction, tasks and results alike, first come first
served. A message that leaves at its deadline, or was never to start before it, frees the link then. Deadlines are
known when a message is given to the link, so the times of all messages follow at once (Lindley's recursion, D. V.
Lindley, "The theory of queues with a single server", 1952, with impatience) and no event is ever taken back.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.durations import draw_duration
from offload_rllib.simulator.energy import charge_sending, has_charges
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.sharing.clock import speed_of_each
from offload_rllib.simulator.streams import node_key, normal_quantile, stream, uniform
from offload_rllib.simulator.types import EXPIRY_ABORT, NONE
from offload_rllib.simulator.variants import has_extensions


@kernel
def sending_time(scenario, link_index, bits):
    """Return the seconds that the bits of one message take, without latency."""
    law = scenario.link_law[link_index]
    if law.message_noise_hz > 0.0:
        if bits <= 0.0:
            return 0.0
        return bits / (law.message_noise_hz * math.log2(1.0 + law.message_snr_bits / bits))
    return bits * scenario.link[link_index].seconds_per_bit


@kernel
def draw_latency(law, key, number):
    """Return what transfer `number` takes beside its bits, in seconds; `key` is from `node_key`."""
    latency_s = law.propagation_s
    latency_s += draw_duration(law.latency, key, streams.LATENCY, number)
    latency_s += draw_duration(law.jitter, key, streams.JITTER, number)
    return latency_s


@kernel
def is_lost(law, key, number):
    """Return whether transfer `number` is lost; `key` is from `node_key`."""
    return law.loss_probability > 0.0 and uniform(stream(key, streams.LOSS), number) < law.loss_probability


@kernel
def is_drawn(law):
    """Return whether each transfer draws its own gain."""
    return law.scattered > 0.0 or law.shadowing_db > 0.0


@called_kernel
def draw_gain(law, key, number):
    """Return the gain of the power that transfer `number` finds: 1 on average without shadowing.

    With a share s of the power in scattered waves it is (sqrt(1 - s) + sqrt(s / 2) X)^2 + s / 2 Y^2, X and Y standard
    normal (Rice fading; Rayleigh with s = 1), times 10^(shadowing_db Z / 10), Z standard normal.

    Args:
        law: a LINK_LAW record.
        key: from `node_key`.
        number: of the transfer.
    """
    gain = 1.0
    if law.scattered > 0.0:
        scatter = math.sqrt(0.5 * law.scattered)
        x = math.sqrt(1.0 - law.scattered) + scatter * _normal(key, streams.FADING, number)
        y = scatter * _normal(key, streams.SCATTERED, number)
        gain = x * x + y * y
    if law.shadowing_db > 0.0:
        gain *= 10.0 ** (0.1 * law.shadowing_db * _normal(key, streams.SHADOWING, number))
    return gain


@kernel
def _normal(key, purpose, number):
    return normal_quantile(max(uniform(stream(key, purpose), number), 2.0**-54))


@kernel
def radio_rate(bandwidth_hz, snr):
    """Return the Shannon capacity in bit/s."""
    return bandwidth_hz * math.log1p(snr) / math.log(2.0)


@kernel
def time_at_gain(scenario, link_index, bits, gain):
    """Return the seconds that the bits of one message take whose power at the receiver is `gain` times the mean."""
    law = scenario.link_law[link_index]
    if bits <= 0.0:
        return 0.0
    if not is_drawn(law):
        return sending_time(scenario, link_index, bits)
    # Where the rate follows a schedule, all rates have its factor.
    slowdown = scenario.link[link_index].seconds_per_bit / law.seconds_per_bit
    rate = radio_rate(law.bandwidth_hz, law.snr * gain)
    return bits / rate * slowdown if rate > 0.0 else np.inf


@kernel
def cross(scenario, environment, link_index, bits, origin, deadline_s, now_s):
    """Give a message of a task made at node `origin` to a link that is not plain.

    Returns:
        When it arrives, or would have arrived, in seconds; and whether it is lost.
    """
    settings = scenario.settings[0]
    law = scenario.link_law[link_index]
    link = environment.link[link_index]
    source = scenario.link[link_index].source
    number = link.transfers
    link.transfers += 1
    key = node_key(environment.episode[0].key, law.name_hash)
    sending_s = sending_time(scenario, link_index, bits)
    if is_drawn(law):
        sending_s = time_at_gain(scenario, link_index, bits, draw_gain(law, key, number))
    begins_s = max(now_s, environment.link[law.queue].free_s) if law.contention else now_s
    ends_s = begins_s + sending_s
    arrives_s = ends_s + draw_latency(law, key, number)
    lost = is_lost(law, key, number)
    # What is sent before the message is aborted; what is sent by the horizon counts as energy.
    leaves_s = deadline_s if settings.expiry == EXPIRY_ABORT else np.inf
    sent_until_s = max(begins_s, min(ends_s, leaves_s))
    if law.contention:
        environment.link[law.queue].free_s = sent_until_s
    counted_s = max(min(sent_until_s, settings.horizon_s) - begins_s, 0.0)
    sent_bits = bits * (counted_s / sending_s) if sending_s > 0.0 else 0.0
    usage = environment.usage[source]
    usage.sending_seconds += counted_s
    usage.sent_bits += sent_bits
    if has_charges(scenario):
        charge_sending(scenario, environment, source, origin, counted_s, sent_bits)
    return arrives_s, lost


@kernel
def expected_transfer(scenario, environment, link_index, bits, now_s):
    """Return the seconds that a node expects a message over one of its own links to take.

    The mean latency, and what waits on the link before it: a node knows its own links, not those of others.
    """
    link = scenario.link[link_index]
    if not has_extensions(scenario) or link.plain:
        return link.latency_s + bits * link.seconds_per_bit
    law = scenario.link_law[link_index]
    sending_s = sending_time(scenario, link_index, bits)
    if law.channel != NONE:
        return link.latency_s + _expected_on_channel(scenario, environment, law, sending_s, now_s)
    wait_s = max(environment.link[law.queue].free_s - now_s, 0.0)
    return wait_s + sending_s + link.latency_s


@kernel
def _expected_on_channel(scenario, environment, law, sending_s, now_s):
    """Return the seconds until a message is sent if as many share its channel as now, or behind those that wait."""
    channel = environment.channel[law.channel]
    if law.at_once > 1:
        return sending_s / speed_of_each(law, scenario.throughput, channel.sending + 1)
    slot = channel.queue_head
    if channel.first != NONE:
        sending_s += max(environment.task[channel.first].work_end - channel.work_each - (now_s - channel.at_s), 0.0)
    while slot != NONE:
        message = environment.message[slot]
        sending_s += time_at_gain(scenario, message.link, message.bits, message.gain)
        slot = environment.task[slot].next
    return sending_s
