"""Agents' steps at unequal times: advantages and transitions by definition, and rows that keep their successors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.replay import ReplayBuffer

GAMMA, LAMBDA, DISCOUNT_S = 0.9, 0.7, 2.5
FEATURES, ACTIONS = 3, 2


def draw_chains(seed: int, *, environments: int = 2, agents: int = 3, rows: int = 60) -> AgentSteps:
    """Return decisions of agents that come at random times, in random order; each chain ends or is cut."""
    rng = np.random.default_rng(seed)
    environment, agent = rng.integers(0, environments, rows), rng.integers(0, agents, rows)
    following = np.full(rows, -1)
    closings: list[tuple[int, int, bool]] = []
    for e in range(environments):
        for a in range(agents):
            own = np.flatnonzero((environment == e) & (agent == a))
            for before, after in itertools.pairwise(own):
                following[before] = after
                if rng.random() < 0.1:
                    following[before] = rows + len(closings)
                    closings.append((e, a, True))
            if len(own):
                following[own[-1]] = rows + len(closings)
                closings.append((e, a, bool(rng.random() < 0.5)))
    count = len(closings)
    observations = rng.uniform(-1, 1, (rows, FEATURES)).astype(np.float32)
    observations[:, 0] = np.arange(rows)
    return AgentSteps(
        module_id="shared",
        agents=tuple(map(str, range(agents))),
        agent=np.append(agent, [a for _, a, _ in closings]),
        environment=np.append(environment, [e for e, _, _ in closings]),
        observations=observations,
        masks=np.ones((rows, ACTIONS), np.int8),
        actions=rng.integers(0, ACTIONS, rows).astype(np.int32),
        log_probabilities=rng.uniform(-2, -0.1, rows).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        elapsed_s=rng.exponential(2.0, rows),
        following=following,
        closing_observations=rng.uniform(-1, 1, (count, FEATURES)).astype(np.float32),
        closing_masks=np.tile(np.array([1, 0], np.int8), (count, 1)),
        ended=np.array([ended for _, _, ended in closings]),
        env_steps=rows,
        source="runner",
        start=0,
        steps=rows // environments,
        environments=environments,
    )


def chain_from(steps: AgentSteps, row: int) -> list[int]:
    """Return a row, its successors, and the closing state behind them."""
    chain = [row]
    while chain[-1] < len(steps):
        chain.append(int(steps.following[chain[-1]]))
    return chain


def advantage_by_definition(steps: AgentSteps, values: np.ndarray, row: int) -> float:
    """Return the sum of arXiv 1506.02438, eq. 16, with gamma and lambda to the power of the time between decisions."""
    total = passed_s = 0.0
    chain = chain_from(steps, row)
    for here, after in itertools.pairwise(chain):
        discount = GAMMA ** (steps.elapsed_s[here] / DISCOUNT_S)
        delta = float(steps.rewards[here]) + discount * float(values[after]) - float(values[here])
        total += (GAMMA * LAMBDA) ** (passed_s / DISCOUNT_S) * delta
        passed_s += steps.elapsed_s[here]
    return total


@pytest.mark.parametrize("seed", range(3))
def test_advantages_at_unequal_times_are_their_definition(seed: int) -> None:
    steps = draw_chains(seed)
    values = np.random.default_rng(seed + 100).normal(size=len(steps.agent)).astype(np.float32)
    found = generalised_advantages(steps, values, gamma=GAMMA, lambda_=LAMBDA, discount_s=DISCOUNT_S)
    expected = [advantage_by_definition(steps, values, row) for row in range(len(steps))]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_rows_of_a_part_keep_their_successors() -> None:
    steps = draw_chains(3, environments=5)
    values = np.random.default_rng(4).normal(size=len(steps.agent)).astype(np.float32)
    whole = generalised_advantages(steps, values, gamma=GAMMA, lambda_=LAMBDA, discount_s=DISCOUNT_S)
    of_environments = [np.isin(steps.environment, mine) for mine in ([0, 1], [2, 3], [4])]
    by_environment = [steps.subset(mine) for mine in of_environments]
    assert [sorted(set(part.environment.tolist())) for part in by_environment] == [[0, 1], [2, 3], [4]]
    owner = np.array([1, 0, 1])
    by_policy = steps.of_policies(owner, {"odd": np.array([1]), "even": np.array([0, 2])})
    assert [part.module_id for part in by_policy] == ["odd", "even"]
    assert [part.agents for part in by_policy] == [("1",), ("0", "2")]
    for parts, kept in (
        (by_environment, of_environments),
        (by_policy, [owner[steps.agent] == number for number in (0, 1)]),
    ):
        assert sum(len(part) for part in parts) == len(steps)
        for part, keep in zip(parts, kept, strict=True):
            ours = generalised_advantages(part, values[keep], gamma=GAMMA, lambda_=LAMBDA, discount_s=DISCOUNT_S)
            np.testing.assert_array_equal(ours, whole[keep[: len(steps)]])
    names = [part.agents[a] for part in by_policy for a in part.agent[: len(part)]]
    expected = [str(a) for number in (0, 1) for a in steps.agent[: len(steps)] if owner[a] == number]
    assert names == expected


@pytest.mark.parametrize("n_step", [1, 3])
def test_transitions_at_unequal_times_are_their_definition(n_step: int) -> None:
    steps = draw_chains(5)
    buffer = ReplayBuffer(256, FEATURES, ACTIONS, gamma=GAMMA, discount_s=DISCOUNT_S, n_step=n_step)
    finished = buffer.add(steps)
    expected = {}
    for row in range(len(steps)):
        chain = chain_from(steps, row)
        closing = chain.pop()
        ended = bool(steps.ended[closing - len(steps)])
        if len(chain) <= n_step and (not ended or len(chain) < 2):
            continue
        end = min(n_step, len(chain) - 1)
        total, passed_s = 0.0, 0.0
        for here in chain[:end]:
            total += GAMMA ** (passed_s / DISCOUNT_S) * float(steps.rewards[here])
            passed_s += steps.elapsed_s[here]
        expected[row] = (total, GAMMA ** (passed_s / DISCOUNT_S), chain[end])
    assert finished == len(expected) > 20
    columns = buffer._columns
    for slot in np.flatnonzero(columns.successors >= 0):
        total, discount, successor = expected.pop(int(columns.observations[slot, 0]))
        assert columns.returns[slot] == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert columns.discounts[slot] == pytest.approx(discount, rel=1e-6)
        assert columns.observations[columns.successors[slot], 0] == successor
    assert not expected


@pytest.mark.parametrize("step_s", [1.0, 0.5])
def test_equal_times_are_a_discount_per_step(step_s: float) -> None:
    """What a clocked environment gives: gamma per interval where `discount_s` is the interval."""
    steps = draw_chains(6)
    steps.elapsed_s[:] = step_s
    assert (steps.discounts(GAMMA, step_s) == GAMMA).all()
    assert steps.discounts(GAMMA, 1.0) == pytest.approx(GAMMA**step_s)


def test_nothing_follows_with_a_gamma_of_0_even_at_the_same_moment() -> None:
    steps = draw_chains(7)
    steps.elapsed_s[::2] = 0.0
    assert (steps.discounts(0.0, 1.0) == 0.0).all()
    assert (steps.discounts(GAMMA, 1.0)[::2] == 1.0).all()
