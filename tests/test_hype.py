"""The equations of the rebuilt methods of docs/hype.md, by values against plain references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from offload_rllib.envs.vector import batch_of, training_key, vector_env
from offload_rllib.scenario import BuiltScenario, build_scenario
from scripts.hype import genetic
from scripts.hype.decisions import GAMMA, OPEN, Decisions, NoExtra, Walk
from scripts.hype.dqn_lstm import LoadHistory, double_targets, dueling
from scripts.hype.droo import FinishModel, best_candidates, labels, quantised
from scripts.hype.federated import Networks, average, averaged
from scripts.hype.genetic import ActionFeatures, next_generation, scores_of
from scripts.hype.mappo import GlobalState, ValueNorm, advantages, policy_loss, value_loss
from scripts.hype.network import LOWEST, explored, falling, masked
from tests.helpers.hype import short_environment


@pytest.fixture(scope="module")
def scenario() -> BuiltScenario:
    return build_scenario(short_environment())


def test_double_targets_choose_by_one_network_and_value_by_the_other() -> None:
    following = torch.tensor([[1.0, 5.0, 9.0], [4.0, 3.0, 2.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]])
    masks = torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = double_targets(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.9]), following, target, masks)
    assert found.tolist() == pytest.approx([1 + 0.5 * 20, -2 + 0.9 * 40])  # action 2 of the first is not valid


def test_a_dueling_network_centres_advantages_over_valid_actions() -> None:
    values, gains = torch.tensor([[10.0], [1.0]]), torch.tensor([[1.0, 3.0, 100.0], [1.0, 2.0, 6.0]])
    found = dueling(values, gains, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert found[0, :2].tolist() == [10 + 1 - 2, 10 + 3 - 2]
    assert found[1].tolist() == [1 + 1 - 3, 1 + 2 - 3, 1 + 6 - 3]


def test_histories_of_loads_are_of_one_agent_and_end_with_now() -> None:
    env = vector_env(short_environment(), 2)
    history = LoadHistory(env, 3)
    columns = env.layout.columns("tasks")
    seen = np.zeros((2, env.observation_size), np.float32)
    for step in (1.0, 2.0, 3.0, 4.0):
        seen[:, columns] = [[step], [10 * step]]
        found = history.of(np.array([0, 1]), np.array([5, 5]), seen).reshape(2, 3, -1)
    assert found[0, :, 0].tolist() == [2.0, 3.0, 4.0]
    assert found[1, :, -1].tolist() == [20.0, 30.0, 40.0]
    assert history.of(np.array([0]), np.array([4]), seen[:1]).reshape(3, -1)[:, 0].tolist() == [0.0, 0.0, 4.0]
    history.restart(0)
    found = history.of(np.array([0, 1]), np.array([5, 5]), seen).reshape(2, 3, -1)
    assert found[:, :, 0].tolist() == [[0.0, 0.0, 4.0], [30.0, 40.0, 40.0]]


def test_quantisation_gives_the_candidates_of_a_worked_example() -> None:
    # Distances from 0.5: 0.3, 0.1, 0.2, 0.4.
    relaxed = np.array([[0.2, 0.4, 0.7, 0.9]])
    expected = [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    for count in range(1, 6):
        assert quantised(relaxed, count)[0].astype(int).tolist() == expected[:count]


def test_quantisation_preserves_order() -> None:
    relaxed = np.random.default_rng(0).random((50, 7))
    candidates = quantised(relaxed, 8)
    for numbers, of_row in zip(relaxed, candidates, strict=True):
        for candidate in of_row:
            assert candidate[np.argsort(numbers)].tolist() == sorted(candidate)
        assert len({tuple(candidate) for candidate in of_row}) == 8


def test_the_best_candidate_is_that_of_least_cost() -> None:
    rng = np.random.default_rng(1)
    candidates, costs = rng.random((200, 4, 3)) < 0.4, rng.random((200, 4))
    costs[rng.random((200, 4)) < 0.3] = np.inf
    costs[:, 0] = rng.random(200)
    actions, chosen = best_candidates(candidates, costs)
    for row in range(200):
        found = []
        for candidate in candidates[row]:
            opened = [(costs[row, 1 + d], 1 + d) for d in range(3) if candidate[d] and np.isfinite(costs[row, 1 + d])]
            found.append(min(opened, default=(costs[row, 0], 0)))
        least = min(cost for cost, _ in found)
        assert (found[chosen[row]][0], chosen[row]) == (least, [cost for cost, _ in found].index(least))
        assert actions[row] == found[chosen[row]][1]
    assert labels(np.array([0, 2]), 3).tolist() == [[0, 0, 0], [0, 1, 0]]


def test_the_model_agrees_with_the_rule_that_computes_the_same(scenario: BuiltScenario) -> None:
    env = batch_of(scenario, 1)
    env.reset(np.array([training_key(0, 0, 0, 0)], np.uint64))
    model, compared, late = FinishModel(env.layout), 0, 0
    while not env.truncated[0]:
        costs = model.costs(env.observations, env.masks)[0]
        action = env.heuristic_actions("deadline_finish")
        assert np.isinf(costs[env.masks[0] == 0]).all()
        if (env.observations[0, env.layout.columns("slack")] >= 0)[env.masks[0] > 0].any():
            compared += 1
            assert costs[action[0]] == pytest.approx(costs.min(), rel=1e-5)
        else:
            late += 1
            assert costs[0] < costs[1:].min()
        env.step(action)
    assert compared > 100
    assert late > 0


def test_federated_averages_are_weighted_by_samples() -> None:
    parameters = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]], [[100.0, 100.0]]])
    assert averaged(parameters, torch.tensor([30.0, 10.0, 0.0])).tolist() == [[1.5, 3.0]]
    networks = Networks(3, 4, 2)
    with torch.no_grad():
        for number, parameter in enumerate(networks.parameters()):
            parameter.copy_(torch.arange(3.0).reshape(-1, *[1] * (parameter.dim() - 1)).expand_as(parameter) + number)
    average(networks, torch.tensor([1.0, 1.0, 2.0]))
    for number, parameter in enumerate(networks.parameters()):
        assert parameter.unique().tolist() == [(0 + 1 + 2 * 2) / 4 + number]


def test_networks_of_nodes_are_those_of_each_node_alone() -> None:
    torch.manual_seed(0)
    networks = Networks(3, 5, 4)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.add_(torch.randn_like(parameter))
    seen = torch.randn(3, 7, 5)
    for node in range(3):
        values = seen[node]
        for number, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
            values = (values if not number else values.clamp(min=0)) @ weight[node] + bias[node]
        assert torch.allclose(networks(seen)[node], values, atol=1e-5)
        assert torch.allclose(networks(seen[node][:, None], torch.full((7,), node))[:, 0], values, atol=1e-5)


def test_advantages_follow_each_agent_and_centralised_values() -> None:
    memory = Decisions(1, 2, 0, 2)
    memory.add(np.zeros((6, 1)), np.ones((6, 2)), np.array([0, 1, 0, 1, 0, 1]), np.zeros((6, 0)))
    rewards, elapsed = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.5, 2.0, 0.0])
    memory.finish(np.arange(4), rewards, elapsed, np.array([2, 3, 4, 5]))
    values, lambda_ = np.array([0.3, 0.5, 0.7, 1.1, 1.3, 1.7]), 0.95
    discount = GAMMA**elapsed
    delta = [rewards[i] + discount[i] * values[i + 2] - values[i] for i in range(4)]
    expected = [delta[0] + discount[0] * lambda_ * delta[2], delta[1] + discount[1] * lambda_ * delta[3], *delta[2:]]
    assert advantages(memory, np.arange(4), values, lambda_=lambda_) == pytest.approx(expected, rel=1e-6)
    # In the order in which they ended, and cut where the next decision belongs to another batch.
    assert advantages(memory, np.array([1, 0]), values, lambda_=lambda_) == pytest.approx(delta[1::-1], rel=1e-6)


def test_losses_are_clipped() -> None:
    ratio, gains = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    found = policy_loss(ratio.log(), torch.zeros(4), gains, 0.2)
    assert float(found) == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    values, before, targets = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 30.0])
    # The first is clipped to 0.2, and counts with the larger loss; the second is linear beyond delta.
    expected = (0.5 * 0.8**2 + 10 * (29.9 - 5)) / 2
    assert float(value_loss(values, before, targets, 0.2, 10.0)) == pytest.approx(expected)


def test_returns_are_normalised_by_all_that_came_before() -> None:
    parts = [np.array([1.0, 2.0]), np.array([3.0, 10.0, 4.0])]
    norm = ValueNorm()
    assert (norm.mean, norm.deviation) == (0.0, 1.0)
    for part in parts:
        norm.update(part)
    assert norm.mean == pytest.approx(np.concatenate(parts).mean())
    assert norm.deviation == pytest.approx(np.concatenate(parts).std())


def test_the_critic_reads_the_true_state_of_all_nodes(scenario: BuiltScenario) -> None:
    env = batch_of(scenario, 2)
    env.reset(np.array([training_key(0, 0, e, 0) for e in range(2)], np.uint64))
    for _ in range(200):
        env.step(env.heuristic_actions("least_queue"))
    state = GlobalState(env)
    found = state.of(np.arange(2), env.deciding, env.observations)
    nodes, time_s = len(scenario.network.nodes), float(scenario.arrays.settings[0]["time_scale_s"])
    for e in range(2):
        tasks, waits = env.state.node["tasks"][e], env.waits(e)
        assert found[e, :nodes] == pytest.approx(tasks / (tasks + 4.0), rel=1e-6)
        assert found[e, nodes : 2 * nodes] == pytest.approx(waits / (waits + time_s), rel=1e-6)
        assert found[e, 2 * nodes :].tolist() == [float(a == env.deciding[e]) for a in range(len(env.agents))]
    assert found[:, :nodes].any()
    assert found[:, nodes : 2 * nodes].any()


def test_a_generation_keeps_the_best_and_has_no_other_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(genetic.SETTINGS, "parents", 2)
    population = np.arange(6.0, dtype=np.float32)[:, None].repeat(50, axis=1)
    costs = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    again = [next_generation(population, costs, np.random.default_rng(7)) for _ in range(2)]
    assert np.array_equal(*again)
    assert (again[0][0] == 1).all()
    monkeypatch.setitem(genetic.SETTINGS, "mutation", 0.0)
    children = next_generation(population, costs, np.random.default_rng(7))
    assert set(np.unique(children)) == {1.0, 3.0}
    assert any(0 < (child == 1).mean() < 1 for child in children[1:])  # crossover within a child
    noise = again[0] - children
    assert noise[1:].std() == pytest.approx(0.3, rel=0.2)


def test_features_of_actions_are_those_of_the_layout(scenario: BuiltScenario) -> None:
    env = batch_of(scenario, 1)
    env.reset(np.array([training_key(0, 0, 0, 0)], np.uint64))
    names, seen = env.layout.names, env.observations
    found = ActionFeatures(env.layout).of(seen)[0]
    before = [name for name in names if not name.startswith("row_")]
    rows = [name.removeprefix("row_1.") for name in names if name.startswith("row_1.")]
    for action, row in enumerate(found):
        known = dict(zip(before, row[: len(before)].tolist(), strict=True))
        assert known == {name: seen[0, names.index(name)] for name in before}
        for name, value in zip(rows, row[len(before) : -2].tolist(), strict=True):
            column = f"row_{action}.{name}"
            assert value == (seen[0, names.index(column)] if column in names else 0.0), column
        assert row[-2:].tolist() == [float(action == 0), 1.0]


def test_scores_of_actions_are_those_of_each_own_individual() -> None:
    rng = np.random.default_rng(0)
    weights, features = rng.normal(size=(3, 6 * 8)), rng.normal(size=(3, 4, 5))
    found = scores_of(weights, features)
    for n, r in itertools.product(range(3), range(4)):
        hidden = np.tanh(features[n, r] @ weights[n, :40].reshape(5, 8))
        assert found[n, r] == pytest.approx(hidden @ weights[n, 40:])


def test_a_walk_gives_each_decision_what_its_agent_earned_until_the_next(scenario: BuiltScenario) -> None:
    walk = Walk(scenario, 1, 3, closings=True)
    memory, env = walk.memory, batch_of(scenario, 1)
    env.reset(np.array([training_key(3, 0, 0, 0)], np.uint64))
    latest: dict[int, int] = {}
    expected: dict[int, tuple[float, float, int]] = {}
    while not env.truncated[0]:
        (row,) = walk.look()
        agent = int(env.deciding[0])
        assert memory.agents[row] == agent
        assert np.array_equal(memory.observations[row], env.observations[0])
        assert np.array_equal(memory.masks[row], env.masks[0])
        if agent in latest:
            expected[latest[agent]] = (float(env.rewards[0]), GAMMA ** float(env.elapsed_s[0]), int(row))
        latest[agent] = int(row)
        action = env.heuristic_actions("random")
        env.step(action)
        walk.act(np.array([row]), action)
    decisions = walk.decisions
    observations, _, rewards, elapsed_s = env.closing(0)
    for agent, row in latest.items():
        closing = int(memory.successors[row])
        expected[row] = (float(rewards[agent]), GAMMA ** float(elapsed_s[agent]), closing)
        assert np.array_equal(memory.observations[closing], observations[agent])
        assert (memory.agents[closing], memory.actions[closing], memory.successors[closing]) == (agent, OPEN, OPEN)
    assert sorted(memory.finished().tolist()) == list(range(decisions)) == sorted(expected)
    for row, (reward, discount, successor) in expected.items():
        assert (memory.rewards[row], memory.successors[row]) == (np.float32(reward), successor)
        assert memory.discounts[row] == pytest.approx(discount, rel=1e-6)
    assert sum(memory.samples_of(agent) for agent in range(len(env.agents))) == decisions


def test_a_memory_grows_and_draws_finished_decisions_alone() -> None:
    memory, rng = Decisions(1, 2, 0, 3), np.random.default_rng(0)
    for step in range(3000):
        memory.add(np.full((2, 1), step), np.ones((2, 2)), np.array([step % 2, 2]), np.zeros((2, 0)))
    done = np.arange(0, 5000, 2)
    memory.finish(done, done.astype(float), np.ones(len(done)), done + 2)
    assert len(memory) == 6000
    assert memory.observations[5999, 0] == 2999
    assert (memory.successors[5000:] == OPEN).all()
    assert set(memory.drawn(rng, 500).tolist()) <= set(done.tolist())
    assert {int(memory.agents[row]) for row in memory.drawn_of(1, rng, 100)} == {1}
    assert memory.finished(2490).tolist() == done[2490:].tolist()


def test_exploration_draws_valid_actions() -> None:
    rng, masks = np.random.default_rng(0), np.tile([1, 0, 1], (3000, 1))
    found = explored(np.zeros(3000, np.int64), masks, 0.5, rng)
    assert set(found.tolist()) == {0, 2}
    assert (found == 2).mean() == pytest.approx(0.25, abs=0.03)
    assert [falling(1.0, 0.2, progress) for progress in (-1, 0, 0.5, 1, 9)] == pytest.approx([1, 1, 0.6, 0.2, 0.2])
    assert masked(torch.ones(1, 2), torch.tensor([[0, 1]])).tolist() == [[LOWEST, 1.0]]
    assert NoExtra().of(np.arange(2), np.arange(2), np.zeros((2, 1))).shape == (2, 0)
