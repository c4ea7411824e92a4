"""Constraints: costs sum to the figures, multipliers follow the rule of the paper, and reach a known saddle point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import ARRIVAL, small_environment
from ray.tune.logger import TBXLoggerCallback

from offload_rllib.algorithms.constraints import CONSTRAINTS, Multiplier, measured, priced
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.algorithms import CONSTRAINED, Constraint
from offload_rllib.envs.costs import COUNTED
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import held_out_keys, vector_env
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.tensorboard_logger import TensorBoardLogger

# Crowded: some tasks are refused by full queues, some expire, some finish late or not at all.
CROWDED: dict[str, Any] = {
    "warmup_s": 5,
    "drain_s": 1,
    "deadlines": {"expiry": "queued"},
    "failures": {"laws": [{"time_to_failure_s": {"exponential": 20}, "time_to_repair_s": 2}]},
    "score": {"drop_s": 60},
}


def crowded(when: str, scope: str) -> dict[str, Any]:
    environment = small_environment(**CROWDED, decisions={"when": when}, reward={"scope": scope})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
    environment["links"] |= {"loss_probability": 0.05}
    return environment


def charged(env: Any) -> np.ndarray:
    """Play one episode of each environment with random actions; return [E, A, C] what agents were charged."""
    rng = np.random.default_rng(0)
    total = np.zeros((env.num_envs, len(env.agents), env.costs.shape[-1]))
    every = np.arange(env.num_envs)
    env.reset(held_out_keys(0, env.num_envs))
    while not env.truncated.all():
        if env.costs.ndim == 3:
            env.step(rng.integers(0, env.num_actions, env.rewards.shape))
            total += env.costs
            continue
        env.step(rng.integers(0, env.num_actions, env.num_envs))
        going = every[~env.truncated]
        np.add.at(total, (going, env.deciding[going]), env.costs[going])
    if env.costs.ndim == 2:
        total += [env.closing_costs(e) for e in every]
        assert not env.closing_costs(0).any()
    return total


@pytest.mark.parametrize("when", ["arrival", "interval"])
@pytest.mark.parametrize("scope", ["own", "team"])
def test_costs_sum_to_the_figures_of_each_episode(when: str, scope: str) -> None:
    environment = crowded(when, scope)
    environment["decisions"] |= {"reject": True}
    types = vector_env(environment).scenario.arriving.types
    figures = (*COUNTED, f"dropped_share_of_{types[1]}")
    env = vector_env(environment, 3, costs=figures)
    total = charged(env).sum(1)
    seen = np.zeros(len(figures))
    for e in range(3):
        found = env.episode_metrics(e)
        tasks = [found["tasks_created"]] * len(COUNTED) + [found[f"tasks_created_of_{types[1]}"]]
        counts = [found[figure] * of for figure, of in zip(figures, tasks, strict=True)]
        assert total[e] == pytest.approx(counts, abs=1e-5)
        assert env.counted()[e] == pytest.approx(np.stack([counts, tasks], 1), abs=1e-9)
        seen += counts
    # Every end of a task is among them.
    assert (seen[: len(COUNTED)] > 0).all()


@pytest.mark.parametrize("scope", ["own", "neighbourhood", "team"])
def test_costs_have_the_scope_of_the_reward(scope: str) -> None:
    environment = small_environment(decisions=ARRIVAL, reward={"scope": scope, "scale": 7.0})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 4.0}
    env = vector_env(environment, 2, costs=("dropped_share",))
    env.reset(held_out_keys(0, 2))
    scopes = {
        "own": {"a": "a", "b": "b", "c": "c", "d": "d"},
        "neighbourhood": {"a": "abd", "b": "bac", "c": "cbd", "d": "dca"},
        "team": dict.fromkeys("abcd", "abcd"),
    }[scope]
    settled = np.zeros((2, 4))
    rng = np.random.default_rng(0)
    charged_at_all = 0
    while not env.truncated.any():
        env.step(rng.integers(0, env.num_actions, 2))
        for e in np.flatnonzero(~env.truncated):
            a = env.deciding[e]
            # Without warm-up and drain every task counts, so these are the drops that rewards are computed from.
            dropped = env.state.node[e]["own_dropped"]
            now = np.mean([dropped["abcd".index(name)] for name in scopes[env.agents[a]]])
            assert env.costs[e, 0] == pytest.approx(now - settled[e, a])
            settled[e, a] = now
            charged_at_all += now > 0
    assert charged_at_all > 20


def rule(**settings: Any) -> Constraint:
    return Constraint(
        **({"figure": "dropped_share", "at_most": 0.1, "proportional": 50.0, "integral": 20.0, "derivative": 100.0}
           | {"smoothing": 0.5, "initial": 3.0, "largest": 30.0, "largest_excess": 0.9} | settings)
    )  # fmt: skip


def test_a_multiplier_follows_the_rule() -> None:
    """Against a computation by hand, with e the excess, s the smoothed one, I the integral term."""
    multiplier = Multiplier(rule())
    assert multiplier.value == 3.0
    multiplier.measure(0.3)  # e = 0.2, s = 0.2, I = 3 + 20 x 0.2 = 7; at first nothing has risen
    assert multiplier.value == pytest.approx(50 * 0.2 + 7)
    multiplier.measure(0.0)  # e = -0.1, s = 0.05, I = 7 - 2 = 5; it falls, which does not count
    assert multiplier.value == pytest.approx(50 * 0.05 + 5)
    multiplier.measure(0.25)  # e = 0.15, s = 0.1, I = 5 + 3 = 8; it rises by 0.05
    assert multiplier.value == pytest.approx(50 * 0.1 + 8 + 100 * 0.05)
    assert multiplier.report() == {
        "multiplier": multiplier.value,
        "share": 0.25,
        "excess": pytest.approx(0.1),
        "at_most": 0.1,
    }
    multiplier.measure(1.0)  # e = 0.9, s = 0.5, I = 8 + 18 = 26; rises by 0.4: 25 + 26 + 40 is more than the largest
    assert multiplier.value == 30.0
    for _ in range(9):
        multiplier.measure(1.0)
    assert multiplier.value == 30.0
    # The integral is kept within its bounds as well: from 30 it needs 15 batches to fall to 0, and 1 to rise again.
    excess = multiplier.excess
    for batch in range(15):
        multiplier.measure(0.0)
        excess = 0.5 * excess + 0.5 * -0.1
        assert multiplier.value == pytest.approx(min(30 - 2 * (batch + 1) + 50 * excess, 30), abs=1e-9) or batch > 11
    for _ in range(20):
        multiplier.measure(0.0)
    assert multiplier.value == 0.0
    multiplier.measure(0.6)  # e = 0.5, s = (0.5 - 0.1) / 2 = 0.2, I = 10; it rises by 0.3: 10 + 10 + 30 is too much
    assert multiplier.value == 30.0
    bounded = Multiplier(rule(largest_excess=0.05, derivative=0.0))
    bounded.measure(0.5)  # e = 0.05, not 0.4
    assert bounded.value == pytest.approx(50 * 0.05 + 3 + 20 * 0.05)
    assert Multiplier(rule(derivative=0.0, smoothing=0.0, proportional=0.0)).value == 3.0


def test_a_multiplier_continues_from_its_state() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0, 0.3, 12).tolist()
    one, other = Multiplier(rule()), Multiplier(rule())
    for share in shares[:6]:
        one.measure(share)
    other.set_state(one.get_state())
    for share in shares[6:]:
        one.measure(share)
        other.measure(share)
        assert one.get_state() == other.get_state()


def draw_samples(costs: np.ndarray, counted: np.ndarray, *, sources: tuple[str, ...]) -> list[AgentSteps]:
    """Return steps of one agent, each its own episode, with two actions; the same costs from every source."""
    rows = len(costs)
    none = np.zeros(rows, np.int64)
    return [
        AgentSteps(
            module_id=SHARED,
            agents=("a",),
            agent=np.zeros(2 * rows, np.int64),
            environment=np.zeros(2 * rows, np.int64),
            observations=np.zeros((rows, 4), np.float32),
            masks=np.ones((rows, 2), np.int8),
            actions=none.astype(np.int32),
            log_probabilities=np.zeros(rows, np.float32),
            rewards=np.arange(rows, dtype=np.float32),
            elapsed_s=np.ones(rows),
            following=np.arange(rows, 2 * rows),
            closing_observations=np.zeros((rows, 4), np.float32),
            closing_masks=np.ones((rows, 2), np.int8),
            ended=np.ones(rows, np.bool_),
            env_steps=rows,
            costs=costs.astype(np.float32),
            counted=counted,
            source=source,
            start=0,
        )
        for source in sources
    ]


def test_rewards_fall_by_what_costs_are_worth() -> None:
    costs = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.25]])
    counted = np.array([[3.0, 10.0], [1.0, 4.0]])
    # Two policies of one runner, and another runner: the tasks of a runner count once.
    samples = draw_samples(costs, counted, sources=("runner 1", "runner 1", "runner 2"))
    assert (measured(samples) == 2 * counted).all()
    for sample in priced(samples, np.array([2.0, 10.0])):
        assert sample.rewards.tolist() == [0 - 2.0, 1 - 20.0, 2 - 1.0 - 2.5]
        assert sample.rewards.dtype == np.float32
    # What is known in hindsight has prices as well; NaN stays unknown.
    known = np.array([5.0, np.nan, 7.0], np.float32)
    (sample,) = priced(
        [replace(samples[0], hindsight=known, hindsight_costs=np.array([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.5]]))],
        np.array([2.0, 10.0]),
    )
    assert isinstance(sample, AgentSteps)
    np.testing.assert_array_equal(sample.hindsight, [5 - 2 - 10, np.nan, 7 + 2 - 5])
    assert sample.rewards.tolist() == [0 - 2.0, 1 - 20.0, 2 - 1.0 - 2.5]


def policy_config(algorithm: str, **settings: Any) -> Any:
    if algorithm == "PPO":
        settings = {"minibatch_steps": 256, "epochs": 4} | settings
    return load_policy_config(
        {
            "algorithm": {"name": algorithm, "batch_env_steps": 256, "lr": 1e-2, "gamma": 0.0, "grad_clip": None}
            | settings,
            "network": {"hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": 4, "env_steps": 10_000, "seed": 3},
        }
    )


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize(("at_most", "expected", "price"), [(0.3, 0.3, 2.0), (1.0, 1.0, 0.0)])
def test_policy_and_multiplier_reach_the_saddle_point(
    algorithm: str, at_most: float, expected: float, price: float
) -> None:
    """Two actions: 1 earns 2 and costs 1, 0 earns and costs nothing; of all tasks at most a share may be action 1.

    The Lagrangian 2 p - l (p - b), with p the probability of action 1, has its saddle point at p = b, l = 2 if the
    bound b is below 1: at that price both actions are worth the same. With b = 1 it is at p = 1, l = 0.
    """
    config = algorithm_config(load_environment(small_environment()), policy_config(algorithm), cpus=2)
    env = vector_env(small_environment())
    learner: Any = config.build_learner(env=None, spaces={SHARED: (observation_space(env), action_space(env))})
    multiplier = Multiplier(
        rule(at_most=at_most, proportional=8.0, integral=0.5, derivative=0.0, initial=0.0, smoothing=0.0)
    )
    rng = np.random.default_rng(0)
    seen = torch.zeros(1, env.observation_size)
    mask = torch.tensor([[1, 1, 0]], dtype=torch.int8)
    found = []
    for _ in range(150):
        with torch.no_grad():
            p = float(learner.network(SHARED).actor(seen, mask).softmax(-1)[0, 1])
        actions = (rng.random(256) < p).astype(np.int32)
        costs = actions[:, None].astype(float)
        (sample,) = draw_samples(costs, np.array([[actions.sum(), 256.0]]), sources=("",))
        sample = replace(
            sample,
            observations=np.zeros((256, env.observation_size), np.float32),
            closing_observations=np.zeros((256, env.observation_size), np.float32),
            masks=np.tile(np.int8([1, 1, 0]), (256, 1)),
            closing_masks=np.tile(np.int8([1, 1, 0]), (256, 1)),
            actions=actions,
            log_probabilities=np.log(np.where(actions, p, 1 - p)).astype(np.float32),
            rewards=2.0 * actions.astype(np.float32),
        )
        ((events, tasks),) = measured([sample])
        multiplier.measure(events / tasks)
        how = {"num_epochs": 4} if algorithm == "PPO" else {}
        learner.update(episodes=priced([sample], np.array([multiplier.value])), minibatch_size=256, **how)
        found.append((p, multiplier.value))
    share, value = np.mean(found[-75:], 0)
    assert share == pytest.approx(expected, abs=0.03)
    assert value == pytest.approx(price, abs=0.15)


CONSTRAINED_BY: dict[str, Any] = {
    "constraints": [
        {"figure": "dropped_share", "at_most": 0.05, "proportional": 7.0, "integral": 30.0},
        {"figure": "late_share", "at_most": 0.9},
    ]
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("algorithm", "when", "credit"),
    [
        ("PPO", "arrival", "steps"),
        ("A2C", "interval", "steps"),
        ("PPO", "arrival", "decisions"),
        ("A2C", "arrival", "annealed"),
    ],
)
def test_training_measures_prices_reports_and_restores(algorithm: str, when: str, credit: str, tmp_path: Path) -> None:
    environment = load_environment(
        small_environment(
            **({"decisions": ARRIVAL} if when == "arrival" else {}), reward={"scope": "team", "scale": 0.5}
        ),
        ["workload.load.tasks_per_second_per_client=4"],
    )
    config = algorithm_config(environment, policy_config(algorithm, **CONSTRAINED_BY, credit=credit), cpus=2)
    first, second = config.copy().build_algo(), config.copy().build_algo()
    try:
        learned: list[Any] = []
        sampled: list[Any] = []
        group = first.learner_group
        original, sample = group.update, first.sample

        def update(training_data: Any, **how: Any) -> Any:
            learned.extend(training_data.batch)
            return original(training_data=training_data, **how)

        def sampling(env_steps: int) -> Any:
            sampled[:] = sample(env_steps)
            return list(sampled)

        group.update, first.sample = update, sampling
        by_hand = [Multiplier(Constraint(**settings)) for settings in CONSTRAINED_BY["constraints"]]
        for _ in range(3):
            learned.clear()
            result = first.train()
            events, tasks = sampled[0].counted.T
            assert (tasks > 50).all()
            for one, share in zip(by_hand, events / tasks, strict=True):
                one.measure(float(share))
                assert result[CONSTRAINTS][one.constraint.figure] == one.report()
            prices = 0.5 * np.array([one.value for one in by_hand])
            assert prices[0] > 0
            assert prices[1] == 0
            expected = sampled[0].rewards - sampled[0].costs @ prices
            assert learned[0].rewards == pytest.approx(expected, abs=1e-5)
            assert (learned[0].rewards < sampled[0].rewards).any()
            if credit == "annealed":
                expected = sampled[0].hindsight - sampled[0].hindsight_costs @ prices
                np.testing.assert_allclose(learned[0].hindsight, expected, atol=1e-5)
                assert (learned[0].hindsight < sampled[0].hindsight).any()
        if when == "arrival" and credit != "decisions":
            # All that was counted was charged to somebody, but what waits for the agents' next decisions.
            charged_for = sampled[0].costs.sum(0)
            assert 0.5 * sampled[0].counted[0, 0] < charged_for[0] < 1.5 * sampled[0].counted[0, 0]
        first.save_checkpoint(str(tmp_path))
        second.load_checkpoint(str(tmp_path))
        assert [one.get_state() for one in second.multipliers] == [one.get_state() for one in by_hand]
    finally:
        first.stop()
        second.stop()


def test_tensorboard_shows_constraints_in_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, tuple[float, int]] = {}
    passed_on: list[dict[str, Any]] = []

    class Writer:
        def add_scalar(self, tag: str, value: float, global_step: int) -> None:
            written[tag] = (value, global_step)

        def flush(self) -> None:
            pass

    monkeypatch.setattr(TBXLoggerCallback, "log_trial_result", lambda *arguments: passed_on.append(arguments[-1]))
    logger = TensorBoardLogger()
    logger._trial_writer = {"trial": Writer()}
    multiplier = Multiplier(rule())
    logger.log_trial_result(1, "trial", {"timesteps_total": 7, CONSTRAINTS: {"late_share": multiplier.report()}})
    assert written == {"constraints/late_share/multiplier": (3.0, 7), "constraints/late_share/at_most": (0.1, 7)}
    multiplier.measure(0.3)
    logger.log_trial_result(2, "trial", {"timesteps_total": 8, CONSTRAINTS: {"late_share": multiplier.report()}})
    assert written["constraints/late_share/share"] == (0.3, 8)
    assert all(CONSTRAINTS not in result for result in passed_on)


@pytest.mark.parametrize(
    ("algorithm", "constraint", "message"),
    [
        ("PPO", {"figure": "fairness", "at_most": 0.1}, r"constraints.0.figure: .*dropped_share.*exact cost.*fairness"),
        ("PPO", {"figure": "dropped_share", "at_most": -0.1}, r"constraints.0.at_most: .*-0.1"),
        ("A2C", {"figure": "dropped_share", "at_most": 1.1}, r"constraints.0.at_most: .*1.1"),
        ("A2C", {"figure": "dropped_share"}, r"constraints.0.at_most: .*"),
        ("A2C", {"figure": "dropped_share", "at_most": 0.1, "smoothing": 1.0}, r"constraints.0.smoothing: .*1"),
        ("DDQN", {"figure": "dropped_share", "at_most": 0.1}, r"algorithm.*constraints: unknown key"),
        ("APPO", {"figure": "dropped_share", "at_most": 0.1}, r"algorithm.*constraints: unknown key"),
    ],
)
def test_impossible_constraints(algorithm: str, constraint: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy_config({"algorithm": {"name": algorithm, "constraints": [constraint]}})


def test_constraints_that_do_not_fit() -> None:
    twice = {"constraints": [{"figure": "late_share", "at_most": 0.1}] * 2}
    with pytest.raises(ConfigError, match=r"constraints: late_share is bounded 2 times; accepted: once"):
        policy_config("PPO", **twice)
    refused = {"constraints": [{"figure": "dropped_rejected_share", "at_most": 0.1}]}
    with pytest.raises(
        ConfigError, match=r"dropped_rejected_share is of tasks that agents reject, and here they cannot"
    ):
        algorithm_config(load_environment(small_environment()), policy_config("PPO", **refused), cpus=2)
    algorithm_config(
        load_environment(small_environment(decisions=ARRIVAL | {"reject": True})),
        policy_config("PPO", **refused),
        cpus=2,
    )
    environment = load_environment(small_environment())
    of_type = {"constraints": [{"figure": "dropped_share_of_urgent", "at_most": 0.1}]}
    with pytest.raises(ConfigError, match=r"dropped_share_of_urgent: no type of task is called 'urgent'.* Accepted: "):
        algorithm_config(environment, policy_config("PPO", **of_type), cpus=2)
    alone = small_environment()
    alone["workload"]["jobs"]["types"] = [alone["workload"]["jobs"]["types"][0] | {"name": "urgent"}]
    with pytest.raises(ConfigError, match=r"dropped_share_of_urgent: there is one type of task; accepted: "):
        algorithm_config(load_environment(alone), policy_config("PPO", **of_type), cpus=2)
    sparse = small_environment(decisions=ARRIVAL, reward={"name": "sparse"})
    with pytest.raises(ConfigError, match=r"annealed with constraints needs reward.name: delay \(given: sparse\)"):
        algorithm_config(load_environment(sparse), policy_config("PPO", **CONSTRAINED_BY, credit="annealed"), cpus=2)
    stock = load_policy_config(policy_config("PPO", **CONSTRAINED_BY), ["training.env_runner=stock"])
    with pytest.raises(ConfigError, match=r"training.env_runner: stock cannot be used with algorithm.constraints"):
        algorithm_config(environment, stock, cpus=2)


def test_the_schema_names_the_figures_that_have_costs() -> None:
    assert tuple(COUNTED) == CONSTRAINED
