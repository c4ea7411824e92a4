"""RLlib's own episodes from what the batched runner samples, for algorithms whose learners are RLlib's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from offload_rllib.envs.spaces import ELAPSED_S
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.simulator.types import Array


def episodes_of(
    fragment: Fragment, played: Sequence[Sequence[str]], steps_before: np.ndarray, weights: int
) -> list[SingleAgentEpisode]:
    """Return a flat list of RLlib's episodes: one for each environment, agent and piece of an episode.

    RLlib's learners take such lists. The data are views of the fragment's arrays, except where an episode ended: its
    last observation stands elsewhere.

    Args:
        fragment: of E environments.
        played: for each of the E environments, the ids of its episodes in order.
        steps_before: [E] int, steps that the first of them had before the fragment.
        weights: number of the weights that decided.
    """
    episodes = []
    finals = {(int(t), int(e)): k for k, (t, e) in enumerate(np.argwhere(fragment.truncated))}
    steps = len(fragment.actions)
    for e, names in enumerate(played):
        first, t_started = 0, int(steps_before[e])
        for name in names:
            ends = np.flatnonzero(fragment.truncated[first:, e])
            last = first + int(ends[0]) + 1 if len(ends) else steps
            if first == last:
                break
            final = finals.get((last - 1, e))
            agents = range(len(fragment.agents))
            episodes += [_piece(fragment, e, a, first, last, final, name, t_started, weights) for a in agents]
            first, t_started = last, 0
    return episodes


def _piece(
    fragment: Fragment,
    e: int,
    a: int,
    first: int,
    last: int,
    final: int | None,
    episode: str,
    t_started: int,
    weights: int,
) -> SingleAgentEpisode:
    seen = {"observations": fragment.observations, "action_mask": fragment.masks}
    if final is None:
        seen = {key: array[first : last + 1, e, a] for key, array in seen.items()}
    else:
        at_end = {"observations": fragment.final_observations, "action_mask": fragment.final_masks}
        seen = {
            key: np.concatenate([array[first:last, e, a], at_end[key][final, a][None]]) for key, array in seen.items()
        }
    here = slice(first, last)
    return _episode(
        episode,
        fragment.agents[a],
        fragment.module_id,
        seen,
        fragment.actions[here, e, a],
        fragment.rewards[here, e, a],
        fragment.log_probabilities[here, e, a],
        np.full(last - first, fragment.interval_s),
        weights,
        truncated=final is not None,
        t_started=t_started,
    )


def _episode(
    episode: str,
    agent: str,
    module_id: str,
    seen: dict[str, Array],
    actions: Array,
    rewards: Array,
    log_probabilities: Array,
    elapsed_s: Array,
    weights: int,
    *,
    truncated: bool,
    t_started: int = 0,
) -> SingleAgentEpisode:
    """Return a piece of an agent's episode of n steps; `seen` has n + 1 observations and masks, all else n rows."""
    return SingleAgentEpisode(
        id_=f"{episode}-{agent}",
        agent_id=agent,
        module_id=module_id,
        multi_agent_episode_id=episode,  # pyright: ignore[reportArgumentType] - any name will do
        observations=InfiniteLookbackBuffer(seen),  # pyright: ignore[reportArgumentType] - dictionaries, too
        infos=InfiniteLookbackBuffer([{}] * (len(actions) + 1)),
        actions=InfiniteLookbackBuffer(actions),
        rewards=InfiniteLookbackBuffer(rewards),
        extra_model_outputs={
            Columns.ACTION_LOGP: InfiniteLookbackBuffer(log_probabilities),
            ELAPSED_S: InfiniteLookbackBuffer(elapsed_s),
            WEIGHTS_SEQ_NO: InfiniteLookbackBuffer(np.full(len(actions), weights)),
        },
        truncated=truncated,
        t_started=t_started,
        len_lookback_buffer=0,
    )


def episodes_at_arrivals(steps: AgentSteps, weights: int) -> list[SingleAgentEpisode]:
    """Return a flat list of RLlib's episodes: one for each environment, agent and piece of an episode.

    Args:
        steps: with decisions at arrivals.
        weights: number of the weights that decided.
    """
    rows = len(steps)
    episodes = []
    begins = np.ones(rows, np.bool_)
    begins[steps.following[steps.following < rows]] = False
    for first in np.flatnonzero(begins).tolist():
        chain = [first]
        while steps.following[chain[-1]] < rows:
            chain.append(int(steps.following[chain[-1]]))
        closing = int(steps.following[chain[-1]]) - rows
        e, a = int(steps.environment[first]), steps.agents[int(steps.agent[first])]
        seen = {
            "observations": np.append(steps.observations[chain], steps.closing_observations[closing][None], 0),
            "action_mask": np.append(steps.masks[chain], steps.closing_masks[closing][None], 0),
        }
        episodes.append(
            _episode(
                f"{steps.source}-{steps.start}-{e}-{first}",
                a,
                steps.module_id,
                seen,
                steps.actions[chain],
                steps.rewards[chain],
                steps.log_probabilities[chain],
                steps.elapsed_s[chain],
                weights,
                truncated=bool(steps.ended[closing]),
            )
        )
    return episodes
