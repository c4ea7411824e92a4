"""IPPO and MAPPO of BenchMARL, for `benchmarks/sample_efficiency.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarl.algorithms import IppoConfig, MappoConfig  # pyright: ignore[reportMissingImports] - no dependency of this package
from benchmarl.experiment import Experiment, ExperimentConfig  # pyright: ignore[reportMissingImports] - the same
from benchmarl.models.mlp import MlpConfig  # pyright: ignore[reportMissingImports] - the same
from tensordict import TensorDict  # pyright: ignore[reportMissingImports] - the same
from torchrl.envs.utils import ExplorationType, set_exploration_type  # pyright: ignore[reportMissingImports] - the same

import offload_rllib
from offload_rllib.envs.benchmarl import AGENTS, OffloadTask
from offload_rllib.envs.spaces import ACTION_MASK, OBSERVATION


def train(
    env: str, decisions: int, seed: int, folder: Path, *, central: bool
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return what maps observations [E, F] and masks [E, R] to actions [E], after so many decisions.

    Defaults are those of the library, networks 64 x 64.

    Args:
        env: a preset.
        decisions: frames; in a frame one agent decides, and the others may only choose 0.
        seed: of weights and episodes.
        folder: for what the library writes.
        central: MAPPO instead of IPPO.
    """
    config = ExperimentConfig.get_from_yaml()
    config.max_n_iters, config.max_n_frames = None, decisions
    config.evaluation, config.render, config.loggers, config.create_json = False, False, [], False
    config.save_folder = str(folder)
    network = MlpConfig(num_cells=[64, 64], activation_class=torch.nn.Tanh, layer_class=torch.nn.Linear)
    task: Any = OffloadTask.OFFLOAD  # the library makes tasks of the members, which are None
    experiment = Experiment(
        task=task.get_task({"env": env}),
        algorithm_config=(MappoConfig if central else IppoConfig).get_from_yaml(),
        model_config=network,
        critic_model_config=network,
        seed=seed,
        config=config,
    )
    experiment.run()
    agents = len(offload_rllib.parallel_env(env).possible_agents)

    def player(seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
        # One network for all agents, asked as all of them at once: the first answers.
        places = {(AGENTS, OBSERVATION, OBSERVATION): seen, (AGENTS, ACTION_MASK): masks.astype(bool)}
        rows = {at: torch.from_numpy(row).unsqueeze(1).expand(-1, agents, -1) for at, row in places.items()}
        given = TensorDict(rows, [len(seen)])
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            return experiment.policy(given)[AGENTS, "action"][:, 0].numpy()

    return player
