"""Learners of the suite: trained with equal budgets, kept beside the rules, and held against the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from helpers.policies import kept
from helpers.suites import seal, small_suite
from rich.console import Console

from offload_rllib.config import ConfigError
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.suite.learning import LOSES, NONE, OPEN, WINS, learning, standings
from offload_rllib.suite.results import Figure, PointResult, PolicyResult, TrainedSeed, read_result, references
from offload_rllib.suite.scenarios import TRAINING_SEEDS, places, scenarios
from offload_rllib.suite.scorecard import new_result, play
from scripts import suite_learners


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A suite of one small scenario; the working folder is an empty one beside it."""
    with small_suite(tmp_path, monkeypatch):
        yield tmp_path


def policy(name: str, scores: np.ndarray, **about: Any) -> PolicyResult:
    """Return made-up results."""
    figure = Figure(mean=float(scores.mean()), low=None, high=None)
    kind = about.pop("kind", "rule")
    return PolicyResult(
        name=name,
        source=name,
        kind=kind,
        seeds=(TrainedSeed(seed=0, folder="x", files={}, env_steps=1),) if kind == "trained" else (),
        not_comparable=about.pop("not_comparable", ()),
        figures={"score_mean_s": figure},
        scores_s=tuple(map(tuple, scores.tolist())),
        **about,
    )


def point_of(*policies: PolicyResult) -> PointResult:
    return PointResult(scenario="SMALL-4", scenario_version=1, point="one", fingerprint="0" * 12, policies=policies)


@pytest.mark.parametrize(("apart_s", "verdict"), [(-0.5, WINS), (0.5, LOSES), (0.001, OPEN)])
def test_a_learner_is_held_against_the_best_rule(apart_s: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    common = 10 + rng.normal(size=20)  # episodes differ far more than policies do: only pairs can tell
    best, other = (common + shift + 0.05 * rng.normal(size=(1, 20)) for shift in (0.0, 1.0))
    learner = common + apart_s + 0.05 * rng.normal(size=(5, 20))
    point = point_of(
        policy("other", other),
        policy("best", best),
        policy("ppo", learner, kind="trained"),
        policy("ppo (sampled)", learner - 3, kind="trained", sampled=True),
        policy("few", learner - 3, kind="trained", not_comparable=("4 training seeds",)),
    )
    (one,) = standings("SMALL-4", point)
    assert (one.learner, one.rule, one.verdict) == ("ppo", "best", verdict)
    assert one.difference_s.mean == pytest.approx(learner.mean() - best.mean(), abs=1e-12)
    assert one.score_s == pytest.approx(learner.mean(), abs=1e-12)


@pytest.mark.usefixtures("small")
def test_without_learners_the_section_says_so() -> None:
    point = point_of(policy("best", np.ones((1, 20))))
    assert learning({("SMALL-4", "one"): point}).endswith(f"\n\n{NONE}\n")
    assert standings("SMALL-4", point_of(policy("ppo", np.ones((5, 20)), kind="trained"))) == []


def trained_at_once(run: RunFolder, *_: Any, **__: Any) -> bool:
    """Save an untrained network in place of training."""
    env = make_env(run.environment)
    seed = run.policy_config.training.seed
    kept(run.path / "policy", env, draw=seed, env_steps=run.policy_config.training.env_steps)
    run.record(state="finished")
    return True


def part(monkeypatch: pytest.MonkeyPatch, stop_after: int = 9) -> tuple[list[Path] | None, list[int]]:
    """Train a part; return its runs, and the seeds that were trained in this call."""
    (place,) = places()
    seeds: list[int] = []

    def train(run: RunFolder, *_: Any, **__: Any) -> bool:
        if len(seeds) == stop_after:
            return False
        seeds.append(run.policy_config.training.seed)
        return trained_at_once(run)

    monkeypatch.setattr(suite_learners, "train", train)
    return suite_learners.train_part(place, "ppo", Path("parts/small_4/ppo-one"), Console(quiet=True)), seeds


def test_a_part_is_continued_kept_and_shown(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = places()
    assert part(monkeypatch, stop_after=2) == (None, [0, 1])
    runs, seeds = part(monkeypatch)
    assert seeds == [2, 3, 4]
    assert runs is not None
    assert len(runs) == TRAINING_SEEDS
    configs = [RunFolder.open(run).policy_config.training for run in runs]
    assert {config.env_steps for config in configs} == {place.scenario.env_steps}
    assert {config.runners for config in configs} == {0}

    quiet = Console(quiet=True)
    suite_learners.play_part(place, "ppo", runs, Path("parts/small_4/ppo-one/result"), quiet)
    for _ in play(
        new_result((), ("local", "shortest_finish"), command="none", episodes=20, seed=0), folder_of_rules(small)
    ):
        pass
    monkeypatch.setattr(suite_learners, "SUITE", small / "suite")
    monkeypatch.setattr(suite_learners, "write_checksums", lambda: seal(small / "suite"))
    there = suite_learners.keep(place, "ppo-one", Path("parts/small_4/ppo-one/result"))
    scenarios.cache_clear()
    point = references()["SMALL-4", "one"]
    assert [each.name for each in point.policies] == ["local", "shortest_finish", "ppo", "ppo (sampled)"]
    assert not any(each.not_comparable for each in point.policies)
    assert all(exact.passed for exact in point.exact)
    assert read_result(there).command == "python -m scripts.suite_learners SMALL-4 --algorithms ppo"
    assert "| SMALL-4 | ppo       |" in learning(references())


def folder_of_rules(small: Path) -> Path:
    folder = small / "suite" / "results" / "small_4"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("small")
def test_a_part_that_was_begun_with_other_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    part(monkeypatch, stop_after=1)
    monkeypatch.setattr(suite_learners, "in_one_process", lambda _: ["algorithm.lr=1e-4"])
    with pytest.raises(ConfigError, match=r"runs/0: begun with other settings than SMALL-4 has now; remove it"):
        part(monkeypatch)
