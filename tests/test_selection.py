"""`training.final_policy: selected`: the best of a run's policies on training episodes is its final one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import ARRIVAL, typed_environment
from helpers.policies import kept

from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.config.policy import Network
from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys, training_key
from offload_rllib.policies.saved import load_description, load_saved_policy
from offload_rllib.runs.training_run import BEST, POLICY_FOLDER, RECORD, RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.training.imitation import imitate
from offload_rllib.training.model_card import write_model_card
from offload_rllib.training.selection import EPISODES, LAST, PLAYED_BY, selected
from offload_rllib.training.warm_start import START

NETWORK = Network(hidden=(32,))
POLICY = {
    "algorithm": {"name": "PPO"},
    "network": {"hidden": [32]},
    "training": {
        "imitate": {"rule": "best", "decisions": 6000, "epochs": 20},
        "final_policy": "selected",
        "seed": 3,
    },
}


@pytest.fixture(scope="module")
def environment() -> EnvironmentConfig:
    return load_environment(typed_environment() | {"decisions": ARRIVAL})


@pytest.fixture(scope="module")
def env(environment: EnvironmentConfig) -> NativeEnv:
    return batch_of(build_scenario(environment), 1)


@pytest.fixture
def run(environment: EnvironmentConfig, env: NativeEnv, tmp_path: Path) -> RunFolder:
    """Return a run that began with a good clone, passed a random policy, and has another random one at its end."""
    run = RunFolder.create(str(tmp_path / "run"), environment, load_policy_config(POLICY), "", environment_name="small")
    imitate(run.path / START, run.policy_config, env)
    for draw, name in enumerate((BEST, LAST)):
        kept(run.path / name / POLICY_FOLDER, env, draw=draw, network=NETWORK)
    return run


def mean_score(folder: Path, env: NativeEnv) -> float:
    return mean_figure(folder, env, "score_mean_s")


def mean_figure(folder: Path, env: NativeEnv, figure: str) -> float:
    """Return a saved policy's figure on the episodes that select, played one by one."""
    found = []
    for episode in range(EPISODES):
        alone = batch_of(env.scenario, 1)
        policy = load_saved_policy(folder).on(alone)
        alone.reset(np.array([training_key(3, PLAYED_BY, 0, episode)], np.uint64))
        while not alone.truncated.all():
            alone.step(policy(alone.observations, alone.masks, agents=alone.deciding))
        found.append(alone.episode_metrics(0)[figure])
    return float(np.nanmean(found))


def test_the_best_on_training_episodes_is_selected_whichever_it_is(run: RunFolder, env: NativeEnv) -> None:
    last, best, start = run.path / LAST / POLICY_FOLDER, run.path / BEST / POLICY_FOLDER, run.path / START
    assert selected(run, last, env) == start
    noted = json.loads((run.path / RECORD).read_text())["selected"]
    assert noted["policy"] == START
    assert noted["scores_s"][START] == pytest.approx(mean_score(start, env), rel=1e-5)
    assert noted["scores_s"][LAST] == pytest.approx(mean_score(last, env), rel=1e-5)
    assert noted["scores_s"][START] < noted["scores_s"][LAST]
    for folder, name in ((best, BEST), (last, LAST)):  # the good one stands elsewhere
        for path in start.glob("*.safetensors"):
            shutil.copy(path, folder)
        shutil.rmtree(start, ignore_errors=True)
        shutil.copytree(folder, run.path / "good", dirs_exist_ok=True)
        assert selected(run, last, env) == folder, name
        shutil.copytree(run.path / "good", start)
        kept(folder, env, network=NETWORK)


def test_no_held_out_episode_selects() -> None:
    keys = {training_key(3, PLAYED_BY, 0, episode) for episode in range(EPISODES)}
    assert not keys & set(held_out_keys(3, 1000).tolist())


def test_the_final_policy_has_the_selected_weights_and_the_run_as_its_origin(run: RunFolder) -> None:
    last = run.path / LAST / POLICY_FOLDER
    run.keep_final_policy(last, run.path / START)
    final = run.path / POLICY_FOLDER
    assert load_description(final) == load_description(last)
    for path in (run.path / START).glob("*.safetensors"):
        assert (final / path.name).read_bytes() == path.read_bytes()
    run.keep_final_policy(last)
    assert (final / "shared.safetensors").read_bytes() == (last / "shared.safetensors").read_bytes()


def test_the_model_card_states_the_scores(run: RunFolder, env: NativeEnv) -> None:
    last = run.path / LAST / POLICY_FOLDER
    run.keep_final_policy(last, selected(run, last, env))
    card = write_model_card(run).read_text()
    assert "| selected | start; on training episodes: last " in card


@pytest.mark.parametrize(
    ("at_most", "chosen"),
    # The policy with the lower score lets 17 % of these tasks expire, the other one 12 %.
    [(0.2, BEST), (0.15, LAST), (0.05, LAST)],
)
def test_policies_that_keep_the_bounds_come_first_and_then_the_nearest(
    at_most: float, chosen: str, environment: EnvironmentConfig, env: NativeEnv, tmp_path: Path
) -> None:
    figure = "dropped_expired_share_of_type_1"
    bounds = [{"figure": figure, "at_most": at_most}, {"figure": "dropped_share", "at_most": 0.9}]
    policy = load_policy_config(POLICY | {"algorithm": {"name": "PPO", "constraints": bounds}})
    run = RunFolder.create(str(tmp_path / "run"), environment, policy, "", environment_name="small")
    folders = {name: run.path / name / POLICY_FOLDER for name in (BEST, LAST)}
    for draw, folder in enumerate(folders.values()):
        kept(folder, env, draw=draw, network=NETWORK)
    assert selected(run, folders[LAST], env) == folders[chosen]
    noted = json.loads((run.path / RECORD).read_text())["selected"]
    assert noted["scores_s"][BEST] < noted["scores_s"][LAST]
    for name, folder in folders.items():
        excess = max(mean_figure(folder, env, figure) - at_most, 0.0)
        assert noted["excesses"][name] == pytest.approx(excess, abs=1e-6)
