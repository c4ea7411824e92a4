"""Each folder of `examples/extending` adds its part, by the YAML file in it and without a change of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import at_once
from helpers.policies import policy_config

import offload_rllib
from offload_rllib.config import PolicyConfig, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.training.rllib_config import algorithm_config

EXAMPLES = Path(__file__).parents[1] / "examples" / "extending"
FOLDERS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
SMALL = (
    "algorithm.batch_env_steps=160",
    "algorithm.minibatch_steps=64",
    "network.hidden=[16]",
    "training.runners=0",
    "training.envs_per_runner=4",
)


@pytest.fixture
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of an example the working folder, as its page says."""
    monkeypatch.chdir(EXAMPLES / request.param)
    return EXAMPLES / request.param


def train_once(environment: Any, policy: PolicyConfig) -> dict[str, Any]:
    """Return the results of one iteration."""
    algorithm = algorithm_config(load_environment(environment), policy, cpus=2).build_algo()
    try:
        return algorithm.train()
    finally:
        algorithm.stop()


def test_the_page_lists_every_folder() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert sorted(["heuristic", "reward", "observation", "topology", "algorithm", "metric"]) == FOLDERS
    assert all(f"| `{name}` |" in page for name in FOLDERS)


@pytest.mark.parametrize("folder", ["heuristic"], indirect=True)
def test_a_heuristic_plays_and_serves_nodes_that_do_not_learn(folder: Path) -> None:
    names = ["margin:worth_the_transfer", "shortest_finish"]
    evaluation = evaluate(load_environment(folder / "env.yaml"), make_contenders(names), episodes=4)
    mine, other = (evaluation.of(name, "offloaded_share").mean() for name in names)
    assert 0 < mine < other, "a margin keeps tasks"
    assert evaluation.of(names[0], "masked_actions").sum() == 0
    env = offload_rllib.vector_env("env.yaml")
    assert env.scenario.others == ("gateway", "server")


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("folder", ["reward", "observation"], indirect=True)
def test_a_reward_and_an_observation_are_trained_with(folder: Path) -> None:
    result = train_once("env.yaml", policy_config())
    assert np.isfinite(result["learners"]["shared"]["policy_loss"])
    assert folder.name in ("reward", "observation")


@pytest.mark.parametrize("folder", ["observation"], indirect=True)
def test_an_observation_adds_a_number_for_each_action(folder: Path) -> None:
    env = offload_rllib.vector_env(folder / "env.yaml", 2)
    full = offload_rllib.vector_env(folder / "env.yaml", 2, overrides=["observe=full"])
    assert env.observation_size == full.observation_size + env.num_actions
    for each in (env, full):
        each.reset(offload_rllib.held_out_keys(0, 2))
    assert (env.observations[:, : full.observation_size] == full.observations).all()
    added = env.observations[:, full.observation_size :]
    assert ((added >= 0) & (added <= 1)).all()
    assert (np.where(env.masks == 1, added, 1).min(-1) == 0).all()


@pytest.mark.parametrize("folder", ["topology"], indirect=True)
def test_a_topology_is_drawn_in_every_episode(folder: Path) -> None:
    env = offload_rllib.vector_env(folder / "env.yaml", 2)
    env.reset(offload_rllib.held_out_keys(0, 2))
    rates = [env.scenario_of(e).arrays.link["seconds_per_bit"] for e in range(2)]
    assert len(env.scenario.network.nodes) == 7
    assert (rates[0] != rates[1]).any()
    env.play("shortest_finish")
    assert env.episode_metrics(0)["tasks_finished"] > 10


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("folder", ["algorithm"], indirect=True)
def test_an_algorithm_learns_with_its_own_loss(folder: Path) -> None:
    policy = load_policy_config(folder / "policy.yaml", SMALL)
    assert train_once(at_once(), policy)["learners"]["shared"]["logit_penalty"] > 0


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("folder", ["metric"], indirect=True)
def test_a_metric_is_logged_in_training_and_taken_of_an_evaluation(folder: Path) -> None:
    policy = load_policy_config(folder / "policy.yaml", (*SMALL, "algorithm.batch_env_steps=640"))
    figures = train_once(at_once(), policy)["env_runners"]["offload"]
    assert figures["tail_ratio"] > 1
    evaluation = evaluate(load_environment(at_once()), make_contenders(["local"]), episodes=3)
    ratios = evaluation.with_own_metrics(["score_mean_s", "tail:tail_ratio"]).of("local", "tail_ratio")
    assert ratios == pytest.approx(evaluation.of("local", "score_p95_s") / evaluation.of("local", "score_p50_s"))
