"""Several learners: none waits for another in vain, none is neglected, and together they learn what one would."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import small_environment
from helpers.learners import config_of, draw_steps, make_learners, same, slow_down, weights_of
from ray import cloudpickle

from offload_rllib.algorithms.exchange import lesson
from offload_rllib.algorithms.exchange.averaging import average
from offload_rllib.algorithms.exchange.lesson import Met
from offload_rllib.algorithms.exchange.meeting import (
    EXCHANGE,
    GRADIENTS,
    WEIGHTS,
)
from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.exchange.plan import Plan
from offload_rllib.algorithms.exchange.threads import together
from offload_rllib.algorithms.fused.learner import FUSED
from offload_rllib.algorithms.fused.learner import GRADIENTS as HOW
from offload_rllib.config import ConfigError
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import vector_env
from offload_rllib.rollout.agent_steps import AgentSteps

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import the tests


def learn(learners: list[Any], samples: list[list[AgentSteps]], *, epochs: int = 2, minibatch: int | None = 16) -> None:
    """Let every learner learn from its own samples, and meet."""

    def update(learner: Any, index: int) -> None:
        learner.update(episodes=samples[index], timesteps={}, num_epochs=epochs, minibatch_size=minibatch)

    together(learners, update)


@pytest.mark.parametrize(
    ("env", "sharing", "shapes"),
    [(small_environment(), {"mapping": {"x": ["a"], "y": ["b", "c"], "z": ["d"]}}, 100), ("ether_19", "per_node", 12)],
)
def test_no_shape_of_policies_learners_and_runners_hangs_and_none_is_neglected(
    env: Any, sharing: Any, shapes: int
) -> None:
    rng = np.random.default_rng(11)
    pool = make_learners(4, env=env, sharing=sharing)
    modules = list(pool[0].module.keys())
    assert len(modules) in (3, 15)
    for shape in range(shapes):
        learners = pool[: rng.integers(1, 5)]
        together(learners, lambda learner, _: learner.begin_as_the_first(learner.meeting))
        runners = int(rng.integers(1, 4))
        busy = [module_id for module_id in modules if rng.random() < 0.7]
        for learner in learners:
            learner.config.learner_config_dict[EXCHANGE] = (WEIGHTS, GRADIENTS)[shape % 2]
            learner.config.learner_config_dict[HOW] = (FUSED, "torch")[shape % 3 == 0]
        samples: list[list[AgentSteps]] = [[] for _ in learners]
        for own in samples:
            for _ in range(runners):
                for module_id in modules:
                    # Of many policies some have no task at a runner; a few rows are less than a minibatch for each.
                    rows = int(rng.choice([0, 1, 2, 5, 40])) if module_id in busy else 0
                    own.append(draw_steps(learners[0], module_id, rows, int(rng.integers(1 << 30))))
        before = weights_of(learners[0])
        learn(learners, samples, epochs=int(rng.integers(1, 3)), minibatch=(None, 4, 16)[shape % 3])
        after = [weights_of(learner) for learner in learners]
        for module_id in modules:
            rows = sum(len(steps) for own in samples for steps in own if steps.module_id == module_id)
            assert all(same(after[0][module_id], other[module_id]) for other in after), "all have the same weights"
            assert (not same(before[module_id], after[0][module_id])) == (rows > 0), (shape, module_id, rows)


@pytest.mark.parametrize("how", [FUSED, "torch"])
def test_added_gradients_are_those_of_one_learner_with_all_rows(how: str) -> None:
    """One step over all rows: learners with 30, 11 and 0 of them take the step that one takes with 41."""
    *several, alone = make_learners(4, learner=how, exchange=GRADIENTS, idle_per_choice=0)
    samples = [[draw_steps(alone, "shared", rows, rows)] for rows in (30, 11)]
    for _ in range(3):
        learn(several, [*samples, []], epochs=1, minibatch=None)
        alone.update(episodes=[*samples[0], *samples[1]], timesteps={}, num_epochs=1, minibatch_size=None)
    wanted, found = (weights_of(learner)["shared"] for learner in (alone, several[0]))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-3, atol=2e-6, err_msg=key)


class Mute:
    """A meeting of two that exchanges figures, which are known, and no weights: each keeps its share of its own."""

    size = 2

    def __init__(self, index: int, figures: list[np.ndarray]) -> None:
        self.index, self._figures = index, figures

    def gather(self, _: np.ndarray) -> np.ndarray:
        """Return the figures of both."""
        return np.stack(self._figures)

    def add(self, vector: torch.Tensor) -> None:
        """Leave a vector as it is."""


def test_weights_and_moments_are_averages_by_rows_of_what_each_learner_has_learned() -> None:
    *pair, one, other = make_learners(4, exchange=WEIGHTS)
    samples = [[draw_steps(one, "shared", rows, rows)] for rows in (32, 16)]
    figures: list[np.ndarray] = [np.empty(0)] * 2

    def update(learner: Any, index: int) -> None:
        gather = learner.meeting.gather

        def noted(own: np.ndarray) -> np.ndarray:
            figures[index] = own
            return gather(own)

        learner.meeting.gather = noted
        learner.update(episodes=samples[index], timesteps={}, num_epochs=2, minibatch_size=8)

    together(pair, update)
    for index, learner in enumerate((one, other)):
        learner.meeting = Mute(index, figures)
        learner.update(episodes=samples[index], timesteps={}, num_epochs=2, minibatch_size=8)
    parts = [weights_of(learner)["shared"] for learner in (one, other)]
    for key, value in weights_of(pair[0])["shared"].items():
        if key.endswith(" step"):
            rows = max(figures[0][2], figures[1][2])
            assert value == 2 * (2 * rows // 8)
        else:
            np.testing.assert_allclose(value, parts[0][key] + parts[1][key], rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("exchange", [WEIGHTS, GRADIENTS])
@pytest.mark.parametrize(("name", "how"), [("PPO", FUSED), ("A2C", "torch")])
def test_one_learner_that_meets_nobody_is_the_plain_algorithm_bit_for_bit(exchange: str, name: str, how: str) -> None:
    plain, meets = make_learners(2, sharing="per_node", name=name, exchange=exchange, learner=how)
    modules = list(plain.module.keys())
    for seed in range(3):
        samples = [draw_steps(plain, module_id, 30 + i, 10 * seed + i) for i, module_id in enumerate(modules)]
        plain.update(episodes=samples, timesteps={}, num_epochs=3, minibatch_size=7)
        learn([meets], [samples], epochs=3, minibatch=7)
    wanted, found = weights_of(plain), weights_of(meets)
    assert all(same(wanted[module_id], found[module_id]) for module_id in modules)


def test_learners_meet_twice_per_batch_or_once_per_minibatch() -> None:
    learners = make_learners(2)
    samples = [[draw_steps(learners[0], "shared", 64, seed)] for seed in (1, 2)]
    for exchange, wanted in ((WEIGHTS, 2), (GRADIENTS, 1 + 2 * (128 // 16))):
        rooms: list[Any] = []
        for learner in learners:
            learner.config.learner_config_dict[EXCHANGE] = exchange

        def update(learner: Any, index: int, rooms: list[Any] = rooms) -> None:
            rooms.append(learner.meeting._room)
            learner.update(episodes=samples[index], timesteps={}, num_epochs=2, minibatch_size=16)

        together(learners, update)
        assert rooms[0].meetings == wanted


def test_a_late_learner_is_cut_short_by_the_same_share_in_every_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(lesson.time, "perf_counter", lambda: float(next(now)))
    met = Met(np.array([[4, 8], [0, 0]]), 24, usual_s=4.0)
    assert met.ends_s(met.sizes[0], None) == [math.inf] * 2
    assert met.ends_s(met.sizes[0], 0.5) == [0 + 6 * 4 / 12, 0 + 6]
    plan = Plan.of([100], 0, 10, together=False)
    taught = lesson.Lesson("a", None, {}, [torch.arange(100)] * 2)
    assert len(list(taught.minibatches(plan))) == 20
    now = iter(range(1000))
    monkeypatch.setattr(lesson.time, "perf_counter", lambda: float(next(now)))
    assert len(list(taught.minibatches(plan, 6.0))) == 8, "one, and those begun at 0 to 6"
    assert len(list(taught.minibatches(plan, -1.0))) == 1, "at least one"
    with pytest.raises(ConfigError, match=r"late_share \(0.2\): exchange: gradients takes every step together"):
        config_of(late_share=0.2, exchange=GRADIENTS)


def test_a_learner_that_is_much_slower_is_not_waited_for() -> None:
    fast, slow = make_learners(2, late_share=0.5)
    samples = [[draw_steps(fast, "shared", 64, seed)] for seed in (1, 2)]
    taken = slow_down(slow)
    fast._learned_s = slow._learned_s = 0.1  # as if of the last update
    learn([fast, slow], samples, epochs=8, minibatch=8)
    assert 1 <= len(taken) < 64, "of 8 passes of 16 or so"
    assert same(weights_of(fast)["shared"], weights_of(slow)["shared"])


def test_averages_are_by_share_and_one_with_the_whole_share_is_taken_over() -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        layer = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(layer.parameters(), fused=True)
        layer(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        return type("Owner", (), {"optimizer": optimizer, "meeting": None})()

    for shares in ((0.25, 0.75), (0.0, 1.0)):
        owners = [make(seed) for seed in (1, 2)]
        before = [[v.clone() for v in state_of(owner.optimizer)] for owner in owners]
        together(
            owners,
            lambda owner, index, shares=shares: average(owner.meeting, [owner.optimizer], [shares[index]], [7]),
        )
        for owner in owners:
            for found, one, other in zip(state_of(owner.optimizer), *before, strict=True):
                torch.testing.assert_close(found, shares[0] * one + shares[1] * other, rtol=1e-6, atol=1e-7)
                assert shares[0] or found.equal(other)
            assert {int(state["step"]) for state in owner.optimizer.state.values()} == {7}


def state_of(optimizer: Any) -> list[torch.Tensor]:
    """Return weights and moments."""
    return [
        value
        for parameter, state in optimizer.state.items()
        for value in (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
    ]


def test_learners_sample_different_episodes_and_their_share_of_a_batch() -> None:
    config = config_of(learners=3)
    spaces: Any = {"shared": tuple(f(vector_env(small_environment(), 1)) for f in (observation_space, action_space))}
    learner = config.copy(copy_frozen=False).learners(num_learners=0).build_learner(env=None, spaces=spaces)
    runners = [OwnRunner(config, index) for index in range(3)]
    keys = set()
    for runner in runners:
        samples, metrics = runner.sample(learner.module, 0), runner.get_metrics()
        assert sum(sample.env_steps for sample in samples) == 32
        assert int(metrics["num_env_steps_sampled"]) == 32
        keys |= set(runner._runner.keys.tolist())
    assert len(keys) == 12
    # A resumed run begins with episodes that it has not had.
    resumed = OwnRunner(config, 0)
    resumed.sample(learner.module, 96)
    assert not keys & set(resumed._runner.keys.tolist())


def test_what_several_learners_cannot_do_is_refused() -> None:
    constraint = {"figure": "late_share", "at_most": 0.1}
    with pytest.raises(ConfigError, match=r"training.learners \(2\): algorithm.constraints are measured over whole"):
        config_of(learners=2, constraints=[constraint])
    with pytest.raises(ConfigError, match=r"minibatch_steps \(2\) must be at least training.learners \(3\)"):
        config_of(learners=3, minibatch_steps=2)
    with pytest.raises(ConfigError, match=r"batch_env_steps \(96\) must be a multiple of learners x envs_per_runner"):
        config_of(learners=5)
