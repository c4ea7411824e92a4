"""Random numbers addressed by (seed, episode, node, purpose, index), not drawn from a shared sequence.

Each stream is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) read
at an index, so that a draw depends on nothing but its address: not on the order of events, on other nodes, on the
number of environments, or on what agents decide.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from offload_rllib.simulator.jit import kernel

GAMMA = np.uint64(0x9E3779B97F4A7C15)
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
# Durations may take the next number too.
FAILURE_GAP = 40
REPAIR_TIME = 42

# Purposes per direction of a link.
LATENCY = 50
JITTER = 52
LOSS = 54

CONSTANT = 0
EXPONENTIAL = 1
UNIFORM = 2


def stable_hash(text: str) -> int:
    """Return 64 bits that depend on `text` alone (Python's own ``hash`` differs between processes)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def episode_key(*address: int) -> int:
    """Return the 64-bit key of an episode from its address, e.g. (seed, worker, environment, episode).

    Raises:
        ValueError: a part of the address is negative.
    """
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0])


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
