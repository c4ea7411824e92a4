"""Doing the pieces of the reproduction, in parallel, each kept in a file of its own, so that a run can be resumed."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offload_rllib.cluster.connection import connect, local_cpus
from offload_rllib.cluster.parallel import in_parallel
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.files import umask, written_at_once
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.evaluation.lower_bound import bounds_of_episodes
from offload_rllib.evaluation.players import Contender, make_contenders
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.policies.saved import POLICY_FOLDER
from offload_rllib.scenario import build_scenario
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten
from scripts.paper.metrics import Figures, play
from scripts.paper.plan import (
    AUTHORS_S,
    BOUND,
    BOUND_SLOT_S,
    BUDGETS,
    CELLS,
    LOAD_OF_SIZES,
    PAPER_RULES,
    Budget,
    Piece,
    Setting,
    paper_setting,
    pieces,
    training_configs,
)

PLAN = "plan.json"
PIECES = "pieces"
POLICIES = "policies"
TIMES = "times.json"
AUTHORS_EPISODES = 100
HELD_OUT_SEED = 0


def train_policy(environment: EnvironmentConfig, policy: PolicyConfig, folder: Path) -> Path:
    """Train in this process and keep the policy in a folder, whole or not at all.

    Needs a Ray that is running. An existing folder counts as done.
    """
    if folder.exists():
        return folder
    algorithm: Any = algorithm_config(environment, policy, cpus=1).build_algo()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        while algorithm.env_steps < policy.training.env_steps:
            algorithm.train()
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".training-") as scratch:
            algorithm.save_checkpoint(scratch)
            kept = Path(scratch) / POLICY_FOLDER
            kept.chmod(0o777 & ~umask())
            shutil.move(kept, folder)
    finally:
        algorithm.stop()
    return folder


def _contenders(piece: Piece, budget: Budget, folder: Path) -> tuple[dict[str, Contender], float]:
    """Return who plays by label, and the CPU seconds of the training."""
    if piece.trained_on is None:
        return {contender.name: contender for contender in make_contenders(piece.rules)}, 0.0
    began = time.process_time()
    environment, policy = training_configs(piece, budget)
    saved = train_policy(environment, policy, folder / POLICIES / piece.name)
    took_s = time.process_time() - began
    greedy, sampled = make_contenders([str(saved)])
    return {piece.label: greedy, f"{piece.label}{SAMPLED}": sampled}, took_s


def do_piece(piece: Piece, budget: Budget, folder: Path) -> None:
    """Train and play one piece and write its file."""
    quieten()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, Figures]] = {}
    playing_s: dict[str, float] = {}
    players, training_s = ({}, 0.0) if piece.label == BOUND else _contenders(piece, budget, folder)
    for setting in piece.plays:
        began = time.process_time()
        figures[setting.name] = _played(setting, players, budget)
        playing_s[setting.name] = time.process_time() - began
    content = {
        "name": piece.name,
        "seed": piece.seed,
        "training_cpu_s": training_s,
        "playing_cpu_s": playing_s,
        "figures": figures,
    }
    with written_at_once(folder / PIECES / f"{piece.name}.json") as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def _played(setting: Setting, players: dict[str, Contender], budget: Budget) -> dict[str, Figures]:
    """Return the figures of all players in a setting; without players, those of the lower bound."""
    if not players:
        found = bounds_of_episodes(
            setting.environment(), episodes=budget.episodes, seed=HELD_OUT_SEED, slot_s=BOUND_SLOT_S
        )
        return {BOUND: {"score_mean_s": [bound.mean_s for bound in found]}}
    scenario = build_scenario(setting.environment())
    episodes = budget.large_episodes if setting.large else budget.episodes
    return {label: play(scenario, player, episodes=episodes, seed=HELD_OUT_SEED) for label, player in players.items()}


def open_folder(folder: Path, budget: Budget) -> None:
    """Make the folder of a reproduction, or check that it is one of the same budget.

    Raises:
        ConfigError: it holds something else.
    """
    plan = folder / PLAN
    wanted = json.loads(json.dumps(asdict(budget)))
    if plan.is_file():
        found = json.loads(plan.read_text(encoding="utf-8"))
        if found != wanted:
            changed = sorted(key for key in wanted if found.get(key) != wanted[key])
            raise ConfigError(f"{folder}: holds a run with another budget ({', '.join(changed)}); take another --out")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: exists and is not a run of this script; take another --out")
    (folder / PIECES).mkdir(parents=True)
    with written_at_once(plan) as partial:
        partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def run(folder: Path, budget: Budget, console: Console) -> None:
    """Do what is left to do, as many pieces at a time as there are CPUs. Ctrl-C loses the pieces under way only.

    Raises:
        ConfigError: the folder holds something else.
    """
    open_folder(folder, budget)
    planned = list(pieces(budget))
    left = [piece for piece in planned if not (folder / PIECES / f"{piece.name}.json").is_file()]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    quieten()
    untimed = not (folder / TIMES).is_file()
    if left:
        with console.status("loading the simulator's kernels (a new installation compiles them, for two minutes)"):
            for setting in {piece.plays[0].source: piece.plays[0] for piece in left}.values():
                compile_kernels(build_scenario(setting.environment()))
    if left or untimed:
        with connect(), Progress(*columns, console=console) as progress:
            bar = progress.add_task("pieces", total=len(planned), completed=len(planned) - len(left))
            remote: Any = ray.remote(num_cpus=1, max_retries=1)(do_piece)
            with in_parallel(lambda piece: remote.remote(piece, budget, folder.resolve()), left, local_cpus()) as ended:
                for piece, _ in ended:
                    progress.update(bar, advance=1, description=piece.name)
            if untimed:
                progress.update(bar, description="the time of the authors' evaluation")
                measure_times(folder)


def measure_times(folder: Path) -> None:
    """Measure and keep the CPU seconds of the authors' evaluation: 100 episodes of 1,000 steps, one core.

    Needs a Ray that is running.
    """
    remote: Any = ray.remote(num_cpus=1)(_times)
    # The largest first, so that the last to end is a small one.
    under_way = {nodes: remote.remote(nodes, folder.resolve()) for nodes in sorted(CELLS, reverse=True)}
    measured = {nodes: ray.get(reference) for nodes, reference in under_way.items()}
    times = {label: {str(nodes): measured[nodes][label] for nodes in CELLS} for label in measured[min(CELLS)]}
    with written_at_once(folder / TIMES) as partial:
        partial.write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")


def _times(nodes: int, folder: Path) -> dict[str, float]:
    """Return the CPU seconds of each policy's evaluation in the paper's network of so many nodes."""
    quieten()
    torch.set_num_threads(1)
    setting = paper_setting(LOAD_OF_SIZES, nodes)
    players = {contender.name: contender for contender in make_contenders(PAPER_RULES)}
    for label in AUTHORS_S:
        kept = folder / POLICIES / f"{setting.name}-{label.lower()}-0"
        if kept.is_dir():
            players[label] = make_contenders([str(kept)])[0]
    scenario = build_scenario(setting.environment())
    times: dict[str, float] = {}
    for label, player in players.items():
        began = time.process_time()
        play(scenario, player, episodes=AUTHORS_EPISODES, seed=HELD_OUT_SEED + 1)
        times[label] = round(time.process_time() - began, 2)
    return times


def budget_of(folder: Path) -> Budget:
    """Return the budget of a folder.

    Raises:
        ConfigError: it is not the folder of a reproduction.
    """
    plan = folder / PLAN
    if not plan.is_file():
        raise ConfigError(f"{folder}: not a run of this script: {PLAN} is missing")
    return BUDGETS[json.loads(plan.read_text(encoding="utf-8"))["name"]]


def load(folder: Path) -> tuple[Budget, dict[str, dict[str, dict[int, Figures]]], dict[str, float]]:
    """Return the budget of a folder, its figures by setting, policy and training seed, and the CPU seconds of training.

    Raises:
        ConfigError: it is not the folder of a reproduction.
    """
    budget = budget_of(folder)
    figures: dict[str, dict[str, dict[int, Figures]]] = {}
    seconds: dict[str, float] = {}
    for path in sorted((folder / PIECES).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        seconds[content["name"]] = content["training_cpu_s"]
        for setting, players in content["figures"].items():
            for label, values in players.items():
                figures.setdefault(setting, {}).setdefault(label, {})[content["seed"]] = values
    return budget, figures, seconds
