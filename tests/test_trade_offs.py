"""One policy learns every trade-off of a small case whose best actions are known for all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.evaluation.fronts import play_front
from offload_rllib.policies.saved import POLICY_FOLDER, load_saved_policy
from offload_rllib.scenario import build_scenario

POLICY = {
    "algorithm": {
        "name": "PPO",
        "lr": 5e-3,
        "batch_env_steps": 1024,
        "minibatch_steps": 256,
        "epochs": 4,
        "entropy_coeff": 0.01,
    },
    "network": {"hidden": [32, 32]},
    "training": {"runners": 0, "envs_per_runner": 32, "env_steps": 24_576},
}


def two_nodes(folder: Path) -> dict[str, Any]:
    """Return a node with a task every ten seconds, and a neighbour that is faster and draws more.

    Kept, a task takes 4 s and 4 J. Sent, it takes 0.75 + 2 + 0.25 = 3 s and 18 J. With 1/14 s a joule, keeping costs
    1 s more of response and 1 s less of energy: sending is best where response has more than half of the weight.
    """
    file = folder / "tasks.csv"
    rows = [f"{time_s},slow,4.0,500,0" for time_s in (1, 11, 21, 31)]
    file.write_text("\n".join(["time_s,origin,work,bits_in,bits_out", *rows]) + "\n")
    columns = {name: name for name in ("origin", "work", "bits_in", "bits_out")}
    devices = [{"types": ["pi"], "core_busy_w": 1.0}, {"types": ["server"], "core_busy_w": 9.0}]
    return {
        "horizon_s": 40.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "slow", "type": "pi", "instructions_per_second": 1.0, "client": True},
                {"name": "fast", "type": "server", "instructions_per_second": 2.0},
            ],
            "links": [["slow", "fast"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1000.0, "latency_s": 0.25},
        "service": "parallel",
        "workload": {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}},
        "energy": {"kind": "power", "devices": devices},
        "decisions": {"max_hops": 1},
        "reward": {"scope": "own", "energy_weight": 1 / 14, "weights": "drawn"},
    }


def test_rewards_are_those_of_the_pencil(tmp_path: Path) -> None:
    for weight in (0.25, 0.75):
        content = two_nodes(tmp_path)
        content["reward"]["weights"] = {"response": weight, "energy": 1 - weight}
        costs = []
        for action in (0, 1):
            env = make_env(content)
            while not env.truncated[0]:
                env.step(np.array([action]))
            costs.append(-float(env.step_rewards(0, 1)[0]) / 4)
        assert costs[0] == pytest.approx(weight * 4 + (1 - weight) * 4 / 14, rel=1e-6)
        assert costs[1] == pytest.approx(weight * 3 + (1 - weight) * 18 / 14, rel=1e-6)


@pytest.mark.usefixtures("ray_session")
def test_one_policy_takes_the_best_action_for_every_weight(tmp_path: Path) -> None:
    from offload_rllib.training.rllib_config import algorithm_config

    environment = load_environment(two_nodes(tmp_path))
    config = load_policy_config(POLICY)
    algorithm: Any = algorithm_config(environment, config, cpus=2).build_algo()
    while algorithm.env_steps < config.training.env_steps:
        algorithm.train()
    algorithm.save_checkpoint(str(tmp_path))
    algorithm.stop()
    env = batch_of(build_scenario(environment), 200)
    env.reset(held_out_keys(0, 200))
    policy = load_saved_policy(tmp_path / POLICY_FOLDER).on(env)
    response = env.state.weight[:, 0]
    clear = np.abs(response - 0.5) > 0.1
    assert clear.sum() > 100
    sent = policy(env.observations, env.masks, agents=env.deciding) == 1
    np.testing.assert_array_equal(sent[clear], (response > 0.5)[clear])
    front = play_front(environment, [str(tmp_path / POLICY_FOLDER)], steps=4, episodes=2)
    for share, *point in front.points[["weight_response", *front.figures]].to_numpy().tolist():
        if share != 0.5:
            # Score in s, and energy in J of four tasks.
            assert point == pytest.approx([3.0, 72.0] if share > 0.5 else [4.0, 16.0])
    # Both ends of the front: 1.1 x 0.1 of the first, 0.1 x 1 more of the second, of a box of 1.1 x 1.1.
    assert front.hypervolume(POLICY_FOLDER) >= 0.21 / 1.21 - 1e-9
