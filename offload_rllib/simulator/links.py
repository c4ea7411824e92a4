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
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import node_key, stream, uniform
from offload_rllib.simulator.types import EXPIRY_ABORT
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
def cross(scenario, environment, link_index, bits, deadline_s, now_s):
    """Give a message to a link that is not plain.

    Returns:
        When it arrives, or would have arrived, in seconds; and whether it is lost.
    """
    settings = scenario.settings[0]
    law = scenario.link_law[link_index]
    link = environment.link[link_index]
    usage = environment.usage[scenario.link[link_index].source]
    number = link.transfers
    link.transfers += 1
    key = node_key(environment.episode[0].key, law.name_hash)
    sending_s = sending_time(scenario, link_index, bits)
    begins_s = max(now_s, link.free_s) if law.contention else now_s
    ends_s = begins_s + sending_s
    latency_s = law.propagation_s
    latency_s += draw_duration(law.latency, key, streams.LATENCY, number)
    latency_s += draw_duration(law.jitter, key, streams.JITTER, number)
    arrives_s = ends_s + latency_s
    lost = law.loss_probability > 0.0 and uniform(stream(key, streams.LOSS), number) < law.loss_probability
    # What is sent before the message is aborted; what is sent by the horizon counts as energy.
    leaves_s = deadline_s if settings.expiry == EXPIRY_ABORT else np.inf
    sent_until_s = max(begins_s, min(ends_s, leaves_s))
    if law.contention:
        link.free_s = sent_until_s
    counted_s = max(min(sent_until_s, settings.horizon_s) - begins_s, 0.0)
    usage.sending_seconds += counted_s
    usage.sent_bits += bits * (counted_s / sending_s) if sending_s > 0.0 else 0.0
    return arrives_s, lost


@kernel
def expected_transfer(scenario, environment, link_index, bits, now_s):
    """Return the seconds that a node expects a message over one of its own links to take.

    The mean latency, and what waits on the link before it: a node knows its own links, not those of others.
    """
    link = scenario.link[link_index]
    if not has_extensions(scenario) or link.plain:
        return link.latency_s + bits * link.seconds_per_bit
    wait_s = max(environment.link[link_index].free_s - now_s, 0.0)
    return wait_s + sending_time(scenario, link_index, bits) + link.latency_s
