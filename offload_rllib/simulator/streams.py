"""Random numbers addressed by (seed, episode, node, purpose, index), not drawn from a shared sequence.

Each stream is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) read at an
index. So a draw depends only on its address: not on the order of events, on other nodes, on the number of environments,
or on what agents decide.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel

GAMMA = np.uint64(0x9E3779B97F4A7C15)
WORD = 2**32
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# Purposes: one stream each, per node.
ARRIVAL_GAP = 1
TASK_TYPE = 2
WORK = 3
BITS_IN = 4
BITS_OUT = 5
DEADLINE = 6
BROADCAST_PHASE = 7
HEURISTIC = 8
TICK_WORK = 9
TICK_DELIVERY = 10
# Of an episode (from its key), or of a client where clients differ.
RATE_PHASE = 20
RATE_LEVEL = 21
BURST_STATE = 22
BURST_TIME = 23
# Of an episode.
RATE_FACTOR = 24
PARAMETER = 25
RECORDING_START = 26
TICK_DECISION = 28
OBJECTIVE_WEIGHT = 29
# Of a name alone: which client makes a recorded task.
RECORDING_ORIGIN = 27
# Durations may take the next number too.
FAILURE_GAP = 40
REPAIR_TIME = 42

# Purposes per direction of a link.
LATENCY = 50
JITTER = 52
LOSS = 54
FADING = 55
SCATTERED = 56
SHADOWING = 58

# Purposes per node that moves.
WAYPOINT_X = 60
WAYPOINT_Y = 61
SPEED = 62
PAUSE = 64

CONSTANT = 0
EXPONENTIAL = 1
UNIFORM = 2
LOGNORMAL = 3
PARETO = 4
CHOICE = 5


def stable_hash(text: str) -> int:
    """Return 64 bits that depend on `text` alone (Python's own ``hash`` differs between processes)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def episode_key(*address: int) -> int:
    """Return the 64-bit key of an episode from its address, e.g. (seed, worker, environment, episode).

    Raises:
        ValueError: a part of the address is negative.
    """
    if min(address) < 0:
        raise ValueError(f"an episode's address has no negative parts, is {address}")
    if max(address) >= WORD:
        # A `SeedSequence` cuts large parts into words of 32 bits, which together are another address.
        return stable_hash(" ".join(str(int(part)) for part in address))
    # In an array, for numpy takes numbers apart one by one; the key is the same.
    words = np.array(address, np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


@kernel
def mix(value):
    """Return SplitMix64's output function of a 64-bit state."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@kernel
def node_key(key, name_hash):
    """Return the key of a node, or of a direction of a link, in one episode."""
    return mix(key ^ name_hash)


@kernel
def stream(key, purpose):
    """Return the key of a node's stream for one purpose; `key` is from `node_key`."""
    return mix(key + np.uint64(purpose) * GAMMA)


@kernel
def uniform(stream_key, index):
    """Return draw number `index` of a stream, in [0, 1) with 53 random bits."""
    return (mix(stream_key + np.uint64(index) * GAMMA) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def sample(kind, a, b, u):
    """Return the quantile `u` of a distribution: CONSTANT a, EXPONENTIAL with mean a, UNIFORM on [a, b)."""
    if kind == EXPONENTIAL:
        return -a * math.log(1.0 - u)  # u has 53 bits, so 1 - u is exact and never 0
    if kind == UNIFORM:
        return a + (b - a) * u
    return a


@kernel
def normal_quantile(u):
    """Return the quantile `u` of the standard normal distribution, for 0 < u < 1.

    A rational approximation good to 4.5e-4 (Abramowitz, Stegun, "Handbook of Mathematical Functions", 26.2.23), and two
    steps of Halley's method on the distribution function, each of which triples the digits.
    """
    p = min(u, 1.0 - u)
    t = math.sqrt(-2.0 * math.log(p))
    x = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    for _ in range(2):
        error = (0.5 * math.erfc(x / math.sqrt(2.0)) - p) * math.sqrt(2.0 * math.pi) * math.exp(0.5 * x * x)
        x += error / (1.0 - 0.5 * x * error)
    return x if u > 0.5 else -x


@called_kernel
def _quantile(kind, a, b, c, u):
    """Return a quantile of the distributions that take longer to compute."""
    if kind == LOGNORMAL:
        above = a - c
        cv = b * (a / above)
        variance = math.log1p(cv * cv)
        return c + above * math.exp(math.sqrt(variance) * normal_quantile(max(u, 2.0**-54)) - 0.5 * variance)
    # PARETO. The distribution function is (1 - (a/x)^c) / (1 - (a/b)^c).
    return a * (1.0 + u * math.expm1(c * math.log(a / b))) ** (-1.0 / c)


@kernel
def quantile(distribution, choices, u):
    """Return the quantile `u` of a distribution.

    Args:
        distribution: a DISTRIBUTION record. LOGNORMAL: mean a, coefficient of variation b, least value c. PARETO:
            from a to b with tail index c. CHOICE: rows a to b - 1 of `choices`. The others as in `sample`.
        choices: [C, 2] values and cumulative shares.
        u: in [0, 1).
    """
    kind = distribution.kind
    if kind <= UNIFORM:
        return sample(kind, distribution.a, distribution.b, u)
    if kind == CHOICE:
        row = np.int64(distribution.a)
        last = np.int64(distribution.b) - 1
        while row < last and u >= choices[row, 1]:
            row += 1
        return choices[row, 0]
    return _quantile(kind, distribution.a, distribution.b, distribution.c, u)


@kernel
def fill_quantiles(distribution, choices, u, values):
    """Write into `values` [n] the quantiles `u` [n] of the distributions [n]."""
    for i in range(u.shape[0]):
        values[i] = quantile(distribution[i], choices, u[i])


@kernel
def fill_uniforms(stream_key, values):
    """Write the first draws of a stream into `values` [n]."""
    for i in range(values.shape[0]):
        values[i] = uniform(stream_key, i)
