"""The environment for PettingZoo: all agents observe, then all act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from offload_rllib.config import EnvironmentConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.pettingzoo_face import Observation, PettingZooFace
from offload_rllib.envs.spaces import ACTION_MASK, FIGURES


class OffloadParallelEnv(PettingZooFace, ParallelEnv[str, Observation, Any]):
    """Nodes of an edge network decide, again and again, where the tasks that reach them are processed.

    ## Description
    Clients create tasks at nodes. A task that enters a node with an agent is decided: the agent keeps it or sends it to
    a neighbour (with `decisions.destinations: routed` to a node within reach). There it may be offered once more, until
    it has made `decisions.max_hops` hops. The result travels back the way the task came. `agents` in the configuration
    says which nodes are agents; the others follow a rule. The model is in `docs/simulator.md`.

    With `decisions.when: interval` all agents act at a time, every `decisions.interval_s`; a task is held, unserved,
    until the node's next decision. With `when: arrival` a task is decided at the moment at which it arrives, and a step
    goes to the next such moment: one agent decides (`deciding_agent`), all others may only choose 0, and what they
    give is left unread.

    ## Action space
    `Discrete(R)` for every agent, R = 1 + the largest number of destinations of an agent. 0: this node processes the
    task. k: send it to destination k, in the order of node indices (`destinations`). With nothing on offer only 0 is
    valid. An action that is not valid acts as 0 and is counted, or raises with `decisions.strict`. At a node without a
    processor 0 is not valid for a task, and the first valid action acts in its place; row 0 is zeros there. A
    destination without one stands for the processor that it leads to the soonest; its speed and wait are 0.

    ## Observation space
    `Dict(observation=Box(-1, 1, (F,), float32), action_mask=Box(0, 1, (R,), int8))`, F = 6 + 12 R. The mask is 1
    where an action is valid. All numbers are scaled: s(x, h) = x / (|x| + h), so that h shows as 0.5. tau is a
    quarter of the mean deadline, or four mean services without deadlines, at least one decision interval.

    | index | name | meaning | from unit | range |
    |---|---|---|---|---|
    | 0 | self.held | s(tasks held, 2) | tasks | [0, 1) |
    | 1 | self.awaited | s(tasks made here whose result the node still waits for, 8) | tasks | [0, 1) |
    | 2 | self.client | 1 if a client is here | - | {0, 1} |
    | 3 | self.degree | s(neighbours, 4) | nodes | (0, 1) |
    | 4 | task.offered | 1 if a task is on offer; otherwise 5 to 10 are 0 | - | {0, 1} |
    | 5 | task.work | s(instructions, tau x mean speed of a node) | instructions | [0, 1) |
    | 6 | task.bits_in | s(input size, mean size) | bit | [0, 1) |
    | 7 | task.bits_out | s(output size, mean size) | bit | [0, 1) |
    | 8 | task.time_left | s(time to the deadline, tau), 1 without deadlines | s | (-1, 1] |
    | 9 | task.age | s(time since creation, tau) | s | [0, 1) |
    | 10 | task.hops | hops made / `max_hops` | - | [0, 1) |
    | 11 | row_0.wait | s(time until a server here is free for the task, tau) | s | [0, 1) |
    | 12 | row_0.service | s(time of service here, tau) | s | [0, 1) |
    | 13 | row_0.return | s(time of the result to the origin, tau) | s | [0, 1) |
    | 14 | row_0.finish | s(wait + service + return, tau) | s | [0, 1) |
    | 15 | row_0.slack | s(time to the deadline - finish, tau), 1 without deadlines | s | (-1, 1] |
    | 16 | row_0.tasks | tasks here without the one on offer / capacity; s(., 4) if unbounded | tasks | [0, 1] |
    | 17 | row_0.speed | speed / fastest node's speed | instructions/s | [0, 1] |

    Then, for each action k from 1 on, 12 numbers from index 6 + 12 k (all 0 where there is no destination):

    | offset | name | meaning | from unit | range |
    |---|---|---|---|---|
    | 0 | valid | 1 if the action is valid | - | {0, 1} |
    | 1 | wait | s(time until a server there is free, behind the tasks known and sent there, tau) | s | [0, 1) |
    | 2 | service | s(time of service there, tau) | s | [0, 1) |
    | 3 | transfer | s(time to get there, tau) | s | [0, 1) |
    | 4 | return | s(time of the result to the origin, tau) | s | [0, 1) |
    | 5 | finish | s(max(transfer, wait) + service + return, tau) | s | [0, 1) |
    | 6 | slack | s(time to the deadline - finish, tau), 1 without deadlines | s | (-1, 1] |
    | 7 | tasks | tasks known and sent there / capacity; s(., 4) if unbounded | tasks | [0, 1] |
    | 8 | information_age | s(age of the last broadcast, tau) | s | [0, 1) |
    | 9 | sent | s(tasks sent there that the last broadcast does not count, 2) | tasks | [0, 1) |
    | 10 | speed | speed there / fastest node's speed | instructions/s | [0, 1] |
    | 11 | offers_again | 1 if the task would be offered once more there | - | {0, 1} |

    What concerns the task is 0 with nothing on offer: 12 to 15, and of every row service to slack. What is known of a
    neighbour is its last broadcast that has arrived. Waits are net of work that will expire before it is served.

    Where nodes fail (`failures`), every row has one more number at its end, `row_k.alive`: 1 if the destination of
    action k was up, as last broadcast (a broadcast that fails to come shows that it is down). It is 0 if not or if
    there is none; k = 0 is the node itself. A node that is down has nothing on offer.

    Where agents can reject tasks (`decisions.reject`), action R - 1 does, for all of them. Every row from 1 on has one
    more number at its end, `row_k.rejects`: 1 in the row of that action, 0 in all others. In that row `finish` is
    s(what rejecting costs: the score of the drop - the age of the task, tau), `slack` follows from it, `valid` is as
    everywhere, and the rest is 0.

    Where the reward has a term for energy or price (`reward.energy_weight`, `reward.price_weight`), every row has one
    more number at its end. `row_k.charge` is s(what action k is expected to take off the reward by that term, tau): for
    the service, the way there, and the way back to here. It is 0 with nothing on offer.

    Where the objectives of the reward have weights (`reward.weights`), the block `self` ends with those of the episode:
    `self.weight_response`, `self.weight_drops`, `self.weight_energy`, `self.weight_price`, as far as the reward has
    such terms. They are at least 0 and sum to 1. In place of `row_k.charge` there are then `row_k.charge_energy` and
    `row_k.charge_price`, each at weight 1.

    Where services may begin with a set-up (`setup`), every row has one more number, its last, `row_k.warm`: 1 if the
    destination of action k holds the type of the task, as last broadcast; k = 0 is the node itself. It is 0 with
    nothing on offer.

    Where the load follows the time (`workload.arrivals` of kind `diurnal`, `zigzag`, `linear` or `table`, and clients
    without phases of their own), `self.clock_sin` and `self.clock_cos`, in [-1, 1], follow `self.degree`: sine and
    cosine of an angle. The angle grows by 2 pi in a period, or by pi in an episode whose rates do not repeat.

    That is `observe: full`. `paper` and lists of groups show some of these numbers, in the same order, and a function
    may show others; see `docs/observation.md`. `ObservationLayout` (`vector_env(...).layout`) says what is where.

    With `decisions.tasks_per_decision` k > 1 the action space is `MultiDiscrete([R] * k)`, an action for each of the k
    tasks held longest, and the mask is a tuple of k arrays. From index 4 on the observation repeats the numbers of a
    task and its R rows k times, for F = 4 + k (2 + 12 R). An estimate of one task does not count the others on offer.

    ## State
    `state()` is what all agents observe, one after the other: [A F] float32 in `state_space`, for critics that see
    everything while they learn.

    ## Rewards
    `reward.name` and `reward.scope` in the configuration: `delay` (default), `sparse`, `paper`, `peersimgym` or a
    function, with `reward.shaping` on top; see `docs/rewards.md`.

    ## Starting state
    An empty network at time 0. The phases of the broadcasts and the workload follow from the seed; the workload does
    not depend on what agents do. `reset(seed=...)` starts a series of episodes, `reset()` continues it. Environments
    that are never seeded are numbered (`envs.series.EpisodeSeries`), and no two of a program play the same episodes.

    ## Episode end
    Truncation of all agents at `horizon_s`, with a last observation and reward; never termination. Every agent is
    there for the whole episode.

    ## Info
    At the truncation, `info["figures"]` of every agent holds the episode's figures (`simulator.metrics.summary`).
    """

    # PettingZoo declares it per instance, and gives it per class.
    metadata: ClassVar[dict[str, Any]] = PettingZooFace.metadata | {  # pyright: ignore[reportIncompatibleVariableOverride]
        "is_parallelizable": True
    }

    @cached_property
    def state_space(self) -> spaces.Box:  # pyright: ignore[reportIncompatibleVariableOverride] - PettingZoo assigns it
        """The space of `state()`."""
        low, high = self._batch.observation_bounds
        return spaces.Box(low, high, (len(self.possible_agents) * self._batch.observation_size,), np.float32)

    @property
    def steps_per_episode(self) -> int | None:
        """Steps until the truncation; None with `decisions.when: arrival`, where episodes differ."""
        return self._batch.steps_per_episode

    def destinations(self, agent: str) -> list[str]:
        """Return the node that each valid action of an agent leads to in this episode, itself first."""
        return self._batch.destinations_of(0, self._batch.agents.index(agent))

    def start_series(self, seed: int, *, worker: int = 0, environment: int = 0, first_episode: int = 0) -> None:
        """Let the next `reset` begin a series of episodes.

        Args:
            seed: at least 0.
            worker: part of the series' address, for environments in processes in parallel.
            environment: the same, for environments in one process.
            first_episode: where in the series to begin, for runs that are resumed.
        """
        self._series.start(seed, worker, environment, first_episode)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Start an episode. A seed starts its series of episodes; without one the series continues.

        Args:
            seed: at least 0.
            options: none are known; for the interface.
        """
        if seed is not None:
            self.start_series(seed)
        self.agents = list(self.possible_agents)
        self.begin_episode()
        return self._observations(), {agent: {} for agent in self.agents}

    def begin_episode(self) -> None:
        """Start the next episode of the series."""
        self._series.begin_episode(self._batch)
        self._renderer.show()

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Let every agent act; an agent without an action takes 0.

        Returns:
            Observations, rewards, terminations, truncations and infos by agent, as PettingZoo has them.

        Raises:
            ValueError: an action that is not valid, in a strict environment.
            RuntimeError: the episode has ended, or none has begun.
        """
        agents = self.possible_agents
        truncated = self.carry_out(actions)
        rewards = dict(zip(agents, self.step_rewards().tolist(), strict=True))
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in agents}
        if truncated:
            self.agents = []
            figures = self._batch.episode_metrics(0)
            infos = {agent: {FIGURES: figures} for agent in agents}
        return (
            self._observations(),
            rewards,
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def carry_out(self, actions: Mapping[str, Any]) -> bool:
        """Carry out the agents' actions, as `step`, and say no more than whether the episode has ended."""
        batch = self._batch
        if isinstance(batch, ArrivalEnv):
            return self.decide(actions.get(self.possible_agents[batch.deciding[0]], 0))
        chosen = np.zeros((1, *batch.masks.shape[1:-1]), np.int32)
        for i, agent in enumerate(self.possible_agents):
            chosen[0, i] = actions.get(agent, 0)
        ended = batch.step(chosen)
        self._renderer.show()
        return ended

    @property
    def deciding_agent(self) -> str | None:
        """The agent that decides now; None at the end of the episode, and with `decisions.when: interval`."""
        if not isinstance(self._batch, ArrivalEnv):
            return None
        index = int(self._batch.deciding[0])
        return self.possible_agents[index] if index >= 0 else None

    def decide(self, action: int) -> bool:
        """With `decisions.when: arrival`, carry out an action of the agent that decides; return whether all has ended.

        Raises:
            ValueError: an action that is not valid, in a strict environment.
            RuntimeError: the episode has ended, or none has begun.
        """
        ended = self._batch.step(np.array([action]))
        self._renderer.show()
        return ended

    def step_rewards(self) -> np.ndarray:
        """Return what all agents have earned in the last step [A] float32; to be asked once after each step."""
        if isinstance(self._batch, ArrivalEnv):
            return self._batch.step_rewards(0, len(self.possible_agents))
        return self._batch.rewards[0]

    def observe_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what all agents observe, [A, F] float32 and [A, R] or [A, k, R] int8.

        These are copies: the batch overwrites its arrays, and callers keep observations.
        """
        if isinstance(self._batch, ArrivalEnv):
            return self._batch.observe_all(0)
        return self._batch.observations[0].copy(), self._batch.masks[0].copy()

    def _observations(self) -> dict[str, Observation]:
        seen, masks = self.observe_all()
        several = self._batch.tasks_per_decision > 1
        return {
            agent: {self.observation_key: seen[i], ACTION_MASK: tuple(masks[i]) if several else masks[i]}
            for i, agent in enumerate(self.possible_agents)
        }

    def state(self) -> np.ndarray:
        """Return what all agents observe, in the order of `possible_agents`: [A F] float32."""
        return self.observe_all()[0].reshape(-1)


def parallel_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    render_mode: str | None = None,
    trust: bool = False,
) -> OffloadParallelEnv:
    """Return the PettingZoo environment; arguments and errors as `OffloadParallelEnv`."""
    return OffloadParallelEnv(env, overrides=overrides, render_mode=render_mode, trust=trust)
