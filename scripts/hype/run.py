"""Doing the pieces of the study, one after the other, each kept in a file of its own, so that it can be resumed."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offload_rllib.cluster.connection import connect
from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.vector import batch_of, training_key
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.lower_bound import bounds_of_episodes
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import Contender, make_contenders
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.evaluation.rule_tuning import tune_rule, values_around
from offload_rllib.policies.saved import load_description
from offload_rllib.runs.lock import locked
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import fitting_rules
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.jit import source_hash
from offload_rllib.training.train import quieten
from scripts.hype.plan import (
    BOUND,
    BY_NAME,
    HELD_OUT_SEED,
    RULES,
    TUNED,
    Budget,
    Piece,
    environment_of,
    pieces,
    preset_of,
)
from scripts.paper.run import train_policy
from scripts.results.study import METRICS

PIECES, POLICIES = "pieces", "policies"
FORMAT = 1
ORACLE = "shortest_finish_oracle"
# For the choice among rules; the rest tunes the parameter of the chosen one.
CHOOSING_SHARE = 0.25

Report = Callable[[int], None]
Figures = dict[str, dict[str, list[float]]]
"""By policy and metric, a value per held-out episode."""


def identity(piece: Piece, budget: Budget) -> dict[str, Any]:
    """Return what a piece's results depend on: two files with the same are of the same piece."""
    method = BY_NAME.get(piece.method)
    settings: dict[str, Any] = dict(method.settings) if method else {}
    if method and method.kind == "preset":
        settings = preset_of(piece, budget).model_dump(mode="json", by_alias=True, exclude={"description"})
    return {
        "format": FORMAT,
        "environment": piece.environment,
        "fingerprint": fingerprint(environment_of(piece)),
        "method": piece.method,
        "seed": piece.seed,
        "budget": {key: value for key, value in asdict(budget).items() if key != "seeds"},
        "settings": json.loads(json.dumps(settings)),
        "simulator": source_hash(),
    }


def file_of(folder: Path, piece: Piece) -> Path:
    """Return the file of a piece's results."""
    return folder / PIECES / f"{piece.name}.json"


def read_piece(folder: Path, piece: Piece, budget: Budget) -> dict[str, Any] | None:
    """Return the results of a piece; None if it was not done yet.

    Raises:
        ConfigError: the file is broken, or holds the results of something else; says which key.
    """
    path = file_of(folder, piece)
    if not path.is_file():
        return None
    content = read_json(path, "the results of a piece of the study")
    for key, wanted in identity(piece, budget).items():
        if content.get(key) != wanted:
            raise ConfigError(
                f"{path}: {key}: is {content.get(key)!r}, must be {wanted!r}; delete the file to do the piece again"
            )
    for key, kind in (("figures", dict), ("decisions", int), ("training_cpu_s", float), ("load", list)):
        if not isinstance(content.get(key), kind):
            raise ConfigError(f"{path}: {key}: is {content.get(key)!r}, must be a {kind.__name__}; delete the file")
    for policy, figures in content["figures"].items():
        for metric, values in figures.items():
            if not (isinstance(values, list) and len(values) == budget.episodes):
                raise ConfigError(
                    f"{path}: figures.{policy}.{metric}: must be {budget.episodes} numbers; delete the file"
                )
    return content


def do_piece(piece: Piece, budget: Budget, folder: Path, report: Report) -> None:
    """Train and play one piece, and write its file in one step.

    Args:
        piece: which.
        budget: of the study.
        folder: of the study.
        report: is given the number of decisions so far, now and then.
    """
    began = time.process_time()
    config = environment_of(piece)
    decisions, contenders = _trained(piece, budget, folder, config, report)
    training_s, began = time.process_time() - began, time.process_time()
    if piece.method == BOUND:
        found = bounds_of_episodes(config, episodes=budget.episodes, seed=HELD_OUT_SEED)
        figures: Figures = {BOUND: {SCORE: [bound.mean_s for bound in found]}}
    else:
        result = evaluate(config, contenders, episodes=budget.episodes, seed=HELD_OUT_SEED)
        figures = {
            policy: {metric: result.matrix(policy, metric)[0].tolist() for metric in METRICS}
            for policy in result.policies
        }
    content = identity(piece, budget) | {
        "decisions": decisions,
        "training_cpu_s": training_s,
        "playing_cpu_s": time.process_time() - began,
        "chosen": contenders[0].source if piece.method == TUNED else None,
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
        "figures": figures,
    }
    path = file_of(folder, piece)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_at_once(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _trained(
    piece: Piece, budget: Budget, folder: Path, config: EnvironmentConfig, report: Report
) -> tuple[int, list[Contender]]:
    """Return how many decisions a piece's training took, and who plays."""
    if piece.method == BOUND:
        return 0, []
    if piece.method == RULES:
        return 0, make_contenders(fitting_rules(config))
    seed = piece.seed or 0
    if piece.method == TUNED:
        rule, taken = tuned_rule(config, budget.decisions, seed)
        return taken, [Contender(TUNED, rule, training_seed=seed)]
    method = BY_NAME[piece.method]
    if method.train is not None:
        policy, taken = method.train(build_scenario(config), budget.decisions, seed, report)
        return taken, [
            Contender(piece.method + ending, "", not ending, piece.environment, seed, policy)
            for ending in ("", *([SAMPLED] if method.draws else []))
        ]
    saved = train_policy(config, preset_of(piece, budget), folder / POLICIES / piece.name)
    greedy, sampled = make_contenders([str(saved)])
    greedy.name, sampled.name = piece.method, f"{piece.method}{SAMPLED}"
    return load_description(saved).env_steps, [greedy, *([sampled] if method.draws else [])]


def tuned_rule(config: EnvironmentConfig, decisions: int, seed: int) -> tuple[str, int]:
    """Return the rule that scored best on training episodes, and how many decisions it took to find it.

    A part of the budget chooses among the rules as they are; the rest chooses the parameter of that rule, if it has
    one.

    Args:
        config: the environment.
        decisions: the budget.
        seed: of the training episodes, as `training.seed` of a run.
    """
    env = batch_of(build_scenario(config), 1)
    rules = [rule for rule in fitting_rules(config) if rule != ORACLE]
    scores = {rule: [] for rule in rules}
    taken, episode = 0, 0
    while taken < CHOOSING_SHARE * decisions:
        for rule in rules:
            env.reset(np.array([training_key(seed, 0, 0, episode)], np.uint64))
            env.play(rule)
            scores[rule].append(env.episode_metrics(0)[SCORE])
            taken += int(env.state.episode["choices"].sum())
        episode += 1
    best = min(rules, key=lambda rule: float(np.mean(scores[rule])))
    if HEURISTICS[best].parameter is None:
        return best, taken
    per_episode = taken / episode / len(rules)
    episodes = max(2, math.floor((decisions - taken) / per_episode / len(values_around(best))))
    tuned = tune_rule(config, best, episodes=episodes, seed=seed)
    return tuned.name, taken + round(tuned.figures.size * per_episode)


def chosen_pieces(budget: Budget, patterns: Sequence[str]) -> list[Piece]:
    """Return the pieces whose names fit one of the patterns; all without patterns.

    Raises:
        ConfigError: a pattern fits no piece.
    """
    planned = list(pieces(budget))
    for pattern in patterns:
        if not any(fnmatch(piece.name, pattern) for piece in planned):
            raise ConfigError(
                f"--only '{pattern}': fits no piece; pieces are e.g. {planned[0].name}, {planned[-1].name}"
            )
    return [piece for piece in planned if not patterns or any(fnmatch(piece.name, p) for p in patterns)]


def run(folder: Path, budget: Budget, patterns: Sequence[str], console: Console) -> None:
    """Do what is left of the chosen pieces. Ctrl-C loses the piece under way only.

    Args:
        folder: of the study; made if need be.
        budget: of the study.
        patterns: of names of pieces; none: all.
        console: where progress is shown.

    Raises:
        ConfigError: the folder holds results of something else, or another process works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned = chosen_pieces(budget, patterns)
    with locked(folder, lambda text: console.print(text, soft_wrap=True, highlight=False)):
        left = [piece for piece in planned if read_piece(folder, piece, budget) is None]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with ExitStack() as stack:
            if any(BY_NAME[piece.method].kind == "preset" for piece in left if piece.method in BY_NAME):
                quieten()
                stack.enter_context(connect())
            progress = stack.enter_context(Progress(*columns, TimeRemainingColumn(), console=console))
            bar = progress.add_task("pieces", total=len(planned), completed=len(planned) - len(left))
            inner = progress.add_task("decisions", total=budget.decisions)
            for piece in left:
                progress.update(bar, description=piece.name)
                progress.reset(inner)
                do_piece(piece, budget, folder, lambda done: progress.update(inner, completed=done))
                progress.advance(bar)


def done(folder: Path, budget: Budget) -> Iterator[tuple[Piece, dict[str, Any] | None]]:
    """Yield all pieces of the study with their results, None for those that are not done.

    Raises:
        ConfigError: as `read_piece`.
    """
    for piece in pieces(budget):
        yield piece, read_piece(folder, piece, budget)
