"""Several objectives: weights of an episode, drawn or given, in the reward and in what agents see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import at_once, make_env, refused, small_environment

from offload_rllib.config import load_environment
from offload_rllib.envs.node_view import NodeView, of_one_node
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.objectives import OBJECTIVES, objectives_of

ENERGY = {"kind": "power", "devices": [{"core_busy_w": 5.0, "transmit_w": 0.5}]}
PRICE = {"devices": [{"per_core_s": 0.25, "per_bit": 3e-6}]}
TERMS = {"drop_penalty_s": 7.0, "energy_weight": 0.7, "price_weight": 11.0}


def environment(weights: Any, *, clocked: bool = False, **reward: Any) -> dict[str, Any]:
    """Return the small network with an account of energy and prices, and a reward of four terms."""
    make = small_environment if clocked else at_once
    return make(energy=ENERGY, price=PRICE, reward={"scope": "team", "weights": weights} | TERMS | reward)


def played(content: dict[str, Any]) -> float:
    """Return the team's reward over an episode under random actions, the same in every call."""
    env = make_env(content)
    total = 0.0
    while not env.truncated[0]:
        env.step(env.heuristic_actions("random"))
        total += float(env.rewards[0, 0]) if env.rewards.ndim > 1 else 0.0
    return total if env.rewards.ndim > 1 else float(env.step_rewards(0, 1)[0])


@pytest.mark.parametrize("clocked", [False, True])
def test_the_reward_is_the_weighted_sum_of_its_terms(*, clocked: bool) -> None:
    alone = {name: played(environment({name: 2.0}, clocked=clocked)) for name in OBJECTIVES}
    assert all(value < -1.0 for value in alone.values()), alone
    assert sum(alone.values()) == pytest.approx(played(environment(None, clocked=clocked)), rel=1e-6)
    weights = {"response": 1.0, "drops": 2.0, "energy": 4.0, "price": 3.0}  # divided by their sum, 10
    expected = sum(alone[name] * weight / 10 for name, weight in weights.items())
    assert played(environment(weights, clocked=clocked)) == pytest.approx(expected, rel=1e-6)


def test_weights_are_drawn_uniformly_by_the_key_of_the_episode_alone() -> None:
    scenario = build_scenario(load_environment(environment("drawn", price_weight=0.0)))
    assert objectives_of(scenario.arrays) == ("response", "drops", "energy")
    keys = held_out_keys(5, 600)
    batch = batch_of(scenario, 300)
    drawn = []
    for part in (keys[:300], keys[300:]):
        batch.reset(part)
        drawn.append(batch.state.weight.copy())
    weights = np.concatenate(drawn)
    assert weights[:, 3].tolist() == [0.0] * 600, "the reward has no price"
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    # Of three weights that are uniform where they sum to 1, one is below x with probability 1 - (1 - x)^2.
    for x in (0.1, 0.3, 0.6):
        assert (weights[:, :3] < x).mean(0) == pytest.approx(1 - (1 - x) ** 2, abs=0.05)
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1] + 0.5) < 0.1
    one = batch_of(scenario, 1)
    one.reset(keys[41:42])
    assert one.state.weight[0].tolist() == weights[41].tolist(), "the same in a batch of any size"
    one.play("random")
    assert one.episode_metrics(0)["weight_energy"] == weights[41, 2]
    assert "weight_price" not in one.episode_metrics(0)


def test_agents_see_the_weights_and_what_an_action_costs_of_each_objective() -> None:
    env = make_env(environment("drawn"), 3)
    names = list(env.layout.names)
    first = names.index("self.weight_response")
    assert names[first : first + 4] == [f"self.weight_{name}" for name in OBJECTIVES]
    assert names[first - 1] == "self.degree"
    np.testing.assert_array_equal(env.observations[:, first : first + 4], env.state.weight.astype(np.float32))
    plain = make_env(environment(None), 3)
    tau_s = float(env.scenario.arrays.settings[0]["time_scale_s"])
    shown = 0
    for _ in range(30):
        assert (plain.deciding == env.deciding).all()
        both = env.observations[:, [names.index(f"row_1.charge_{name}") for name in ("energy", "price")]].astype(float)
        together = plain.observations[:, plain.layout.names.index("row_1.charge")].astype(float)
        raw = (tau_s * both / (1 - both)).sum(1)
        np.testing.assert_allclose(raw, tau_s * together / (1 - together), rtol=1e-4)
        shown += int((both > 0).all(1).sum())
        actions = env.heuristic_actions("random")
        env.step(actions)
        plain.step(actions)
    assert shown > 20


def test_only_terms_of_the_reward_are_shown() -> None:
    shown = make_env(environment("drawn", energy_weight=0.0, drop_penalty_s=0.0)).layout.names
    assert [name for name in shown if "weight" in name] == ["self.weight_response", "self.weight_price"]
    assert [name for name in shown if "charge" in name and name.startswith("row_1")] == ["row_1.charge_price"]
    plain = make_env(environment(None, energy_weight=0.0, price_weight=0.0)).layout.names
    assert not [name for name in plain if "weight" in name or "charge" in name]


def test_a_node_of_a_real_network_finds_the_weights_of_its_episode() -> None:
    scenario = build_scenario(load_environment(environment("drawn")))
    env = batch_of(scenario, 1)
    keys = held_out_keys(0, 1)
    env.reset(keys)
    view = NodeView(of_one_node(scenario.arrays), 0, int(keys[0]), 1.0, env.num_actions)
    assert view.state.weight[0].tolist() == env.state.weight[0].tolist()
    view.write_tasks([], [])
    first = env.layout.names.index("self.weight_response")
    assert view.observe(1.0)[0][first : first + 4].tolist() == env.observations[0, first : first + 4].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            environment({"response": 1.0, "price": 0.5}, price_weight=0.0),
            r"reward.weights.price: 0.5 needs reward.price_w",
        ),
        (environment({"response": 0.0}), r"all weights are 0"),
        (environment({"respons": 1.0}), r"reward.weights.*respons"),
        (environment("random"), r"reward.weights.*drawn"),
        (environment("drawn", name="sparse"), r"reward.weights: needs reward.name: delay \(given: sparse\)"),
        (at_once(reward={"weights": "drawn"}), r"nothing to weigh.*reward.drop_penalty_s"),
        (environment("drawn") | {"observe": "paper"}, r"drawn needs agents that see them.*\(given: paper\)"),
    ],
)
def test_weights_that_cannot_be_are_refused(content: dict[str, Any], message: str) -> None:
    refused(content, [], message)
