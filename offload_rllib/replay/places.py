"""Where a replay shows nodes: at the places of pictures of the network, and nodes that move where they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from offload_rllib.replay.record import Recording
from offload_rllib.reporting.network_picture import layout, moved_apart
from offload_rllib.scenario.network import Network
from offload_rllib.simulator.types import NONE, Array


def spread(network: Network) -> Array:
    """Return where the page shows each node [N, 2], 0 to 1: as in pictures of the network, with room between them."""
    positions, _ = layout(network)
    places = _scaled(positions, positions)
    return moved_apart(places, 0.75 / math.sqrt(len(positions)), 0.0, 1.0)


def _scaled(positions: Array, within: Array) -> Array:
    """Return positions [n, 2] relative to the smallest rectangle around others, 0 to 1."""
    low, size = within.min(axis=0), np.ptp(within, axis=0)
    places = (positions - low) / np.where(size > 0, size, 1.0)
    places[:, size == 0] = 0.5
    return places


class Places:
    """Places of the nodes of a recording, 0 to 1, over time.

    Where nodes move the places are to scale in each direction, and nodes may cover each other.

    Attributes:
        still: [N, 2], of nodes that do not move; of the others at the start.
        moving: indices of the nodes that do.
    """

    def __init__(self, recording: Recording) -> None:
        """Take the positions of a recording."""
        network, self._tracks = recording.scenario.network, recording.tracks
        self.moving = np.unique(self._tracks["node"]).tolist()
        if not self.moving:
            self.still = spread(network)
            return
        positions = np.array([node.position_m for node in network.nodes], float)
        moved = np.stack([self._tracks["x_m"], self._tracks["y_m"]], axis=1)
        stay = np.delete(positions, self.moving, axis=0)
        everywhere = np.concatenate([stay, moved])
        self.still = _scaled(positions, everywhere)
        self._moved = _scaled(moved, everywhere)
        for n in self.moving:
            self.still[n] = self._moved[self._tracks["node"] == n][0]

    def at(self, time_s: float) -> tuple[Array, Array]:
        """Return the places [N, 2] at a time, and the access point of each node [N], `NONE` of those that stay.

        A node is on a straight line between two times at which its position is known.
        """
        places, access = self.still.copy(), np.full(len(self.still), NONE)
        for n in self.moving:
            of_node = self._tracks["node"] == n
            times = self._tracks["time_s"][of_node]
            places[n] = [np.interp(time_s, times, self._moved[of_node, axis]) for axis in range(2)]
            last = max(int(np.searchsorted(times, time_s, side="right")) - 1, 0)
            access[n] = self._tracks["access"][of_node][last]
        return places, access

    def columns(self, until_s: float, unit_s: float, scale: int) -> list[dict[str, Any]]:
        """Return what a page reads of each node that moves: times in units, places in parts of `scale`, access points.

        Args:
            until_s: the last time that is shown.
            unit_s: of the times.
            scale: of the places, as whole numbers.
        """
        found = []
        for n in self.moving:
            kept = self._tracks["node"] == n
            count = int(np.searchsorted(self._tracks["time_s"][kept], until_s, side="right")) + 1
            rows, places = self._tracks[kept][:count], np.rint(scale * self._moved[kept][:count]).astype(int)
            found.append(
                {
                    "node": n,
                    "time": np.rint(rows["time_s"] / unit_s).astype(np.int64).tolist(),
                    "x": places[:, 0].tolist(),
                    "y": places[:, 1].tolist(),
                    "access": rows["access"].tolist(),
                }
            )
        return found


def is_linked(a: int, b: int, access: Array) -> bool:
    """Return whether two neighbours can send to each other, where nodes that move have one access point at a time."""
    return access[a] in (NONE, b) and access[b] in (NONE, a)
