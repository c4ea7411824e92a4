"""The blocks of docs/clients.md run as they stand, with the libraries that they are about."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "clients.md"


def block(heading: str, number: int = 0) -> str:
    """Return a Python block of a section of the page."""
    _, _, rest = PAGE.read_text().partition(f"\n## {heading}\n")
    section, _, _ = rest.partition("\n## ")
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]


def run(heading: str, number: int = 0) -> dict[str, Any]:
    """Run a block, and return its names."""
    names: dict[str, Any] = {"__name__": "block"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others deprecate in each other
        exec(compile(block(heading, number), f"{PAGE.name}: {heading}", "exec"), names)  # noqa: S102 - our own page
    return names


def test_a_loop_of_ones_own_trains() -> None:
    names = run("A loop of your own")
    assert len(names["scores"]) == len(names["returns"]) >= 4, "several episodes of two environments"
    assert len(set(names["scores"])) == len(names["scores"]), "no episode is played twice"
    assert all(np.isfinite(names["scores"]))
    assert torch.isfinite(names["loss"])


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", [0, 1])
def test_rllibs_own_ppo_trains_as_the_page_says(number: int) -> None:
    names = run("RLlib's own algorithms", number)
    assert names["result"]["env_runners"]["offload"]["score_mean_s"] > 0
    assert names["result"]["learners"]["shared"]["num_module_steps_trained"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_stable_baselines_trains(number: int) -> None:
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("supersuit")
    model = run("Stable-Baselines3", number)["model"]
    assert model.num_timesteps >= 128
    assert len(model.ep_info_buffer) > 0, "Monitor has seen episodes end"
    assert all(np.isfinite(episode["r"]) for episode in model.ep_info_buffer)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert min(lengths) > 1, "an episode has one step for each decision"
    assert len(set(lengths)) > 1, "and episodes differ in how many there are"
    assert model._n_updates >= 4


@pytest.mark.slow
def test_masks_reach_maskable_ppo() -> None:
    pytest.importorskip("sb3_contrib")
    names = run("Stable-Baselines3", 1)
    model, env = names["model"], names["env"]
    seen, _ = env.reset(seed=3)
    for _ in range(30):
        action, _ = model.predict(seen, action_masks=env.action_masks())
        assert seen["action_mask"][action] == 1
        seen, _, _, is_over, _ = env.step(action)
        if is_over:
            seen, _ = env.reset()


@pytest.mark.slow
def test_torchrl_trains() -> None:
    pytest.importorskip("torchrl")
    names = run("TorchRL")
    assert len(names["losses"]) == 2
    assert all(np.isfinite(names["losses"]))
    batch = names["batch"]
    assert batch["state"].shape[-1] == names["agents"] * names["size"]
    chosen = batch["agents", "action_mask"].gather(-1, batch["agents", "action"].unsqueeze(-1))
    assert chosen.all(), "only valid actions are drawn"


@pytest.mark.slow
def test_benchmarl_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("benchmarl")
    monkeypatch.chdir(tmp_path)
    experiment = run("BenchMARL")["experiment"]
    assert experiment.n_iters_performed == 2
    assert experiment.total_frames == 240
    assert experiment.task.max_steps(experiment.test_env) > 1000, "more than an episode has decisions"
    assert experiment.action_mask_spec is not None
    assert experiment.state_spec is not None


@pytest.mark.slow
def test_benchmarls_environments_play_different_episodes() -> None:
    pytest.importorskip("benchmarl")
    from helpers.environments import small_environment

    from offload_rllib.envs.benchmarl import OffloadTaskClass

    task = OffloadTaskClass("OFFLOAD", {"env": small_environment()})
    keys = []
    for _ in range(2):  # once to train, once to evaluate
        make = task.get_env_fun(2, continuous_actions=False, seed=0, device="cpu")
        keys += [int(make()._env._batch.state.episode[0]["key"]) for _ in range(2)]
    assert len(set(keys)) == 4


@pytest.mark.slow
def test_tianshou_trains() -> None:
    pytest.importorskip("tianshou")
    names = run("Tianshou")
    assert len(names["buffer"]) >= 240
    assert names["statistics"] is not None
