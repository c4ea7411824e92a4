"""A run that is restored goes on with the coefficients that it would have used without the interruption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import small_environment
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.rllib import register_environments
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.training.rllib_config import algorithm_config

ENV_STEPS = 1600
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": {"batch_env_steps": 160, "minibatch_steps": 80, "epochs": 1},
    "A2C": {"batch_env_steps": 160},
    "APPO": {"batch_env_steps": 80, "fragment_steps": 20},
    "DDQN": {
        "sample_env_steps": 160,
        "batch_env_steps": 160,
        "learning_starts": 10,
        "batch_transitions": 16,
        "epsilon_decay_env_steps": ENV_STEPS,
        "epsilon_final": 0.0,
    },
}


def make_config(name: str) -> Any:
    register_environments()
    algorithm = {"name": name, "lr": 1e-3, "final_lr": 2e-4} | ALGORITHMS[name]
    if name != "DDQN":
        algorithm |= {"entropy_coeff": 0.5, "final_entropy_coeff": 0.1}
    policy = {
        "algorithm": algorithm,
        "network": {"hidden": [8]},
        "training": {"runners": int(name == "APPO"), "envs_per_runner": 4, "env_steps": ENV_STEPS, "seed": 3},
    }
    return algorithm_config(load_environment(small_environment()), load_policy_config(policy), cpus=2)


def along(first: float, last: float, env_steps: int) -> float:
    return first + (last - first) * env_steps / ENV_STEPS


@pytest.mark.parametrize("name", ["PPO", "A2C", "APPO"])
def test_a_restored_learner_is_where_its_schedules_were(name: str) -> None:
    config = make_config(name)
    runner_class = EpisodesEnvRunner if name == "APPO" else BatchedEnvRunner
    runner = runner_class(config=config, worker_index=1)
    first, second = (config.copy().build_learner(env=None, spaces=runner.get_spaces()) for _ in range(2))
    steps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: 400}
    first.before_gradient_based_update(timesteps=steps)
    first.after_gradient_based_update(timesteps=steps)
    second.set_state(first.get_state())
    for learner in (second, first):
        _, optimizer = learner.get_optimizers_for_module(SHARED)[0]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(along(1e-3, 2e-4, 400))
        (schedule,) = learner.schedules()
        assert float(schedule.get_current_value()) == pytest.approx(along(0.5, 0.1, 400))
    assert second.get_state().keys() == first.get_state().keys()
    if name == "APPO":
        first.shutdown()
        second.shutdown()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["PPO", "A2C", "DDQN"])
def test_a_restored_run_learns_with_the_coefficients_of_its_time(name: str, tmp_path: Any) -> None:
    config = make_config(name)
    first, second = config.copy().build_algo(), config.copy().build_algo()
    try:
        first.train()
        first.train()
        first.save_checkpoint(str(tmp_path))
        second.load_checkpoint(str(tmp_path))
        used: dict[str, list[Any]] = {}
        for which, algorithm in (("on", first), ("restored", second)):
            learner = algorithm.learner_group._learner
            seen = used.setdefault(which, [])
            original = learner.compute_loss_for_module

            def watched(*, _learner: Any = learner, _seen: Any = seen, _original: Any = original, **how: Any) -> Any:
                _, optimizer = _learner.get_optimizers_for_module(SHARED)[0]
                coefficients = [float(schedule.get_current_value()) for schedule in _learner.schedules()]
                _seen.append([optimizer.param_groups[0]["lr"], *coefficients])
                return _original(**how)

            learner.compute_loss_for_module = watched
            algorithm.train()
            if name == "DDQN":
                module = algorithm.env_runner_group.local_env_runner.module[SHARED]
                seen.append([float(module.epsilon.get_current_value())])
        assert used["restored"]
        np.testing.assert_allclose(used["restored"][0], used["on"][0])
        np.testing.assert_allclose(used["restored"][-1], used["on"][-1])
        expected = [along(1e-3, 2e-4, 320), along(0.5, 0.1, 320)]
        assert used["restored"][0] == pytest.approx(expected[:1] if name == "DDQN" else expected)
    finally:
        first.stop()
        second.stop()
