"""From what a runner samples to agents' steps, and from fragments to the episodes that RLlib's own learners take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from offload_rllib.envs.spaces import ELAPSED_S, INTERVAL_S
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.fragment import Fragment


def fragments_of(agents: Iterable[SingleAgentEpisode], episode_id: str) -> list[Fragment]:
    """Return one fragment per policy of a piece of an episode, as seen by all agents; E is 1."""
    by_module: dict[Any, list[SingleAgentEpisode]] = {}
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
                agents=tuple(agent.agent_id for agent in members),  # pyright: ignore[reportArgumentType] - ours have one
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
                interval_s=float((members[0].get_infos(0) or {}).get(INTERVAL_S, 1.0)),
            )
        )
    return fragments


def as_samples(
    sampled: Iterable[Fragment | AgentSteps | MultiAgentEpisode | SingleAgentEpisode],
) -> list[Fragment | AgentSteps]:
    """Return what a runner sampled as fragments, or as agents' steps where decisions are taken at arrivals."""
    samples: list[Fragment | AgentSteps] = []
    # Agents' own episodes come in a flat list; those of one piece of an episode belong together.
    pieces: dict[tuple[Any, int], list[SingleAgentEpisode]] = {}
    for piece in sampled:
        if isinstance(piece, Fragment | AgentSteps):
            samples.append(piece)
        elif isinstance(piece, MultiAgentEpisode):
            samples += _samples_of(list(piece.agent_episodes.values()), piece.id_)
        else:
            pieces.setdefault((piece.multi_agent_episode_id, piece.t_started), []).append(piece)
    for (episode_id, _), agents in pieces.items():
        samples += _samples_of(agents, episode_id)
    return samples


def _samples_of(agents: list[SingleAgentEpisode], episode_id: str) -> list[Fragment | AgentSteps]:
    if any(ELAPSED_S in (agent.get_infos(0) or {}) for agent in agents):
        return [_steps_at_arrivals(agent, episode_id) for agent in agents if len(agent)]
    return [*fragments_of(agents, episode_id)]


def agent_steps_of(
    sampled: Iterable[Fragment | AgentSteps | MultiAgentEpisode | SingleAgentEpisode], *, joint: bool = False
) -> list[AgentSteps]:
    """Return what a runner sampled as agents' steps.

    Args:
        sampled: the i-th fragments of all policies are one sample.
        joint: with the observations of all agents, for central critics.
    """
    samples = as_samples(sampled)
    fragments: dict[str, list[Fragment]] = {}
    for sample in samples:
        if isinstance(sample, Fragment):
            fragments.setdefault(sample.module_id, []).append(sample)
    everyone = _joined(fragments) if joint else []
    number = dict.fromkeys(fragments, 0)
    steps = []
    for sample in samples:
        if isinstance(sample, AgentSteps):
            steps.append(sample)
            continue
        i = number[sample.module_id]
        number[sample.module_id] += 1
        steps.append(sample.agent_steps_of(everyone[i] if joint else None))
    return steps


def _joined(fragments: Mapping[str, list[Fragment]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what all agents saw, and saw last, in each sample; the i-th fragments of all policies are one sample."""
    return [
        (
            np.concatenate([fragment.observations for fragment in sample], 2),
            np.concatenate([fragment.final_observations for fragment in sample], 1),
        )
        for sample in zip(*fragments.values(), strict=True)
    ]


def _steps_at_arrivals(agent: SingleAgentEpisode, episode_id: str) -> AgentSteps:
    """Return the steps in a piece of an agent's episode; the infos say when it decided."""
    rows = len(agent)
    seen = agent.get_observations()
    masks = np.asarray(seen["action_mask"])
    logp = np.asarray(agent.get_extra_model_outputs(Columns.ACTION_LOGP))
    has_choice = masks[:-1].sum(-1, dtype=np.int32) > 1
    return AgentSteps(
        module_id=agent.module_id,  # pyright: ignore[reportArgumentType] - ours have one
        agents=(agent.agent_id,),  # pyright: ignore[reportArgumentType] - ours have one
        agent=np.zeros(rows + 1, np.int64),
        environment=np.zeros(rows + 1, np.int64),
        observations=np.asarray(seen["observations"])[:-1],
        masks=masks[:-1],
        actions=np.asarray(agent.get_actions(), np.int32),
        log_probabilities=np.where(has_choice, logp, 0.0).astype(np.float32),
        rewards=np.asarray(agent.get_rewards(), np.float32),
        elapsed_s=np.array([info[ELAPSED_S] for info in agent.get_infos()[1:]]),
        following=np.arange(1, rows + 1),
        closing_observations=np.asarray(seen["observations"])[-1:],
        closing_masks=masks[-1:],
        ended=np.array([agent.is_done]),
        env_steps=rows,
        source=f"episode {episode_id} {agent.agent_id}",
        start=agent.t_started,
        steps=rows,
    )
