"""Fragments from RLlib's episodes and back: what RLlib's runner samples, and what RLlib's own learners take."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from offload_rllib.rollout.fragment import Fragment


def fragments_of(episode: MultiAgentEpisode) -> list[Fragment]:
    """Return one fragment per policy of a piece of an episode, as RLlib's runner samples it; E is 1."""
    by_module: dict[str, list[SingleAgentEpisode]] = {}
    for agent in episode.agent_episodes.values():
        by_module.setdefault(agent.module_id, []).append(agent)
    fragments = []
    for module_id, members in by_module.items():
        seen = [agent.get_observations() for agent in members]
        observations = np.stack([np.asarray(s["observations"]) for s in seen], 1)[:, None]
        masks = np.stack([np.asarray(s["action_mask"]) for s in seen], 1)[:, None]
        steps = len(observations) - 1
        truncated = np.zeros((steps, 1), np.bool_)
        truncated[-1:] = episode.is_truncated
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
                final_observations=observations[-1] if episode.is_truncated else observations[:0, 0],
                final_masks=masks[-1] if episode.is_truncated else masks[:0, 0],
                source=f"episode {episode.id_}",
                start=episode.env_t_started,
            )
        )
    return fragments


def as_fragments(sampled: Iterable[Fragment | MultiAgentEpisode]) -> list[Fragment]:
    """Return what a runner sampled as fragments, whichever runner it was."""
    return [
        fragment for piece in sampled for fragment in ([piece] if isinstance(piece, Fragment) else fragments_of(piece))
    ]
