"""What docs/presets.md reports: every learner as shipped on every preset, against all rules, tuned ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.evaluation.rule_tuning import tune_rule
from offload_rllib.scenario.build import fitting_rules
from offload_rllib.simulator.heuristics import HEURISTICS
from scripts.results.study import Study

ALGORITHMS = ("ppo_auto", "a2c_auto", "ppo_drops", "ppo_from_rule", "ppo", "a2c", "ddqn")
SEEDS = 3
TUNED = "tuned_rules.json"
HERE = Path(__file__).parent  # with what was found already, on any machine


def fits(preset: str, algorithm: str) -> bool:
    """Return whether a learner can be trained on a preset: rules are cloned where tasks are decided at arrivals."""
    clones = load_policy_config(algorithm).training.imitate is not None
    return not clones or load_environment(preset).decisions.when == "arrival"


def part_name(preset: str, algorithm: str) -> str:
    """Return the name of a part's folder."""
    return f"{preset}-{algorithm}"


def part_of(preset: str, algorithm: str, console: Console) -> Study:
    """Return the part of a preset and a learner; the rules with a parameter are tuned first, once per preset.

    Args:
        preset: of `envs/`.
        algorithm: of `ALGORITHMS`.
        console: for the progress of tuning.
    """
    return Study(
        part_name(preset, algorithm),
        preset,
        preset,
        (algorithm,),
        question="",
        tuned=tuned_rules(preset, HERE, console),
        reference="local",
        seeds=SEEDS,
    )


def tuned_rules(preset: str, folder: Path, console: Console) -> tuple[str, ...]:
    """Return the rules with the parameters that are best on training episodes, where they are not the defaults.

    They are kept in a file of the folder, with the fingerprint of the environment that they belong to.
    """
    environment = load_environment(preset)
    path = folder / TUNED
    found = _kept(path).get(preset)
    if found is None or found["fingerprint"] != fingerprint(environment):
        found = {"fingerprint": fingerprint(environment), "rules": _tune(environment, preset, console)}
        folder.mkdir(parents=True, exist_ok=True)
        with written_at_once(path) as partial:  # read again: other calls tune other presets meanwhile
            content = _kept(path) | {preset: found}
            partial.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    return tuple(found["rules"])


def _kept(path: Path) -> dict[str, Any]:
    return read_json(path, "tuned rules") if path.is_file() else {}


def _tune(environment: EnvironmentConfig, preset: str, console: Console) -> list[str]:
    with_parameter = [rule for rule in fitting_rules(environment) if HEURISTICS[rule].parameter is not None]
    tuned = []
    with Progress(console=console, transient=True) as progress:
        console.print(f"{preset}: tuning {', '.join(with_parameter)}", highlight=False)
        for rule in with_parameter:
            result = tune_rule(environment, rule, progress=progress)
            if result.chosen != result.default:
                tuned.append(result.name)
    return tuned
