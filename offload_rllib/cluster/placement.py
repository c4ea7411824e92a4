"""How many processes fit on the nodes of a cluster, and how many CPUs each of them reserves."""

from __future__ import annotations

from collections.abc import Sequence

from offload_rllib.config import ConfigError

# The trainer sleeps while runners sample, so it is not given a core of its own.
TRAINER_CPUS = 0.5
SMALLEST_RUNNER_CPUS = 0.1
# Of a node's own resource, of which it has 1: who asks for any of it is placed there.
NODE_SHARE = 0.001


def places(share: float, nodes: Sequence[float]) -> int:
    """Return how many processes with a share of CPUs fit in addition to the trainer, which is on the first node.

    Args:
        share: CPUs of each process.
        nodes: CPUs of each node.
    """
    first, *others = nodes
    # Shares have two digits; binary fractions may miss a place that is there.
    return sum(int(round(cpus / share, 6)) for cpus in (max(first - TRAINER_CPUS, 0.0), *others))


def cpus_per_runner(runners: int, nodes: Sequence[float]) -> float:
    """Return the share of the CPUs that each runner reserves: equal, at most 1, and such that all fit at once.

    Args:
        runners: processes that sample or learn.
        nodes: CPUs of each node, the trainer's first. A process cannot reserve parts of two.

    Raises:
        ConfigError: there are more runners than the nodes can hold.
    """
    if runners == 0:
        return 1.0
    # The share that just fits k times on some node, for any k, is among these.
    room = set(nodes) | {max(nodes[0] - TRAINER_CPUS, SMALLEST_RUNNER_CPUS)}
    shares = {int(min(cpus / k, 1.0) * 100) / 100 for cpus in room for k in range(1, runners + 1)}
    for share in sorted(shares, reverse=True):
        if share >= SMALLEST_RUNNER_CPUS and places(share, nodes) >= runners:
            return share
    raise ConfigError(
        f"training.runners: {runners} processes and the trainer do not fit on {sum(nodes):g} CPUs ({len(nodes)} nodes)"
    )
