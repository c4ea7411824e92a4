"""`training.final_policy: selected`: of the policies that a run has, the best on training episodes is its final one.

A training may end in a worse policy than it passed through, or began with. So at its end up to three policies play the
same training episodes, which no runner has: the clone that it began with (`training.imitate`), the one that was best
while it trained, and the last. The lowest mean score is best, or the lowest mean cost (`envs.goal`). Where training is
constrained, policies that keep the bounds come before others, and of others the nearest to the bounds is best.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config.algorithms import constraints_of, excess_over
from offload_rllib.envs.episode_keys import training_key
from offload_rllib.envs.goal import goal_of
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.evaluation.evaluate import play_episodes
from offload_rllib.policies.saved import load_saved_policy
from offload_rllib.runs.training_run import BEST, POLICY_FOLDER, RunFolder
from offload_rllib.training.warm_start import START

EPISODES = 64
BATCH = 32
# Runners number their episodes by themselves; none has this number, nor has a rule that is cloned.
PLAYED_BY = 2**31 - 2
LAST = "last"


def selected(run: RunFolder, last: Path, env: NativeEnv) -> Path:
    """Return the folder with the best policy of a run that ends, and note in its record which one it is.

    Args:
        run: the run.
        last: folder with its last policy.
        env: its environment.
    """
    folders = {LAST: last, BEST: run.path / BEST / POLICY_FOLDER}
    if run.policy_config.training.imitate is not None:
        folders[START] = run.path / START
    standings = {name: _standing(folder, env, run) for name, folder in folders.items() if folder.is_dir()}
    best = min(standings, key=standings.__getitem__)
    noted: dict[str, Any] = {"policy": best, "scores_s": {name: round(each[1], 6) for name, each in standings.items()}}
    if constraints_of(run.policy_config.algorithm):
        noted["excesses"] = {name: round(each[0], 6) for name, each in standings.items()}
    run.record(selected=noted)
    return folders[best]


def _standing(folder: Path, env: NativeEnv, run: RunFolder) -> tuple[float, float]:
    """Return how a saved policy stands that plays greedily: the lower, the better.

    Returns:
        By how much it exceeds the bounds of the run's constraints, the largest excess, 0.0 if by none; and its mean
        score, or mean cost.
    """
    saved = load_saved_policy(folder, trust=True)  # the run's own
    seed = run.policy_config.training.seed
    keys = np.array([training_key(seed, PLAYED_BY, 0, episode) for episode in range(EPISODES)], np.uint64)
    goal, figures = goal_of(env.scenario.config.reward), []
    for first in range(0, EPISODES, BATCH):
        batch = batch_of(env.scenario, BATCH)
        policy = saved.on(batch)
        batch.reset(keys[first : first + BATCH])
        play_episodes(batch, policy)
        figures += [batch.episode_metrics(e) for e in range(BATCH)]

    def mean(name: str) -> float:
        return float(np.nanmean([episode[name] for episode in figures]))

    bounds = constraints_of(run.policy_config.algorithm)
    return excess_over(bounds, [mean(bound.figure) for bound in bounds]), mean(goal)
