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
def _rise(heap, hole, time_s, key, slot):
    """Move events down from above an empty place until an event fits there, and put it in."""
    while hole > 0:
        parent = (hole - 1) >> 1
        above = heap[parent]
        if time_s > above.time_s or (time_s == above.time_s and key >= above.key):
            break
        place = heap[hole]
        place.time_s = above.time_s
        place.key = above.key
        place.slot = above.slot
        hole = parent
    place = heap[hole]
    place.time_s = time_s
    place.key = key
    place.slot = slot


@kernel
def push(environment, time_s, key, slot):
    """Add an event. The caller has made sure of the room (see `loop.has_room`)."""
    size = environment.episode[0].heap_size
    environment.episode[0].heap_size = size + 1
    _rise(environment.heap, size, time_s, key, slot)


@kernel
def replace_first(environment, time_s, key, slot):
    """Put an event in the place of the first one.

    The empty place sinks to a leaf along the smaller children and the event rises from there: almost always a step
    or none, so that the unpredictable comparisons are those between children, which need no branch.
    """
    heap = environment.heap
    size = environment.episode[0].heap_size
    hole = 0
    child = 2
    while child < size:
        right = heap[child]
        left = heap[child - 1]
        child -= (left.time_s < right.time_s) | ((left.time_s == right.time_s) & (left.key < right.key))
        below = heap[child]
        place = heap[hole]
        place.time_s = below.time_s
        place.key = below.key
        place.slot = below.slot
        hole = child
        child = 2 * hole + 2
    if child == size:
        below = heap[child - 1]
        place = heap[hole]
        place.time_s = below.time_s
        place.key = below.key
        place.slot = below.slot
        hole = child - 1
    _rise(heap, hole, time_s, key, slot)


@kernel
def pop(environment):
    """Remove the first event; the caller has read it from `heap[0]`."""
    size = environment.episode[0].heap_size - 1
    environment.episode[0].heap_size = size
    if size > 0:
        last = environment.heap[size]
        replace_first(environment, last.time_s, last.key, last.slot)
