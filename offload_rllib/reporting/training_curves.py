"""The scores of runs during training, drawn over environment steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from offload_rllib.evaluation.metrics import SCORE, metric_of
from offload_rllib.reporting.figures import new_figure, tidy
from offload_rllib.reporting.looks import LABEL_POINTS, PAGE, TITLE_POINTS, looks
from offload_rllib.rollout.callbacks import PREFIX
from offload_rllib.runs.training_run import TUNE
from offload_rllib.training.train import TRIAL

POINTS = 40


def _log(run: Path) -> Path:
    return run / TUNE / TRIAL / "result.json"


def has_curve(run: Path) -> bool:
    """Return whether a folder is that of a run whose training ended at least one episode."""
    return _log(run).is_file() and len(read_curve(run)[0]) > 0


def read_curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return environment steps [n] and mean scores [n], s, of the training episodes that a run's iterations ended."""
    steps, scores = [], []
    with _log(run).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            score = row["env_runners"].get(PREFIX, {}).get(SCORE)
            if score is not None and np.isfinite(score):
                steps.append(row["timesteps_total"])
                scores.append(score)
    return np.array(steps), np.array(scores)


def of_training(runs: Mapping[str, Sequence[Path]], rules: Mapping[str, float]) -> Figure:
    """Draw the training scores of policies: the mean over their runs, and from the best to the worst of them.

    Args:
        runs: run folders of each policy, one per training seed.
        rules: what rules score on the held-out episodes, s: horizontal lines to compare with.
    """
    figure, axes = new_figure(PAGE, 3.2, 1, 1)
    axis = axes[0][0]
    for policy, look in looks(list(runs)).items():
        curves = [read_curve(run) for run in runs[policy]]
        edges = np.linspace(0, max(steps[-1] for steps, _ in curves), POINTS + 1)
        rows = np.array([_means(*curve, edges) for curve in curves])
        middles = (edges[:-1] + edges[1:]) / 2
        axis.plot(middles, rows.mean(0), lw=1.5, label=policy, color=look["color"], linestyle=look["linestyle"])
        axis.fill_between(middles, rows.min(0), rows.max(0), color=look["color"], alpha=0.15, lw=0)
    for rule, score in rules.items():
        axis.axhline(score, color="0.4", lw=0.8, linestyle=":")
        axis.annotate(
            rule,
            (1, score),
            xycoords=("axes fraction", "data"),
            fontsize=LABEL_POINTS,
            color="0.3",
            va="bottom",
            ha="right",
        )
    axis.set_xlabel("environment steps", fontsize=TITLE_POINTS)
    axis.set_ylabel(f"{metric_of(SCORE).label}, while it explores", fontsize=TITLE_POINTS)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")
    tidy(axis)
    axis.legend(fontsize=LABEL_POINTS, frameon=False)
    return figure


def _means(steps: np.ndarray, scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the mean score between each two edges; where no episode ended, interpolated between its neighbours."""
    place = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    sums = np.bincount(place, scores, minlength=len(edges) - 1)
    known = counts > 0
    return np.interp(np.arange(len(counts)), np.flatnonzero(known), sums[known] / counts[known])
