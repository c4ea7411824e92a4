"""The pending events of one environment: a binary heap ordered by (time, kind, node, task number)."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel

# A key packs kind (4 bits), node (20 bits) and task number (40 bits), so that ties are compared at once.
KIND_SHIFT = np.uint64(60)
NODE_SHIFT = np.uint64(40)
NODE_MASK = np.uint64(2**20 - 1)
NUMBER_MASK = np.uint64(2**40 - 1)
MAX_NODES = 2**20


@kernel
def event_key(kind, node, number):
    """Return the 64-bit key that orders events at equal times."""
    return (np.uint64(kind) << KIND_SHIFT) | (np.uint64(node) << NODE_SHIFT) | (np.uint64(number) & NUMBER_MASK)


@kernel
def push(environment, time_s, key, slot):
    """Add an event. The caller has made sure of the room (see `events.has_room`)."""
    heap = environment.heap
    hole = environment.episode[0].heap_size
    environment.episode[0].heap_size = hole + 1
    while hole > 0:
        parent = (hole - 1) >> 1
        above = heap[parent]
        if time_s > above.time_s or (time_s == above.time_s and key >= above.key):
            break
        below = heap[hole]
        below.time_s = above.time_s
        below.key = above.key
        below.slot = above.slot
        hole = parent
    place = heap[hole]
    place.time_s = time_s
    place.key = key
    place.slot = slot


@kernel
def pop(environment):
    """Remove the first event; the caller has read it from `heap[0]`."""
    heap = environment.heap
    size = environment.episode[0].heap_size - 1
    environment.episode[0].heap_size = size
    last = heap[size]
    time_s = last.time_s
    key = last.key
    slot = last.slot
    hole = 0
    child = 1
    while child < size:
        here = heap[child]
        if child + 1 < size:
            other = heap[child + 1]
            if other.time_s < here.time_s or (other.time_s == here.time_s and other.key < here.key):
                child += 1
                here = other
        if time_s < here.time_s or (time_s == here.time_s and key <= here.key):
            break
        place = heap[hole]
        place.time_s = here.time_s
        place.key = here.key
        place.slot = here.slot
        hole = child
        child = 2 * hole + 1
    place = heap[hole]
    place.time_s = time_s
    place.key = key
    place.slot = slot
