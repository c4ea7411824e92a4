"""`training.final_policy: selected`: of the policies that a run has, the best on training episodes is its final one.

A training may end in a worse policy than it passed through, or began with. So at its end up to three policies play the
same training episodes, which no runner has: the clone that it began with (`training.imitate`), the one that was best
while it trained, and the last. The lowest mean score is best, or the lowest mean cost (`envs.goal`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    scores = {name: _score(folder, env, run) for name, folder in folders.items() if folder.is_dir()}
    best = min(scores, key=scores.__getitem__)
    run.record(selected={"policy": best, "scores_s": {name: round(score, 6) for name, score in scores.items()}})
    return folders[best]


def _score(folder: Path, env: NativeEnv, run: RunFolder) -> float:
    """Return the mean score, or the mean cost, of a saved policy that plays greedily."""
    saved = load_saved_policy(folder, trust=True)  # the run's own
    seed = run.policy_config.training.seed
    keys = np.array([training_key(seed, PLAYED_BY, 0, episode) for episode in range(EPISODES)], np.uint64)
    goal, scores = goal_of(env.scenario.config.reward), []
    for first in range(0, EPISODES, BATCH):
        batch = batch_of(env.scenario, BATCH)
        policy = saved.on(batch)
        batch.reset(keys[first : first + BATCH])
        play_episodes(batch, policy)
        scores += [batch.episode_metrics(e)[goal] for e in range(BATCH)]
    return float(np.nanmean(scores))
