"""When clients make their tasks: Poisson processes of constant or varying rate, and recordings.

A client's k-th task comes when the integral of its rate reaches the sum of k exponential numbers of mean 1 (E. Cinlar,
"Introduction to Stochastic Processes", 1975, section 4.7): exact for any rate, with one draw a task. Rates are made of
pieces, each a straight line, over which the integral is solved in closed form; a sine wave is solved by iteration.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.streams import stream, uniform
from offload_rllib.simulator.types import record

ARRIVALS = record(  # when clients create tasks
    low="f8",  # levels, which multiply a client's mean rate
    high="f8",
    period_s="f8",
    phase="f8",  # in periods, 0 to 1
    rate_from="f8",  # ends of the factor on all rates (on the speed of a recording) that an episode draws
    rate_to="f8",
    recording_s="f8",  # length of the recording if an episode starts anywhere in it, 0 if at its beginning
    kind="i4",
    heterogeneous="i4",  # each client draws its own phase, levels, or states
    rows_have_sizes="i4",
    rows_have_deadlines="i4",
    rows_have_types="i4",
    parameters_vary="i4",  # episodes draw parameters between `distribution` and `distribution_to`
)
CLIENT = record(first_row="i4", end_row="i4")  # its part of `recording`, or of `rate_piece`
RECORDED = record(  # one arrival; sorted by origin, then time
    time_s="f8",  # since the start of the recording
    work="f8",
    bits_in="f8",
    bits_out="f8",
    deadline_s="f8",  # relative to the arrival; infinite: none
    node="i4",  # that the task enters first
    destination="i4",  # that is to process it, for the rule `recorded`; or NONE
    type="i4",  # of the task
)
RATE_PIECE = record(time_s="f8", level="f8", slope="f8")  # of a table of rates: from when on, level there, per second
BURST_STATE = record(level="f8", mean_s="f8", cumulative_start="f8")  # and stationary distribution

# Kinds of arrivals.
CONSTANT = 0
RECORDING = 1
DIURNAL = 2
# Kinds that are made of pieces.
LINEAR = 3
ZIGZAG = 4
UNIFORM_LEVELS = 5
BURSTY = 6
TABLE = 7

# Halvings of an interval that leave nothing of a float's 53 bits, whatever the other steps did.
LARGEST_STEPS = 80


@kernel
def _between(low, high, u):
    return low if low == high else low + (high - low) * u  # both may be infinite


@kernel
def begin_episode(scenario, environment):
    """Draw what an episode draws once: the factor on rates, parameters of distributions; start every client.

    The nodes' keys must be set.
    """
    arrivals = scenario.arrivals[0]
    key = environment.episode[0].key
    u = uniform(stream(key, streams.RATE_FACTOR), 0)
    factor = _between(arrivals.rate_from, arrivals.rate_to, u)
    if arrivals.parameters_vary:
        for i in range(scenario.distribution.shape[0]):
            for q in range(scenario.distribution.shape[1]):
                low = scenario.distribution[i, q]
                high = scenario.distribution_to[i, q]
                drawn = environment.distribution[i, q]
                # An address for each of the three parameters of each distribution.
                first = 3 * (i * scenario.distribution.shape[1] + q)
                drawn.a = _between(low.a, high.a, uniform(stream(key, streams.PARAMETER), first))
                drawn.b = _between(low.b, high.b, uniform(stream(key, streams.PARAMETER), first + 1))
                drawn.c = _between(low.c, high.c, uniform(stream(key, streams.PARAMETER), first + 2))
    start_s = 0.0
    if arrivals.recording_s > 0.0:
        latest_s = max(arrivals.recording_s - factor * scenario.settings[0].horizon_s, 0.0)
        start_s = uniform(stream(key, streams.RECORDING_START), 0) * latest_s
    for n in range(environment.node.shape[0]):
        node = environment.node[n]
        node.arrival_rate = scenario.node[n].arrival_rate * factor
        client = environment.client[n]
        if arrivals.kind == RECORDING:
            node.arrival_rate = factor
            client.start_s = start_s
            first, end = np.int64(scenario.client[n].first_row), np.int64(scenario.client[n].end_row)
            while first < end:  # the first row that is not earlier
                middle = (first + end) >> 1
                if scenario.recording[middle].time_s < start_s:
                    first = middle + 1
                else:
                    end = middle
            client.first_row = first
        elif arrivals.kind != CONSTANT:
            source = node.key if arrivals.heterogeneous else key
            client.phase = uniform(stream(source, streams.RATE_PHASE), 0) if arrivals.heterogeneous else arrivals.phase
            if arrivals.kind != DIURNAL:
                _enter_piece(
                    arrivals,
                    client,
                    scenario.client[n],
                    scenario.rate_piece,
                    scenario.burst_state,
                    scenario.burst_jump,
                    source,
                    0,
                )


@called_kernel
def _enter_piece(arrivals, client, described, rate_piece, burst_state, burst_jump, key, piece):
    """Let piece number `piece` of a client's rate be the present one; they are entered in order, from 0."""
    client.piece = piece
    client.slope = 0.0
    if arrivals.kind == LINEAR:
        client.start_s = 0.0 if piece == 0 else arrivals.period_s
        client.end_s = arrivals.period_s if piece == 0 else np.inf
        client.level = arrivals.low if piece == 0 else arrivals.high
        client.slope = (arrivals.high - arrivals.low) / arrivals.period_s if piece == 0 else 0.0
    elif arrivals.kind == ZIGZAG:
        half = np.int64(2.0 * client.phase) + piece
        client.start_s = (0.5 * half - client.phase) * arrivals.period_s
        client.end_s = (0.5 * (half + 1) - client.phase) * arrivals.period_s
        rise = 2.0 * (arrivals.high - arrivals.low) / arrivals.period_s
        client.level = arrivals.low if half % 2 == 0 else arrivals.high
        client.slope = rise if half % 2 == 0 else -rise
    elif arrivals.kind == UNIFORM_LEVELS:
        client.start_s = piece * arrivals.period_s
        client.end_s = (piece + 1) * arrivals.period_s
        client.level = arrivals.low + (arrivals.high - arrivals.low) * uniform(stream(key, streams.RATE_LEVEL), piece)
    elif arrivals.kind == BURSTY:
        u = uniform(stream(key, streams.BURST_STATE), piece)
        last = burst_state.shape[0] - 1
        state = 0
        if piece == 0:
            while state < last and u >= burst_state[state].cumulative_start:
                state += 1
        else:
            while state < last and u >= burst_jump[client.state, state]:
                state += 1
        client.state = state
        client.start_s = 0.0 if piece == 0 else client.end_s
        mean_s = burst_state[state].mean_s
        client.end_s = client.start_s - mean_s * math.log(1.0 - uniform(stream(key, streams.BURST_TIME), piece))
        client.level = burst_state[state].level
    else:
        row = described.first_row + piece
        client.start_s = rate_piece[row].time_s
        client.end_s = rate_piece[row + 1].time_s if row + 1 < described.end_row else np.inf
        client.level = rate_piece[row].level
        client.slope = rate_piece[row].slope


@called_kernel
def _after_pieces(arrivals, client, described, rate_piece, burst_state, burst_jump, key, now_s, wanted, horizon_s):
    """Return when the integral of a client's level from `now_s` on reaches `wanted`; infinite if after the horizon."""
    while True:
        level = max(client.level + client.slope * (now_s - client.start_s), 0.0)
        length_s = min(client.end_s, horizon_s) - now_s
        area = (level + 0.5 * client.slope * length_s) * length_s
        if area >= wanted:
            # The root of level x + slope x^2 / 2 = wanted, in the form that loses no digits.
            root = math.sqrt(max(level * level + 2.0 * client.slope * wanted, 0.0))
            divisor = level + root
            return now_s + (min(2.0 * wanted / divisor, length_s) if divisor > 0.0 else 0.0)
        if client.end_s >= horizon_s:
            return np.inf
        wanted -= area
        now_s = client.end_s
        _enter_piece(arrivals, client, described, rate_piece, burst_state, burst_jump, key, client.piece + 1)


@called_kernel
def _after_swing(low, high, period_s, phase, now_s, wanted):
    """Return when the integral of (low + high) / 2 + (high - low) / 2 sin(2 pi (t / period_s + phase)) is `wanted`.

    The integral is taken from `now_s` on. Newton's method, inside an interval that holds the root and shrinks.
    """
    turns = 2.0 * math.pi / period_s
    mean = 0.5 * (low + high)
    swing = 0.5 * (high - low)
    angle = turns * now_s + 2.0 * math.pi * phase
    least = wanted / high
    most = (wanted + 2.0 * swing / turns) / mean
    x = min(max(wanted / mean, least), most)
    for _ in range(LARGEST_STEPS):
        half = 0.5 * turns * x
        # cos(angle) - cos(angle + turns x) as a product, which loses no digits for small x.
        excess = mean * x + 2.0 * swing / turns * math.sin(angle + half) * math.sin(half) - wanted
        if excess > 0.0:
            most = x
        else:
            least = x
        level = mean + swing * math.sin(angle + turns * x)
        following = x - excess / level if level > 0.0 else most
        if not least < following < most:
            following = 0.5 * (least + most)
        if following == x or excess == 0.0:
            break
        x = following
    return now_s + x


@kernel
def next_arrival(scenario, environment, n, now_s):
    """Return when the client at node `n` makes its next task, not earlier than `now_s`; infinite if in no time."""
    arrivals = scenario.arrivals[0]
    node = environment.node[n]
    if arrivals.kind == RECORDING:
        client = environment.client[n]
        row = client.first_row + node.arrivals
        if row >= scenario.client[n].end_row:
            return np.inf
        return (scenario.recording[row].time_s - client.start_s) / node.arrival_rate
    u = uniform(stream(node.key, streams.ARRIVAL_GAP), node.arrivals)
    gap_s = -math.log(1.0 - u) / node.arrival_rate
    if arrivals.kind == CONSTANT:
        return now_s + gap_s
    client = environment.client[n]
    if arrivals.kind == DIURNAL:
        return _after_swing(arrivals.low, arrivals.high, arrivals.period_s, client.phase, now_s, gap_s)
    return _after_pieces(
        arrivals,
        client,
        scenario.client[n],
        scenario.rate_piece,
        scenario.burst_state,
        scenario.burst_jump,
        node.key if arrivals.heterogeneous else environment.episode[0].key,
        now_s,
        gap_s,
        scenario.settings[0].horizon_s,
    )
