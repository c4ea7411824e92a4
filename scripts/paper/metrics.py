"""The figures of an episode, as this project states them and as the PeersimGym paper's plots reduce them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys
from offload_rllib.evaluation.evaluate import play_episodes
from offload_rllib.evaluation.players import Contender
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import FINISHED, OPEN, UNBOUNDED, Array

# Episodes side by side; more would only cost memory.
BATCH = 32
# The six panels of the paper: title, key of ours, key of its own reduction.
PANELS = (
    ("response time of finished tasks, s", "response_s", "response"),
    ("dropped tasks", "dropped", "dropped"),
    ("finished tasks", "finished", "finished"),
    ("occupancy, % of the queue", "occupancy", "occupancy"),
    ("overloaded, s per node", "overloaded_s", "overloaded"),
    ("total tasks", "total", "total"),
)
# Kept for every episode beside the panels (see `simulator.metrics.summary`).
KEPT = (
    "score_mean_s",
    "score_p50_s",
    "score_p95_s",
    "score_p99_s",
    "dropped_share",
    "offloaded_share",
    "response_p95_s",
    "response_p99_s",
)
_REDUCED = ("response", "occupancy", "overloaded")

Figures = dict[str, list[float]]


def play(scenario: BuiltScenario, contender: Contender, *, episodes: int, seed: int = 0) -> Figures:
    """Let a policy play held-out episodes; return each figure of each episode.

    Panels are of whole episodes: warm-up and drain count as well, as in the paper.

    Args:
        scenario: what is played.
        contender: who plays.
        episodes: how many.
        seed: of the held-out episodes.
    """
    keys = held_out_keys(seed, episodes)
    figures: Figures = {}
    for first in range(0, episodes, BATCH):
        batch = keys[first : first + BATCH]
        env = batch_of(scenario, len(batch), log=True)
        policy = contender.begin(env, seed + first)
        env.reset(batch)
        play_episodes(env, policy, deterministic=contender.deterministic)
        for e in range(len(batch)):
            for name, value in figures_of(env, e).items():
                figures.setdefault(name, []).append(value)
    return figures


def figures_of(env: NativeEnv, e: int) -> dict[str, float]:
    """Return the panels' figures of a finished episode, ours and the paper's ingredients, and `KEPT`.

    Of what the paper plots as (mean + standard deviation) / 2 there are both, over nodes or clients.
    """
    log, node = env.task_log(e), env.scenario_of(e).arrays.node
    state = env.state.node[e]
    horizon_s = float(env.state.episode["now_s"][e])
    finished = log["outcome"] == FINISHED
    response_s = (log["ended_s"] - log["created_s"])[finished]
    of_client = np.flatnonzero(node["arrival_rate"] > 0)
    done = np.bincount(log["origin"][finished], minlength=len(node))
    spent_s = np.bincount(log["origin"][finished], weights=response_s, minlength=len(node))
    # A client without a result has the mean 0, where PeersimGym's running mean begins.
    by_client = (spent_s / np.maximum(done, 1))[of_client]
    bounded = node["capacity"] < UNBOUNDED
    fill = state["task_seconds"][bounded] / horizon_s / node["capacity"][bounded]
    full_s = state["full_seconds"][bounded]
    summary = env.episode_metrics(e)
    found = {
        "response_s": float(response_s.mean()) if len(response_s) else float("nan"),
        "dropped": float(((log["outcome"] != FINISHED) & (log["outcome"] != OPEN)).sum()),
        "finished": float(finished.sum()),
        "total": float(len(log)),
        "occupancy": 100 * _mean(fill),
        "overloaded_s": _mean(full_s),
        **{name: summary[name] for name in KEPT},
    }
    # In steps of a second, as the paper counts; fill as a share.
    for name, values in zip(_REDUCED, (by_client, fill, full_s), strict=True):
        found |= {f"{name}_node_mean": _mean(values), f"{name}_node_std": float(values.std()) if len(values) else 0.0}
    return found


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def paper_reduction(figures: Figures, name: str) -> float:
    """Return what the paper's plot shows of a figure.

    Response time, occupancy and overloaded: mean and standard deviation over nodes of each episode, the running means
    of both over the episodes, and one mean over all these numbers. So half of it is a standard deviation, and early
    episodes count more. Dropped, finished and total: the mean of the sums.
    """
    if name not in _REDUCED:
        return float(np.mean(figures[name]))
    pairs = np.array([figures[f"{name}_node_mean"], figures[f"{name}_node_std"]])
    running = np.cumsum(pairs, axis=1) / np.arange(1, pairs.shape[1] + 1)
    return float(running.mean())


def pooled(runs: Iterable[Figures], name: str) -> Array:
    """Return the mean over episodes of a figure for each of several training runs; no numbers left out count."""
    return np.array([np.nanmean(figures[name]) if np.isfinite(figures[name]).any() else np.nan for figures in runs])
