"""Fragments from RLlib's episodes and back: what RLlib's runner samples, and what RLlib's own learners take."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from offload_rllib.rollout.fragment import Fragment


def fragments_of(agents: Iterable[SingleAgentEpisode], episode_id: str) -> list[Fragment]:
    """Return one fragment per policy of a piece of an episode, as seen by all agents; E is 1."""
    by_module: dict[str, list[SingleAgentEpisode]] = {}
    for agent in agents:
        by_module.setdefault(agent.module_id, []).append(agent)
    fragments = []
    for module_id, members in by_module.items():
        seen = [agent.get_observations() for agent in members]
        observations = np.stack([np.asarray(s["observations"]) for s in seen], 1)[:, None]
        masks = np.stack([np.asarray(s["action_mask"]) for s in seen], 1)[:, None]
        steps = len(observations) - 1
        ended = members[0].is_truncated
        truncated = np.zeros((steps, 1), np.bool_)
        truncated[-1:] = ended
        has_choice = masks[:-1].sum(-1, dtype=np.int32) > 1
        logp = np.stack([np.asarray(agent.get_extra_model_outputs(Columns.ACTION_LOGP)) for agent in members], 1)
        fragments.append(
            Fragment(
                module_id=module_id,
                agents=tuple(agent.agent_id for agent in members),
                observations=observations,
                masks=masks,
                actions=np.stack([np.asarray(agent.get_actions(), np.int32) for agent in members], 1)[:, None],
                log_probabilities=np.where(has_choice, logp[:, None], 0.0).astype(np.float32),
                rewards=np.stack([np.asarray(agent.get_rewards(), np.float32) for agent in members], 1)[:, None],
                truncated=truncated,
                final_observations=observations[-1] if ended else observations[:0, 0],
                final_masks=masks[-1] if ended else masks[:0, 0],
                source=f"episode {episode_id}",
                start=members[0].t_started,
            )
        )
    return fragments


def as_fragments(sampled: Iterable[Fragment | MultiAgentEpisode | SingleAgentEpisode]) -> list[Fragment]:
    """Return what a runner sampled as fragments, whichever runner it was."""
    fragments: list[Fragment] = []
    # Agents' own episodes come in a flat list; those of one piece of an episode belong together.
    pieces: dict[tuple[str, int], list[SingleAgentEpisode]] = {}
    for piece in sampled:
        if isinstance(piece, Fragment):
            fragments.append(piece)
        elif isinstance(piece, MultiAgentEpisode):
            fragments += fragments_of(piece.agent_episodes.values(), piece.id_)
        else:
            pieces.setdefault((piece.multi_agent_episode_id, piece.t_started), []).append(piece)
    for (episode_id, _), agents in pieces.items():
        fragments += fragments_of(agents, episode_id)
    return fragments


def episodes_of(
    fragment: Fragment, played: Sequence[Sequence[str]], steps_before: np.ndarray
) -> list[SingleAgentEpisode]:
    """Return a flat list of RLlib's episodes: one for each environment, agent and piece of an episode.

    RLlib's learners take such lists. The data are views of the fragment's arrays, except where an episode ended: its
    last observation stands elsewhere.

    Args:
        fragment: of E environments.
        played: for each of the E environments, the ids of its episodes in order.
        steps_before: [E] int, steps that the first of them had before the fragment.
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
            episodes += [_piece(fragment, e, a, first, last, final, name, t_started) for a in agents]
            first, t_started = last, 0
    return episodes


def _piece(
    fragment: Fragment, e: int, a: int, first: int, last: int, final: int | None, episode: str, t_started: int
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
    return SingleAgentEpisode(
        id_=f"{episode}-{fragment.agents[a]}",
        agent_id=fragment.agents[a],
        module_id=fragment.module_id,
        multi_agent_episode_id=episode,
        observations=InfiniteLookbackBuffer(seen),
        infos=InfiniteLookbackBuffer([{}] * (last - first + 1)),
        actions=InfiniteLookbackBuffer(fragment.actions[here, e, a]),
        rewards=InfiniteLookbackBuffer(fragment.rewards[here, e, a]),
        extra_model_outputs={Columns.ACTION_LOGP: InfiniteLookbackBuffer(fragment.log_probabilities[here, e, a])},
        truncated=final is not None,
        t_started=t_started,
        len_lookback_buffer=0,
    )
