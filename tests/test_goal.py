"""The mean cost of a task is what the reward takes off for it, and the figure that policies are ranked by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.environments import at_once, make_env
from helpers.policies import kept

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.batch import EnvBatch
from offload_rllib.envs.goal import COST, SCORE, cost_of, goal_of
from offload_rllib.envs.vector import batch_of
from offload_rllib.evaluation.rule_tuning import rank_rules, tune_rule
from offload_rllib.runs.training_run import BEST, POLICY_FOLDER, RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.objectives import OBJECTIVES
from offload_rllib.training.selection import selected
from offload_rllib.training.status import RunWatch

ENERGY = {"kind": "power", "devices": [{"idle_w": 3.0, "core_busy_w": 5.0, "transmit_w": 0.5}]}
PRICE = {"devices": [{"per_core_s": 0.25, "per_bit": 3e-6}]}
TERMS = {"drop_penalty_s": 7.0, "energy_weight": 0.7, "price_weight": 11.0}


def charged(horizon_s: float = 2000.0, **reward: Any) -> dict[str, Any]:
    """Return the small network, with all tasks of a long episode in the score, and a reward of four terms."""
    reward = {"scope": "team", "scale": 0.3} | TERMS | reward
    return at_once(energy=ENERGY, price=PRICE, reward=reward, warmup_s=0.0, drain_s=0.0, horizon_s=horizon_s)


@pytest.mark.parametrize("weights", [None, *({name: 1.0} for name in OBJECTIVES), {"response": 1, "price": 3}])
def test_the_mean_cost_is_what_the_reward_takes_off(weights: dict[str, float] | None) -> None:
    env = make_env(charged(weights=weights))
    while not env.truncated[0]:
        env.step(env.heuristic_actions("random"))
    tasks = int(env.state.episode["tasks_made"][0])
    earned = float(env.step_rewards(0, len(env.agents)).sum())
    # A task that is inside at the end has cost its age so far, and scores more.
    assert env.episode_metrics(0)[COST] * tasks * 0.3 == pytest.approx(-earned, rel=0.02)


def test_rewards_of_time_alone_are_ranked_by_the_score() -> None:
    for reward, goal in (
        ({}, SCORE),
        ({"drop_penalty_s": 1.0}, COST),
        ({"energy_weight": 1.0}, COST),
        ({"price_weight": 1.0}, COST),
        ({"name": "sparse", "price_weight": 1.0}, SCORE),
    ):
        config = load_environment(at_once(energy=ENERGY, price=PRICE, reward={"scope": "team"} | reward))
        assert goal_of(config.reward) == goal
        figures = cost_of(config.reward, {SCORE: 2.0, "dropped_share": 0.5}, 0)
        assert set(figures) == ({COST} if goal == COST else set())


def test_rules_are_ranked_and_tuned_by_the_cost() -> None:
    config = load_environment("priced_7")
    by_cost, by_score = rank_rules(config, episodes=4), rank_rules(config, episodes=4, metric=SCORE)
    assert (by_cost.metric, by_cost.best) == (COST, "least_cost")
    assert by_score.best != "least_cost"
    assert tune_rule(config, "keep_first", episodes=2, values=[0.25]).metric == COST


def make_run(folder: Path) -> RunFolder:
    return RunFolder.create(str(folder / "run"), load_environment(charged()), load_policy_config("ppo"), "run")


def test_the_policy_of_the_lowest_cost_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    offered: list[float] = []
    monkeypatch.setattr(
        RunWatch, "_keep_best", lambda _watch, _checkpoint, standing, _steps: offered.append(standing[1])
    )
    with RunWatch(run, run.policy_config.training) as watch:
        figures = {"num_env_steps_sampled_lifetime": 1, "num_episodes": 20, "offload": {SCORE: 1.0, COST: 7.0}}
        about = {"env_runners": figures, "training_iteration": 1, "time_total_s": 2.0, "time_this_iter_s": 1.0}
        watch.on_trial_result(0, [], SimpleNamespace(local_path=None), about)
        trial = SimpleNamespace(last_result=about)
        watch.on_checkpoint(0, [], trial, SimpleNamespace(path="checkpoint"))
    assert offered == [7.0]


def test_the_policy_of_the_lowest_cost_is_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    env = batch_of(build_scenario(load_environment(charged(horizon_s=40.0))), 1)
    for draw, name in enumerate((BEST, "last")):
        kept(run.path / name / POLICY_FOLDER, env, draw=draw)
    asked: list[float] = []

    def figures(_batch: EnvBatch, _e: int) -> dict[str, float]:
        # The policy that plays first is better by its cost, and worse by its score.
        asked.append(1.0 + len(asked))
        return {COST: asked[-1], SCORE: -asked[-1]}

    monkeypatch.setattr(EnvBatch, "episode_metrics", figures)
    assert selected(run, run.path / "last" / POLICY_FOLDER, env) == run.path / "last" / POLICY_FOLDER
