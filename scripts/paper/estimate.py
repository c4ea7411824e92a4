"""What a reproduction (`scripts.paper.run`) will cost, before it is begun."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from offload_rllib.cluster.connection import connect
from offload_rllib.config import ConfigError
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.scenario import build_scenario
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten
from scripts.paper.plan import (
    LOAD_OF_SIZES,
    POINTER,
    Budget,
    Piece,
    Setting,
    paper_setting,
    pieces,
    training_configs,
)
from scripts.paper.run import PIECES, budget_of

WARM_UP_STEPS = 256  # of a training whose speed is measured
RULES = "rules"


def estimated_hours(budget: Budget, console: Console) -> dict[str, float]:
    """Measure a little of each algorithm's training at 12 nodes; return the hours of all of it on one core.

    Training is taken to be proportional to steps and to the number of agents.
    """
    quieten()
    torch.set_num_threads(1)
    setting = paper_setting(LOAD_OF_SIZES, 12)
    planned = [piece for piece in pieces(budget) if piece.trained_on is not None]
    hours: dict[str, float] = {}
    compile_kernels(build_scenario(setting.environment()))
    with connect(), console.status("training each algorithm for a little while"):
        for label in dict.fromkeys(piece.label for piece in planned):
            steps_per_s = _speed(next(piece for piece in planned if piece.label == label), budget)
            equivalent = sum(
                piece.steps * agents_of(nodes_of(piece)) / agents_of(12) for piece in planned if piece.label == label
            )
            hours[label] = equivalent / steps_per_s / 3600
    return hours


@cache
def agents_of(nodes: int) -> int:
    """Return how many nodes decide in the paper's network of so many."""
    return len(build_scenario(paper_setting(LOAD_OF_SIZES, nodes).environment()).agents)


def nodes_of(piece: Piece) -> int:
    """Return the nodes of the network on which a piece trains, of the paper's four; 12 for others."""
    letter, _, number = (piece.trained_on.name if piece.trained_on else "").partition("-")
    return int(number) if letter in ("B", "D") else 12


def _speed(piece: Piece, budget: Budget, least_s: float = 20.0) -> float:
    """Return environment steps per CPU second of training, without the first ones, which start things up."""
    environment, policy = training_configs(
        Piece(piece.name, piece.label, 0, paper_setting(LOAD_OF_SIZES, 12), (), steps=piece.steps), budget
    )
    if policy.algorithm.name == "DDQN":
        # Short iterations, and learning from the start: at the published replay ratio an iteration takes minutes.
        shorter = policy.algorithm.model_copy(update={"batch_env_steps": 64, "learning_starts": 64})
        policy = policy.model_copy(update={"algorithm": shorter})
    algorithm: Any = algorithm_config(environment, policy, cpus=1).build_algo()
    try:
        while algorithm.env_steps < WARM_UP_STEPS:
            algorithm.train()
        began, first = time.process_time(), algorithm.env_steps
        while time.process_time() - began < least_s:
            algorithm.train()
        return (algorithm.env_steps - first) / (time.process_time() - began)
    finally:
        algorithm.stop()


def hours_by_folder(folder: Path, budget: Budget) -> dict[str, float]:
    """Return the core hours of a budget by the CPU times of another one that is finished in a folder.

    Trainings are taken to be proportional to steps, their start included, so that this is rather too much; what was not
    played there costs as much as the dearest of the same experiment.

    Raises:
        ConfigError: the folder holds no finished run, or one from before times were kept.
    """
    measured = budget_of(folder)
    training: dict[tuple[str, str], float] = {}
    playing: dict[tuple[str, str], float] = {}
    for piece in pieces(measured):
        path = folder / PIECES / f"{piece.name}.json"
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if "playing_cpu_s" not in content:
            raise ConfigError(f"{path}: missing, or without times: only what is finished can be measured by")
        if piece.trained_on is not None:
            key = (piece.label, piece.trained_on.name)
            training[key] = max(training.get(key, 0.0), content["training_cpu_s"] / piece.steps)
        for setting in piece.plays:
            key = (piece.label or RULES, setting.name)
            each = content["playing_cpu_s"][setting.name] / _episodes(setting, measured)
            playing[key] = max(playing.get(key, 0.0), each)
    hours: dict[str, float] = {}
    for piece in pieces(budget):
        label = piece.label or RULES
        # Trained on 19 nodes or more, the same network costs as much more as there are more agents.
        known = POINTER if label.startswith(POINTER) else label
        spent_s = sum(_dearest(playing, known, setting) * _episodes(setting, budget) for setting in piece.plays)
        if piece.trained_on is not None:
            more = agents_of(nodes_of(piece)) / agents_of(12) if known != label else 1.0
            spent_s += _dearest(training, known, piece.trained_on) * piece.steps * more
        hours[label] = hours.get(label, 0.0) + spent_s / 3600
    return hours


def _episodes(setting: Setting, budget: Budget) -> int:
    return budget.large_episodes if setting.large else budget.episodes


def _dearest(costs: dict[tuple[str, str], float], label: str, setting: Setting) -> float:
    """Return the cost of a policy in a setting, or the largest of the most alike ones."""
    if (label, setting.name) in costs:
        return costs[label, setting.name]
    mine = {name: cost for (known, name), cost in costs.items() if known == label}
    letter = setting.name[0]
    # D's networks are larger ones of C's kind.
    alike = next((same for of in (letter, "C" if letter == "D" else letter) if (same := _costs(mine, of))), [])
    if not mine:
        raise ConfigError(f"'{label}' was not measured: give the folder of a budget that has it")
    return max(alike or mine.values())


def _costs(costs: dict[str, float], experiment: str) -> list[float]:
    return [cost for setting, cost in costs.items() if setting.startswith(experiment)]
