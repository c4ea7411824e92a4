"""Runs go on as if they had never stopped, stop when nothing can be learned any more, and log a bounded amount."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from helpers.environments import small_environment
from helpers.results import leaves
from rich.console import Console
from safetensors.torch import load_file

from offload_rllib import cli
from offload_rllib.algorithms.direct_learner import DivergedError
from offload_rllib.config import PolicyConfig, load_environment, load_policy_config
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.callbacks import OffloadCallback
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training import train as training_module
from offload_rllib.training.rllib_config import algorithm_config

BATCH = 160
STEPS = 10 * BATCH
LR, FINAL_LR = 1e-3, 1e-4
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": {"entropy_coeff": 0.1, "final_entropy_coeff": 0.0, "minibatch_steps": 64, "epochs": 2},
    "A2C": {"entropy_coeff": 0.1, "final_entropy_coeff": 0.0},
    "DDQN": {"sample_env_steps": 80, "learning_starts": 20, "replay_capacity": 2000, "batch_transitions": 32},
}


def policy_config(algorithm: str, sharing: str = "shared", **settings: Any) -> PolicyConfig:
    """Return a policy that is trained in seconds, with a step size that falls."""
    return load_policy_config(
        {
            "sharing": sharing,
            "algorithm": {"name": algorithm, "batch_env_steps": BATCH, "lr": LR, "final_lr": FINAL_LR}
            | ALGORITHMS[algorithm],
            "network": {"hidden": [16, 16]},
            "training": {"runners": 0, "envs_per_runner": 4, "env_steps": STEPS, "seed": 3} | settings,
        }
    )


def build(algorithm: str, sharing: str = "shared", environment: Any = None, **settings: Any) -> Any:
    environment = load_environment(environment or small_environment())
    return algorithm_config(environment, policy_config(algorithm, sharing, **settings), cpus=2).build_algo()


def line(first: float, last: float, env_steps: int) -> float:
    return first + (last - first) * env_steps / STEPS


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_counters_schedules_and_weights_go_on_after_a_restore(name: str, tmp_path: Path) -> None:
    first, second = build(name), build(name)
    try:
        first.train()
        first.train()
        first.save_checkpoint(str(tmp_path))
        second.load_checkpoint(str(tmp_path))
        for key, value in first.learner_group.get_weights()[SHARED].items():
            np.testing.assert_array_equal(second.learner_group.get_weights()[SHARED][key], value)
        acting = second.env_runner_group.local_env_runner.module[SHARED].state_dict()
        for key, value in first.env_runner_group.local_env_runner.module[SHARED].state_dict().items():
            assert torch.equal(acting[key], value), key
        for count in (3, 4):
            results = [algorithm.train() for algorithm in (first, second)]
            for algorithm, result in zip((first, second), results, strict=True):
                steps = count * BATCH
                assert result["env_runners"]["num_env_steps_sampled_lifetime"] == steps
                assert result["timesteps_total"] == steps
                learner = algorithm.learner_group._learner
                lr = learner.get_optimizer(SHARED).param_groups[0]["lr"]
                assert lr == pytest.approx(line(LR, FINAL_LR, steps), rel=1e-5), "the line of the whole run"
                assert result["learners"][SHARED]["default_optimizer_learning_rate"] == pytest.approx(lr, rel=0.1)
                if name in ("A2C", "PPO"):
                    coeff = learner.entropy_coeff_schedulers_per_module[SHARED].get_current_value()
                else:
                    continue
                assert coeff == pytest.approx(line(0.1, 0.0, steps), rel=1e-5)
    finally:
        first.stop()
        second.stop()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_policy_of_its_own_for_every_node_adds_few_result_keys(name: str) -> None:
    counts, keys = [], []
    short = {"horizon_s": 40, "warmup_s": 0, "drain_s": 0}
    for size in ("ether_12", "ether_19"):
        content = load_environment(size).model_dump(mode="json") | short
        algorithm = build(name, "per_node", content)
        try:
            for _ in range(3):
                result = algorithm.train()
                result.pop("config")
                counts.append(leaves(result))
            keys.append(len(algorithm.config.policies))
        finally:
            algorithm.stop()
    more = keys[1] - keys[0]
    assert more >= 5
    assert counts[5] - counts[2] <= 40 * more, counts
    assert counts[5] < 350 + 40 * keys[1], counts


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_runner_that_is_started_again_in_a_run_plays_no_episode_twice() -> None:
    algorithm = build("PPO", runners=2, envs_per_runner=2)
    group = algorithm.env_runner_group

    def played() -> dict[int, set[int]]:
        return dict(group.foreach_env_runner(lambda r: (r.worker_index, set(r.keys.tolist())), local_env_runner=False))

    try:
        seen: dict[int, set[int]] = {1: set(), 2: set()}
        for _ in range(3):  # an episode is 40 steps, a batch 40 of each environment: every batch new episodes
            algorithm.train()
            for worker, keys in played().items():
                assert not keys & (seen[1] | seen[2]), "no episode is played twice, by whomever"
                seen[worker] |= keys
        ray.kill(group._worker_manager.actors()[1], no_restart=False)  # as a crash: Ray starts it again
        deadline = time.monotonic() + 120
        while not group.num_remote_worker_restarts():
            assert time.monotonic() < deadline
            algorithm.train()
        algorithm.train()
        after = played()
        assert after[1]
        assert not after[1] & (seen[1] | seen[2])
        assert not after[1] & after[2]
    finally:
        algorithm.stop()


class Poison(OffloadCallback):
    """Gives the learner a reward that is not a number, from the third batch on."""

    def on_sample_end(self, *, env_runner: Any = None, samples: Any = (), **_: Any) -> None:
        if env_runner.num_env_steps_sampled_lifetime > 2 * BATCH:
            for fragment in samples:
                fragment.rewards[:] = np.nan


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["PPO", *(pytest.param(name, marks=pytest.mark.slow) for name in ("A2C", "DDQN"))])
def test_a_loss_that_is_not_a_number_ends_the_run_and_spares_the_last_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def poisoned(*arguments: Any, **options: Any) -> Any:
        return algorithm_config(*arguments, **options).callbacks(Poison)

    monkeypatch.setattr(training_module, "algorithm_config", poisoned)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import the tests
    run = RunFolder.create("poisoned", load_environment(small_environment()), policy_config(name), "x")
    with pytest.raises(training_module.TrainingError) as error:
        training_module.train(run, Console(quiet=True))
    message = str(error.value)
    assert f"{DivergedError.__name__}: policy '{SHARED}': a loss or its gradient is not finite (loss nan" in message
    assert "--resume runs/poisoned" in message
    assert json.loads((run.path / "run.json").read_text())["state"] == "failed"
    with (run.path / "tune" / "trial" / "result.json").open() as file:
        assert [json.loads(text)["timesteps_total"] for text in file] == [BATCH, 2 * BATCH]
    newest = run.policy_folder()
    assert json.loads((newest / "policy.json").read_text())["env_steps"] == 2 * BATCH
    for weights in load_file(newest / f"{SHARED}.safetensors").values():
        assert torch.isfinite(weights).all()

    # The command line says the same, and that the run failed.
    monkeypatch.setattr(sys, "argv", ["offload-rllib", "train", "--resume", "runs/poisoned"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    assert f"{DivergedError.__name__}: policy '{SHARED}'" in capsys.readouterr().err
