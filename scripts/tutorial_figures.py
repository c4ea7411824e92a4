"""Draw the figures of the tutorials (docs/tutorials) from runs and held-out episodes.

python scripts/tutorial_figures.py load-change ether_12_diurnal runs/changing-load runs/grow-ddqn-12 size_interval
python scripts/tutorial_figures.py growth grow.png "runs/grow-ddqn-*" "runs/grow-a2c-*"
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from offload_rllib import vector_env
from offload_rllib.config import load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.evaluate import play_episodes
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED

app = typer.Typer(help=__doc__)


def _figure(panels: int, width: float = 4.3, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


@app.command()
def load_change(
    env: str,
    policies: list[str],
    episodes: Annotated[int, typer.Option(min=2)] = 100,
    bin_s: Annotated[float, typer.Option(min=1.0)] = 50.0,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    out: Path = Path("load_change.png"),
) -> None:
    """Draw the outcomes of tasks over the time of their creation: how many, score, drops, where long ones go."""
    batch = vector_env(env, episodes, overrides=set_ or (), log=True)
    settings = batch.scenario.arrays.settings[0]
    edges = np.arange(settings["score_from_s"], settings["score_until_s"] + bin_s / 2, bin_s)
    middles = (edges[1:] + edges[:-1]) / 2
    fastest = int(batch.scenario.arrays.node["speed"].argmax())
    figure, axes = _figure(4, 3.6)
    # A trained policy comes greedy and sampled; greedy is enough here.
    for contender in [c for c in make_contenders(policies) if c.deterministic]:
        policy = contender.begin(batch, 0)
        batch.reset(held_out_keys(0, episodes))
        play_episodes(batch, policy)
        tasks = np.concatenate([batch.task_log(e) for e in range(episodes)])
        age_s = tasks["ended_s"] - tasks["created_s"]
        score_s = np.where(
            tasks["outcome"] == FINISHED, age_s, np.maximum(age_s, tasks["deadline_s"] - tasks["created_s"])
        )
        of = np.digitize(tasks["created_s"], edges) - 1
        within = [of == b for b in range(len(middles))]
        if not axes[0].lines:
            rate = [np.sum(here) / episodes / bin_s for here in within]
            axes[0].plot(middles, rate, color="black")
        axes[1].plot(middles, [score_s[here].mean() for here in within], marker="o", ms=3, label=contender.name)
        axes[2].plot(middles, [100 * (tasks["outcome"][here] != FINISHED).mean() for here in within], marker="o", ms=3)
        long = tasks["work"] > settings["mean_work"]
        at_fastest = [100 * (tasks["node"][here & long] == fastest).mean() for here in within]
        axes[3].plot(middles, at_fastest, marker="o", ms=3)
    titles = ("tasks made per second", "mean score, s", "dropped, %", "long tasks sent to the fastest node, %")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="time at which they were made, s", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(out, dpi=130)
    print(out)


@app.command()
def growth(out: Path, runs: list[str]) -> None:
    """Draw completion, delay and overload over the number of nodes, from the evaluations of finished runs.

    Each text is a pattern of run folders: one line for the trained policies, greedy, beside those of some rules.
    """
    rules = ("shortest_finish", "size_interval")
    lines: dict[str, dict[int, dict[str, tuple[float, float, float]]]] = {}
    for pattern in runs:
        for path in sorted(Path().glob(pattern)):
            run = RunFolder.open(path)
            nodes = len(build_scenario(load_environment(run.path / "environment.yaml")).network.nodes)
            with (path / "evaluation" / "summary.csv").open(encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    name = run.policy_config.algorithm.name if row["policy"] == run.name else row["policy"]
                    if name in (*rules, run.policy_config.algorithm.name) and row["low"]:
                        found = (float(row["mean"]), float(row["low"]), float(row["high"]))
                        lines.setdefault(name, {}).setdefault(nodes, {})[row["metric"]] = found
    panels = (
        ("tasks not finished in time, %", "dropped_share", 100.0),
        ("mean score, s", "score_mean_s", 1.0),
        ("overload: time that nodes are full, %", "overload", 100.0),
    )
    figure, axes = _figure(len(panels))
    for axis, (title, metric, factor) in zip(axes, panels, strict=True):
        for name, sizes in lines.items():
            x = sorted(sizes)
            mean, low, high = factor * np.array([sizes[n][metric] for n in x]).T
            axis.errorbar(x, mean, [mean - low, high - mean], marker="o", capsize=3, label=name)
        axis.set(title=title, xlabel="nodes", ylim=(0, None), xticks=sorted(next(iter(lines.values()))))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(out, dpi=130)
    print(out)


if __name__ == "__main__":
    app()
