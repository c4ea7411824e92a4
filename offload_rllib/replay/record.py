"""One held-out episode of a policy, played decision by decision: its task log, and which links each task took."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys
from offload_rllib.evaluation.evaluate import LARGEST_BATCH, one_torch_thread
from offload_rllib.evaluation.players import Contender
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import FREE, NONE, OFFER_NEWEST, Array

MOVE = np.dtype([("task", "i8"), ("link", "i4"), ("sent_s", "f8")], align=True)
STAGE = np.dtype([("stage", "i4"), ("since_s", "f8")], align=True)
TRACK = np.dtype([("node", "i4"), ("access", "i4"), ("time_s", "f8"), ("x_m", "f8"), ("y_m", "f8")], align=True)
# Positions of a node that moves that are kept of an episode, about.
POSITIONS = 300
OUTAGE = np.dtype([("node", "i4"), ("down", "i4"), ("time_s", "f8")], align=True)


@dataclass(frozen=True)
class Recording:
    """What one policy did in one episode."""

    policy: str
    scenario: BuiltScenario
    """Of the episode, whose network may be its own."""
    log: Array
    """[tasks] LOG, in the order of creation."""
    moves: Array
    """[moves] MOVE: every task that was seen to be sent over a link, in order of task and time. A decision of a node
    that is not an agent is not seen where tasks are decided at arrivals."""
    last: Array
    """[tasks] STAGE: where the tasks are that had not ended at the end; FREE for all others."""
    outages: Array
    """[changes] OUTAGE: nodes seen to go down and up, at the first decision behind it."""
    tracks: Array
    """[positions] TRACK: where nodes that move were, in order of time, and the access point of each then."""
    figures: dict[str, float]
    """Of the episode, as an evaluation reports them."""


def record(scenario: BuiltScenario, contender: Contender, *, seed: int, episode: int) -> Recording:
    """Let a policy play one held-out episode, the same that `evaluate` plays under that number.

    Args:
        scenario: where.
        contender: who.
        seed: of the held-out episodes.
        episode: its number, from 0.

    Raises:
        ConfigError: the policy does not fit the environment, or no task came.
    """
    env: NativeEnv = batch_of(scenario, 1, log=True)
    policy = contender.begin(env, seed + episode // LARGEST_BATCH)
    env.reset(held_out_keys(seed, episode + 1)[episode:])
    watch: _Watch = _ArrivalWatch(env) if isinstance(env, ArrivalEnv) else _ClockedWatch(env)
    with one_torch_thread():
        while not env.truncated.all():
            agents = env.deciding if isinstance(env, ArrivalEnv) else None
            actions = policy(env.observations, env.masks, agents=agents, deterministic=contender.deterministic)
            watch.before(actions)
            env.step(actions)
            watch.after()
    log = env.task_log(0)
    if len(log) == 0:
        raise ConfigError(
            f"--episode {episode}: no task came in it, so there is nothing to show: take another, raise workload.load, "
            "or raise horizon_s"
        )
    last = np.zeros(len(log), STAGE)
    inside = env.state.task[0][env.state.task[0]["stage"] != FREE]
    last["stage"][inside["number"]] = inside["stage"]
    last["since_s"][inside["number"]] = inside["since_s"]
    moves = np.array(watch.moves, MOVE)
    return Recording(
        contender.name,
        env.scenario_of(0),
        log,
        moves[np.argsort(moves["task"], kind="stable")],
        last,
        np.array(watch.outages, OUTAGE),
        np.array(watch.tracks, TRACK),
        env.episode_metrics(0),
    )


class _Watch:
    """Notes what each step changes, for environments of one episode."""

    def __init__(self, env: NativeEnv) -> None:
        self.env = env
        self.arrays = env.scenario_of(0).arrays
        self.moves: list[tuple[int, int, float]] = []
        self.outages: list[tuple[int, int, float]] = []
        self.tracks: list[tuple[int, int, float, float, float]] = []
        self._down = env.state.node[0]["down"].copy() if env.scenario.config.failures else None
        self._apart_s = env.scenario.config.horizon_s / POSITIONS
        self._note_positions()

    def before(self, actions: Array) -> None:
        """Note what is about to be decided."""

    def after(self) -> None:
        """Note what has happened."""
        self._note_positions()
        if self._down is None:
            return
        down = self.env.state.node[0]["down"]
        changed = np.flatnonzero(down != self._down)
        if len(changed):
            now_s = float(self.env.state.episode[0]["now_s"])
            self.outages += [(n, int(down[n]), now_s) for n in changed.tolist()]
            self._down = down.copy()

    def _note_positions(self) -> None:
        moving = self.arrays.moving
        if not len(moving):
            return
        state = self.env.state
        # Positions are looked at at every multiple of `update_s`, the first of which is 0.
        time_s = max(int(state.episode[0]["moves"]) - 1, 0) * float(self.arrays.movement[0]["update_s"])
        last_s = self.tracks[-1][2] if self.tracks else -math.inf
        apart_s = 0.0 if self.env.truncated[0] else self._apart_s
        if time_s <= last_s or time_s < last_s + apart_s:
            return
        for n, mover in zip(moving["node"].tolist(), state.moving[0], strict=True):
            access = int(self.arrays.link["destination"][mover["link"]])
            self.tracks.append((n, access, time_s, float(mover["x_m"]), float(mover["y_m"])))


class _ArrivalWatch(_Watch):
    """Where tasks are decided one by one: each decision says which task goes where."""

    def before(self, actions: Array) -> None:
        env = self.env
        agent, action = int(env.deciding[0]), int(actions[0])  # pyright: ignore[reportAttributeAccessIssue]
        if action <= 0 or action >= env.num_actions or not env.masks[0, action]:
            return  # it stays
        if self.arrays.destination[agent, action] == NONE:
            return  # it is rejected
        node = env.state.node[0][self.arrays.agent_node[agent]]
        newest = self.arrays.settings[0]["offer"] == OFFER_NEWEST
        slot = node["held_tail"] if newest else node["held_head"]
        number = int(env.state.task[0][slot]["number"])
        link = env.present_destination(0, agent, action)
        self.moves.append((number, link, float(env.state.episode[0]["now_s"])))


class _ClockedWatch(_Watch):
    """Where all decide at once: every link that a task has taken behind a step was decided at its start."""

    def __init__(self, env: NativeEnv) -> None:
        super().__init__(env)
        self._number = np.full(0, NONE, np.int64)
        self._hops = np.zeros(0, np.int32)
        self._sent: list[tuple[int, int, int]] = []  # slot, task and link of what agents are about to send
        self._started_s = 0.0
        self._look()

    def before(self, actions: Array) -> None:
        env = self.env
        self._started_s = float(env.state.episode[0]["now_s"])
        count, turns = len(env.agents), env.tasks_per_decision
        chosen = np.asarray(actions).reshape(count, turns)
        valid = (
            np.take_along_axis(env.masks.reshape(count, turns, -1), np.maximum(chosen, 0)[..., None], -1)[..., 0] == 1
        )
        newest = self.arrays.settings[0]["offer"] == OFFER_NEWEST
        first, following = ("held_tail", "held_previous") if newest else ("held_head", "held_next")
        task, node = env.state.task[0], env.state.node[0]
        self._sent = []
        for agent in np.flatnonzero(((chosen > 0) & valid).any(axis=1)).tolist():
            slot = node[self.arrays.agent_node[agent]][first]
            for turn in range(turns):
                if slot == NONE:
                    break
                link = env.present_destination(0, agent, int(chosen[agent, turn]))
                if chosen[agent, turn] > 0 and valid[agent, turn] and link != NONE:
                    self._sent.append((int(slot), int(task[slot]["number"]), link))
                slot = task[slot][following]

    def after(self) -> None:
        super().after()
        self._look()
        # Of a task that has ended meanwhile, and whose slot holds another one, there is no more than the decision.
        reused = [(number, link) for slot, number, link in self._sent if self._number[slot] != number]
        self.moves += [(number, link, self._started_s) for number, link in reused]

    def _look(self) -> None:
        task, path = self.env.state.task[0], self.env.state.path[0]
        number, hops = task["number"].copy(), task["hops"].copy()
        grown = len(number) - len(self._number)
        if grown:
            self._number = np.concatenate([self._number, np.full(grown, NONE, np.int64)])
            self._hops = np.concatenate([self._hops, np.zeros(grown, np.int32)])
        before = np.where(self._number == number, self._hops, 0)
        for slot in np.flatnonzero(hops > before).tolist():
            self.moves.append((int(number[slot]), int(path[slot, hops[slot] - 1]), self._started_s))
        self._number, self._hops = number, hops
