"""Random lengths of time: latencies, times to failure and repair."""

from __future__ import annotations

import math

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import CONSTANT, LOGNORMAL, sample, stream, uniform


@kernel
def draw_duration(law, key, purpose, index):
    """Return draw `index` of a DURATION record in seconds.

    Args:
        law: CONSTANT a, EXPONENTIAL with mean a, UNIFORM on [a, b), or LOGNORMAL: b + c exp(a Z), Z standard normal.
        key: of a node or of a direction of a link in this episode.
        purpose: of the draw; the next number after it is taken too.
        index: of the draw.
    """
    if law.kind == CONSTANT:
        return law.a
    u = uniform(stream(key, purpose), index)
    if law.kind != LOGNORMAL:
        return sample(law.kind, law.a, law.b, u)
    # Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Statist. 29(2), 1958.
    angle = 2.0 * math.pi * uniform(stream(key, purpose + 1), index)
    return law.b + law.c * math.exp(law.a * math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(angle))
