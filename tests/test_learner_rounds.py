"""Learners that meet once in several batches: what each learns by itself, what they exchange, and what is counted."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import learners as learners_of_tests
from helpers.learners import config_of, draw_steps, make_learners, same, slow_down, weights_of
from ray import cloudpickle

from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.exchange.round import Round
from offload_rllib.algorithms.exchange.threads import together
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.config import ConfigError

cloudpickle.register_pickle_by_value(learners_of_tests)  # Ray's processes cannot import the tests

STEPS = "num_env_steps_sampled_lifetime"


class Given:
    """A runner that gives what it was given, batch after batch."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = iter(batches)

    def sample(self, *_: Any) -> Any:
        """Return the next batch."""
        return next(self._batches)

    def get_metrics(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


def rows_of(rows: int, learner: int, batch: int) -> int:
    """Return how many rows a learner has in a batch; some have none."""
    return 0 if (learner, batch) == (1, 2) else rows + 5 * batch


@pytest.mark.parametrize("sharing", ["shared", "per_node"])
def test_each_learns_by_itself_and_then_weights_and_moments_are_averages_by_the_rows_of_all_batches(
    sharing: str,
) -> None:
    *pair, one, other = make_learners(4, sharing=sharing, exchange_batches=3)
    modules = list(one.module.keys())
    given = [
        [
            [draw_steps(one, name, rows_of(rows, index, batch), 10 * batch + index) for name in modules]
            for batch in range(3)
        ]
        for index, rows in enumerate((32, 16))
    ]
    rooms: list[Any] = []

    def iterate(learner: Any, index: int) -> None:
        rooms.append(learner.meeting._room)
        learner._own_runner = Given(given[index])
        learner.iterate(env_steps=0, batches=3, num_epochs=2, minibatch_size=8)

    together(pair, iterate)
    assert rooms[0].meetings == 2, "once for figures and once for weights"
    for learner, batches in zip((one, other), given, strict=True):
        for batch in batches:
            learner.update(episodes=batch, timesteps={}, num_epochs=2, minibatch_size=4)  # its half of 8
    rows = np.array([sum(rows_of(first, i, batch) for batch in range(3)) for i, first in enumerate((32, 16))])
    alone, found = [weights_of(learner) for learner in (one, other)], [weights_of(learner) for learner in pair]
    for name in modules:
        assert same(found[0][name], found[1][name])
        for key, value in found[0][name].items():
            parts = [weights[name][key] for weights in alone]
            if key.endswith(" step"):
                assert value == max(parts) != min(parts)
            else:
                wanted = (rows[0] * parts[0] + rows[1] * parts[1]) / rows.sum()
                np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-7, err_msg=key)


def test_a_policy_without_tasks_stays_as_it_is_and_hinders_no_other() -> None:
    pair = make_learners(2, sharing="per_node", exchange_batches=2)
    before = weights_of(pair[0])
    busy, *idle = list(before)

    def iterate(learner: Any, index: int) -> None:
        learner._own_runner = Given([[draw_steps(learner, busy, 20 * (index == batch), 1)] for batch in range(2)])
        learner.iterate(env_steps=0, batches=2, num_epochs=1, minibatch_size=8)

    together(pair, iterate)
    found = [weights_of(learner) for learner in pair]
    for name in idle:
        assert all(np.array_equal(found[0][name][key], value) for key, value in before[name].items())
    assert not np.array_equal(*(next(iter(weights[busy].values())) for weights in (before, found[0])))
    assert all(same(found[0][name], found[1][name]) for name in before)


def run(batches: int, rounds: list[int]) -> tuple[list[Any], list[int]]:
    """Return learners after so many rounds of so many batches, and the environment steps of the run after each."""
    config = config_of(learners=2, exchange_batches=batches, entropy_coeff=0.1, final_entropy_coeff=0.0)
    learners = make_learners(2, exchange_batches=batches, entropy_coeff=0.1, final_entropy_coeff=0.0)
    for index, learner in enumerate(learners):
        learner._own_runner, learner._learner_index = OwnRunner(config, index), index
        learner._rng = np.random.default_rng((3, index))
    counted = [0]
    for count in rounds:
        answers = together(
            learners,
            lambda learner, _, count=count: learner.iterate(
                env_steps=counted[-1], batches=count, num_epochs=2, minibatch_size=16
            ),
        )
        sampled = [int(sampled["num_env_steps_sampled"].peek()) for sampled, _, _ in answers]
        counted.append(counted[-1] + sum(sampled))
        assert [learner._schedules_at for learner in learners] == [counted[-1]] * 2
        assert answers[1][2] is None
    return learners, counted


@pytest.fixture(scope="module")
def rarely() -> Any:
    """Return learners after three batches and two more."""
    return run(3, [3, 2])


def test_environment_steps_are_counted_for_every_batch_and_schedules_follow(rarely: Any) -> None:
    assert rarely[1] == [0, 3 * 96, 5 * 96]
    weights = [learner.entropy_coeff_schedulers_per_module["shared"].get_current_value() for learner in rarely[0]]
    assert weights == pytest.approx([0.1 * (1 - 5 * 96 / 200_000)] * 2)


def test_the_same_seed_and_number_of_learners_give_the_same_bits(rarely: Any) -> None:
    again = run(3, [3, 2])[0]
    found, repeated = (weights_of(learners[0])["shared"] for learners in (rarely[0], again))
    assert same(found, repeated)
    assert same(found, weights_of(rarely[0][1])["shared"])


@pytest.mark.parametrize(
    ("wanted", "env_steps", "batches"),
    [(1, 0, 1), (4, 0, 4), (4, 400, 4), (4, 480, 3), (4, 600, 3), (4, 900, 1), (4, 959, 1), (4, 960, 4), (4, 2000, 4)],
)
def test_the_last_round_has_as_many_batches_as_the_budget_needs(wanted: int, env_steps: int, batches: int) -> None:
    settings = {"exchange_batches": wanted, "budget_env_steps": 960}
    config = SimpleNamespace(learner_config_dict=settings, total_train_batch_size=160)
    assert OffloadAlgorithm._batches(SimpleNamespace(config=config, env_steps=env_steps)) == batches  # pyright: ignore[reportArgumentType] - of a trainer


def test_a_slow_learner_is_cut_short_in_every_batch_of_a_round() -> None:
    fast, slow = make_learners(2, late_share=0.5, exchange_batches=2)
    taken = slow_down(slow)
    fast._usual_s = slow._usual_s = 0.1  # as if of the round before

    def iterate(learner: Any, index: int) -> None:
        learner._own_runner = Given([[draw_steps(learner, "shared", 64, 2 * batch + index)] for batch in range(2)])
        learner.iterate(env_steps=0, batches=2, num_epochs=8, minibatch_size=8)

    together([fast, slow], iterate)
    assert 2 <= len(taken) < 2 * 64, "of 2 batches with 8 passes of 16"
    assert fast._usual_s == slow._usual_s > 0
    assert same(weights_of(fast)["shared"], weights_of(slow)["shared"])


def test_what_is_usual_is_the_time_of_the_median_learner_for_a_batch() -> None:
    owners: list[Any] = [SimpleNamespace(meeting=None) for _ in range(3)]
    times = [8.0, 2.0, 4.0]

    def end(owner: Any, index: int) -> Any:
        own = Round({}, 100)
        for batch in range(2):
            own.add([], 10 + index, times[index] / 2 + batch - 0.5)
        return own.end(owner.meeting)

    assert together(owners, end) == [(100 + 2 * (10 + 11 + 12), 2.0)] * 3


def test_gradients_are_refused() -> None:
    for batches, how in itertools.product((1, 2), ("weights", "gradients")):
        if batches == 1 or how == "weights":
            config_of(learners=2, exchange=how, exchange_batches=batches)
    with pytest.raises(ConfigError, match=r"exchange_batches \(2\): exchange: gradients meets at every minibatch"):
        config_of(learners=2, exchange="gradients", exchange_batches=2)
    with pytest.raises(ConfigError, match="exchange_batches"):
        config_of(learners=2, exchange_batches=0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_meets_rarely_ends_with_its_budget_and_is_resumed(tmp_path: Any) -> None:
    """Three batches of 96 between two meetings, and a budget of five."""
    config = config_of(learners=2, exchange_batches=3)
    config.learner_config_dict["budget_env_steps"] = 5 * 96
    states, counted = [], []
    for resumed in (False, True, False):
        algorithm = config.copy(copy_frozen=False).build_algo()
        try:
            if resumed:
                algorithm.restore(str(tmp_path))
            else:
                counted.append(algorithm.train()["timesteps_total"])
                algorithm.save(str(tmp_path))
            result = algorithm.train()
            counted.append(result["timesteps_total"])
            assert result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == counted[-1]
            learners: Any = algorithm.learner_group
            found = [answer.get() for answer in learners.foreach_learner(weights_of)]
            assert same(found[0]["shared"], found[1]["shared"]), "all learners are equal"
            acting = {key: value.numpy() for key, value in algorithm.get_module("shared").state_dict().items()}
            assert same(acting, {key: found[0]["shared"][key] for key in acting}), "the trainer acts as they do"
            states.append(found[0]["shared"])
        finally:
            algorithm.stop()
    assert counted == [288, 480, 480, 288, 480]
    assert same(states[0], states[2]), "the same seed gives the same weights"
    assert not same(states[0], states[1]), "a resumed run has episodes of its own"
