"""What an environment looks like at a moment: a table of its nodes, or a picture of its network.

Both show the true state. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.simulator.types import UNBOUNDED, Array

RENDER_MODES = ("human", "ansi", "rgb_array")
FRAMES_PER_SECOND = 4
# Moves a terminal's cursor to the upper left corner and clears what is below.
CLEAR = "\x1b[H\x1b[J"
LARGEST_LABELLED = 40
PICTURE_INCHES = (7.0, 6.0)
PICTURE_DPI = 80
# Of nodes in a picture, as a share of its width.
SPACING = 0.085
SPREADING_ROUNDS = 60


def check_render_mode(mode: str | None) -> str | None:
    """Return a render mode if it is one of `RENDER_MODES` or None.

    Raises:
        ConfigError: it is another.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise ConfigError(f"render_mode: '{mode}' is not offered. Accepted: {', '.join(RENDER_MODES)}, None.")
    return mode


def queue_fill(env: VectorEnv | ArrivalEnv, e: int = 0) -> Array:
    """Return the filled share [N] of every queue of environment `e`; of an unbounded one, tasks / (tasks + 4)."""
    tasks = env.state.node[e]["tasks"].astype(float)
    capacity = env.scenario_of(e).arrays.node["capacity"]
    return np.where(capacity == UNBOUNDED, tasks / (tasks + 4.0), np.minimum(tasks / capacity, 1.0))


def _on_the_way(env: VectorEnv | ArrivalEnv, e: int) -> Array:
    """Return the tasks [M] on every directed link of environment `e`."""
    link = env.state.link[e][: len(env.scenario_of(e).arrays.link)]  # behind them there may be padding
    return link["sent"] - link["arrived"]


def _headline(env: VectorEnv | ArrivalEnv, e: int) -> str:
    episode = env.state.episode[e]
    dropped = sum(int(episode[name]) for name in episode.dtype.names if name.startswith("dropped_"))
    steps = env.steps_per_episode
    done = f"decision {episode['step']}" if steps is None else f"step {episode['step']} of {steps}"
    made, finished = int(episode["tasks_made"]), int(episode["finished"])
    return (
        f"{episode['now_s']:g} s, {done}: {made} tasks made, "
        f"{finished} finished, {dropped} dropped, {made - finished - dropped} inside"
    )


def _rewards(env: VectorEnv | ArrivalEnv, e: int) -> dict[str, str]:
    """Return the latest reward of each agent; where one decides at a time, only that of the deciding agent."""
    if isinstance(env, ArrivalEnv):
        deciding = env.deciding[e]
        return {agent: f"{env.rewards[e]:.3f}" if i == deciding else "" for i, agent in enumerate(env.agents)}
    return {agent: f"{reward:.3f}" for agent, reward in zip(env.agents, env.rewards[e].tolist(), strict=True)}


def table(env: VectorEnv | ArrivalEnv, e: int = 0) -> str:
    """Return a table of environment `e`, one line per node.

    Columns: name; agent, rule (decides by `agents.others`) or - (never decides); tasks held, waiting and in service;
    all of them over the capacity; seconds that one more task would wait; tasks on their way from here; reward.
    """
    scenario = env.scenario_of(e)
    arrays, node = scenario.arrays, env.state.node[e]
    sent = np.bincount(arrays.link["source"], weights=_on_the_way(env, e), minlength=len(node))
    wait_s = env.waits(e)
    rewards = _rewards(env, e)
    others = set(scenario.others)
    names = [described.name for described in scenario.network.nodes]
    rows = [("node", "decides", "held", "waiting", "served", "tasks", "wait, s", "sent", "reward")]
    for n, name in enumerate(names):
        here = node[n]
        capacity = int(arrays.node[n]["capacity"])
        rows.append(
            (
                name,
                "agent" if name in rewards else "rule" if name in others else "-",
                str(here["held"]),
                str(here["tasks"] - here["held"] - here["busy"]),
                str(here["busy"]),
                f"{here['tasks']}/{'inf' if capacity == UNBOUNDED else capacity}",
                f"{wait_s[n]:.1f}",
                f"{sent[n]:.0f}",
                rewards.get(name, "-"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([_headline(env, e), *lines])


def spread(positions: Array) -> Array:
    """Return positions [N, 2] in the unit square, moved apart where nodes would cover each other."""
    extent = np.ptp(positions, axis=0).max()
    places = (positions - positions.min(axis=0)) / (extent or 1.0)
    # Nodes at the same place are distinguished by their index.
    angle = np.arange(len(places)) * 2.4
    places = places + 1e-3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    smallest = min(SPACING, 0.7 / np.sqrt(len(places)))
    for _ in range(SPREADING_ROUNDS):
        between = places[:, None] - places[None]
        distance = np.linalg.norm(between, axis=-1) + np.eye(len(places))
        push = np.maximum(smallest - distance, 0.0) / 2
        places += (between / distance[..., None] * push[..., None]).sum(axis=1)
    return places


class NetworkPicture:
    """Draws environment `e` again and again: what does not change in an episode is drawn once.

    Colour: filled share of a node's queue. Area: the logarithm of its speed. Rim: black with a client. Number: its
    tasks. Links are dark while tasks travel on them. Nodes that would cover each other are moved apart.
    """

    def __init__(self, env: VectorEnv | ArrivalEnv, e: int = 0) -> None:
        """Lay the picture out."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - only pictures need matplotlib
        from matplotlib.collections import LineCollection  # noqa: PLC0415 - the same
        from matplotlib.figure import Figure  # noqa: PLC0415 - the same

        self._env = env
        self._e = e
        self.scenario = env.scenario_of(e)
        network, arrays = self.scenario.network, self.scenario.arrays
        positions = spread(np.array([node.position_m for node in network.nodes], float))
        self._figure = Figure(figsize=PICTURE_INCHES, dpi=PICTURE_DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        axis = self._figure.add_axes((0.03, 0.03, 0.84, 0.88))
        both_ways = {(a, b): i for i, (a, b) in enumerate(network.links)}
        # What is on a path is drawn on all of its links.
        ways = [[i] for i in range(2 * len(network.links))] + [way.tolist() for way in self.scenario.ways]
        self._path = np.repeat(np.arange(len(ways)), [len(way) for way in ways])
        ends = np.sort([[arrays.link[i]["source"], arrays.link[i]["destination"]] for way in ways for i in way], axis=1)
        self._undirected = np.array([both_ways[a, b] for a, b in ends.tolist()], np.int64)
        self._links = LineCollection([positions[[a, b]] for a, b in network.links], zorder=1)
        axis.add_collection(self._links)
        speeds = np.array([node.speed for node in network.nodes])
        speeds = np.maximum(speeds, speeds[speeds > 0].min())  # nodes without a processor are drawn as the slowest
        small = len(speeds) <= LARGEST_LABELLED
        self._nodes = axis.scatter(
            *positions.T,
            s=(160 if small else 30) * (1 + np.log10(speeds / speeds.min())),
            c=np.zeros(len(speeds)),
            cmap="YlOrRd",
            vmin=0.0,
            vmax=1.25,  # full is red, and its number can still be read
            edgecolors=["black" if node.client else "0.6" for node in network.nodes],
            linewidths=[1.6 if node.client else 0.8 for node in network.nodes],
            zorder=2,
        )
        self._counts: list[Any] = []
        if small:
            for node, (x, y) in zip(network.nodes, positions, strict=True):
                self._counts.append(axis.text(x, y, "0", ha="center", va="center", fontsize=7, zorder=4))
                axis.annotate(
                    node.name, (x, y), xytext=(0, -10), textcoords="offset points", ha="center", va="top", fontsize=7
                )
        axis.margins(0.1)
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xticks([])
        axis.set_yticks([])
        self._title = axis.set_title("", fontsize=8)
        bar = self._figure.colorbar(self._nodes, cax=self._figure.add_axes((0.89, 0.1, 0.02, 0.75)))
        bar.ax.set_ylim(0.0, 1.0)
        bar.set_label("filled share of the queue", fontsize=8)
        bar.ax.tick_params(labelsize=7)

    def draw(self) -> Array:
        """Return the picture [height, width, 3] uint8."""
        env, e = self._env, self._e
        self._nodes.set_array(queue_fill(env, e))
        on_the_way = _on_the_way(env, e)[self._path]
        busy = np.bincount(self._undirected, weights=on_the_way, minlength=len(self.scenario.network.links))
        self._links.set_color(["0.2" if tasks else "0.8" for tasks in busy])
        self._links.set_linewidth(np.where(busy > 0, 1.0 + np.log2(1.0 + busy), 0.8).tolist())
        for text, tasks in zip(self._counts, env.state.node[e]["tasks"], strict=False):
            text.set_text(str(tasks))
        self._title.set_text(_headline(env, e))
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


class Renderer:
    """Renders a batch's first environment in one mode."""

    def __init__(self, env: VectorEnv | ArrivalEnv, mode: str | None) -> None:
        """Check the mode; nothing is drawn yet.

        Raises:
            ConfigError: the mode is not offered.
        """
        self._env = env
        self._mode = check_render_mode(mode)
        self._picture: NetworkPicture | None = None
        self._next_frame_s = 0.0

    def show(self) -> None:
        """Write the table to standard output, if the mode is `human`; after every reset and step.

        A terminal is drawn over, `FRAMES_PER_SECOND` times a second at most; anything else gets one table after the
        other.
        """
        if self._mode != "human":
            return
        if not sys.stdout.isatty():
            sys.stdout.write(table(self._env) + "\n\n")
            return
        time.sleep(max(self._next_frame_s - time.monotonic(), 0.0))
        self._next_frame_s = time.monotonic() + 1 / FRAMES_PER_SECOND
        sys.stdout.write(CLEAR + table(self._env) + "\n")
        sys.stdout.flush()

    def render(self) -> str | Array | None:
        """Return the table (`ansi`), the picture (`rgb_array`), or nothing (no mode, and `human`: see `show`)."""
        if self._mode == "ansi":
            return table(self._env)
        if self._mode == "rgb_array":
            # An episode may have a network of its own.
            if self._picture is None or self._picture.scenario is not self._env.scenario_of(0):
                self._picture = NetworkPicture(self._env)
            return self._picture.draw()
        return None
