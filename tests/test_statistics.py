"""Intervals cover as often as they say, and the robust statistics are those of the literature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from offload_rllib.evaluation.statistics import (
    Interval,
    certain,
    holm,
    interquartile_mean,
    interval,
    mean_over_seeds_and_episodes,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    profile_band,
)

TRIALS = 400


def coverage(find: Callable[..., Interval], truth: float, draw: Callable[[], tuple[np.ndarray, ...]]) -> float:
    """Return how often an interval holds the truth."""
    found = [find(*draw()) for _ in range(TRIALS)]
    return sum(one.low <= truth <= one.high for one in found) / TRIALS


@pytest.mark.parametrize("count", [5, 12, 20, 60])
def test_intervals_cover_the_mean_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(0)
    # 95 % stated; the skew of the gamma distribution and the number of trials (1.1 %) leave a few percent.
    assert 0.92 <= coverage(interval, 4, lambda: (rng.gamma(4, 1, count),)) <= 0.98


@pytest.mark.parametrize("count", [5, 12, 20])
def test_intervals_cover_the_interquartile_mean_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(0)
    truth = stats.trim_mean(stats.gamma(4).ppf((np.arange(100_000) + 0.5) / 100_000), 0.25)
    assert 0.89 <= coverage(interquartile_mean, truth, lambda: (rng.gamma(4, 1, (1, count)),)) <= 0.98


@pytest.mark.parametrize(
    ("seeds", "episodes", "of_seeds", "of_episodes", "noise"),
    [
        *(
            (5, 10, 1, 1, 1),
            (5, 10, 1, 0, 0.1),
            (5, 10, 0, 1, 0.1),
            (5, 10, 0, 0, 1),
            (5, 40, 0.3, 1, 1),
            (3, 5, 1, 1, 1),
        ),
        # Two seeds that seem to agree by chance say little: the seeds' part keeps its own quantile.
        *((2, 20, 0.3, 1, 1), (2, 20, 1, 1, 1)),
    ],
)
def test_intervals_cover_training_seeds_and_episodes(
    seeds: int, episodes: int, of_seeds: float, of_episodes: float, noise: float
) -> None:
    rng = np.random.default_rng(0)

    def trained() -> np.ndarray:
        return of_seeds * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, episodes))

    def draw() -> tuple[np.ndarray]:
        return (of_episodes * rng.normal(size=(1, episodes)) + trained(),)

    def draw_pair() -> tuple[np.ndarray, np.ndarray]:
        shared = 5 * rng.normal(size=(1, episodes))
        return shared + trained(), shared + 1 + noise * rng.normal(size=(1, episodes))

    # Where nothing but noise varies, the seeds' and the episodes' parts are estimated apart, and cover more.
    assert 0.92 <= coverage(mean_over_seeds_and_episodes, 0, draw) <= 0.999
    assert 0.87 <= coverage(interquartile_mean, 0, draw) <= 0.999
    assert 0.92 <= coverage(paired_difference, -1, draw_pair) <= 0.999
    truth = stats.norm.cdf(1 / np.sqrt(of_seeds**2 + 2 * noise**2))
    assert coverage(probability_of_improvement, float(truth), draw_pair) >= 0.92


def test_ignoring_the_training_seeds_would_cover_too_little() -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[np.ndarray]:
        return (rng.normal(size=(5, 1)) + rng.normal(size=(5, 30)),)

    assert coverage(lambda values: interval(values.mean(axis=0)), 0, draw) < 0.6
    assert coverage(mean_over_seeds_and_episodes, 0, draw) > 0.92


def test_small_samples_use_students_t() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    found = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert [interval(np.random.default_rng(0).normal(size=n)).method for n in (19, 20)] == ["t", "bootstrap"]


def test_values_that_are_nearly_all_equal_have_an_interval_of_their_own_size() -> None:
    # Of 20 values 19 are equal: a third of the resamples has no spread at all, and studentized they are 1e11.
    found = interval(np.array([0.0] * 19 + [-4.0]))
    assert found.method == "t"
    assert (found.low, found.high) == pytest.approx((-0.2 - 2.093 * 0.2, -0.2 + 2.093 * 0.2), abs=1e-3)
    for equal, method in ((11, "bootstrap"), (16, "bootstrap"), (17, "t")):
        assert interval(np.array([0.0] * equal + list(range(1, 21 - equal)))).method == method


@pytest.mark.parametrize(("count", "zeros", "least"), [(20, 0.55, 0.92), (20, 0.75, 0.85), (20, 0.85, 0.7)])
def test_intervals_cover_means_of_values_that_are_often_zero(count: int, zeros: float, least: float) -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[np.ndarray]:
        return (rng.exponential(1, count) * (rng.random(count) >= zeros),)

    assert coverage(interval, 1 - zeros, draw) >= least


def test_pairing_removes_what_episodes_share() -> None:
    rng = np.random.default_rng(0)
    episodes = rng.normal(100, 30, 12)
    better = episodes - 2 + rng.normal(0, 0.5, 12)
    assert paired_difference(better, episodes).excludes_zero
    assert interval(better).high > interval(episodes).low, "unpaired, the intervals overlap"
    equal = interval(np.full(30, 0.1) + np.array([0, 1e-17] * 15))
    assert (equal.low, equal.high) == (equal.mean, equal.mean)
    assert np.isnan(interval(np.array([np.nan, 1.0])).low)


def test_episodes_without_a_value_are_left_out_in_pairs() -> None:
    values, reference = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.5, 1.0, np.nan, 2.5])
    assert paired_difference(values, reference).mean == pytest.approx((0.5 + 1.5) / 2)
    assert probability_of_improvement(values, reference).mean == 0


def test_winning_every_episode_does_not_make_it_certain() -> None:
    ahead = probability_of_improvement(np.zeros(10), np.ones(10))
    assert ahead.mean == ahead.high == 1
    assert 0.5 < ahead.low < 0.8
    assert probability_of_improvement(np.zeros(10), np.zeros(10)).mean == 0.5
    assert probability_of_improvement(np.zeros(10), np.ones(10), lower_is_better=False).mean == 0


def test_statistics_are_those_of_rliable() -> None:
    """The numbers were printed by rliable 1.2.0 (arch 7.2.0, pandas 2.3.3, scipy 1.17.1) for these arrays.

    `metrics.aggregate_iqm(x)`, `metrics.probability_of_improvement(x, y)` and
    `library.create_performance_profile({"x": x, "y": y}, thresholds)`, of R. Agarwal et al. (NeurIPS 2021).
    """
    x = np.arange(21).reshape(3, 7) * 37 % 41 / 41.0
    y = np.arange(28).reshape(4, 7) * 23 % 43 / 43.0
    y[1, 3], y[2, 5] = x[0, 3], x[2, 5]
    thresholds = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9]
    assert interquartile_mean(x).mean == pytest.approx(0.4523281596452328, abs=1e-15)
    assert interquartile_mean(y).mean == pytest.approx(0.49570537233611545, abs=1e-15)
    improvement = probability_of_improvement(x, y, lower_is_better=False)
    assert improvement.mean == pytest.approx(0.4702380952380953, abs=1e-15)
    for values, expected in (
        (x, [0.95238095, 0.85714286, 0.66666667, 0.47619048, 0.19047619, 0.0952381]),
        (y, [0.96428571, 0.85714286, 0.71428571, 0.5, 0.21428571, 0.07142857]),
    ):
        np.testing.assert_allclose(performance_profile(values, thresholds), expected, atol=1e-8)
        low, high = profile_band(values, thresholds)
        assert (low <= expected).all()
        assert (high >= expected).all()


def test_the_p_value_is_where_the_interval_reaches_zero() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    assert interval(values).p == pytest.approx(stats.ttest_1samp(values, 0)[1])
    rng = np.random.default_rng(0)
    for shift in (0.2, 0.6, 0.9, 3):
        for draw in (rng.normal(shift, 1, 12), rng.normal(shift, 1, 40), rng.normal(shift, 1, (4, 12))):
            found = mean_over_seeds_and_episodes(np.atleast_2d(draw))
            assert (found.p < 0.05) == found.excludes_zero
            assert mean_over_seeds_and_episodes(np.atleast_2d(-draw)).p == pytest.approx(found.p, rel=0.2)
    # By hand: at the p-value each part's own quantile reaches the mean.
    crossed = rng.normal(1.5, 1, (3, 8))
    found = mean_over_seeds_and_episodes(crossed)
    rows, columns = crossed.mean(axis=1), crossed.mean(axis=0)
    residual = crossed - rows[:, None] - columns + crossed.mean()
    squares = (
        (rows.var(ddof=1) / 3, 2, 1),
        (columns.var(ddof=1) / 8, 7, 1),
        ((residual**2).sum() / 14 / 24, 14, -1),
    )
    for p, half in ((0.05, found.mean - found.low), (found.p, abs(found.mean))):
        parts = [sign * part * stats.t.isf(p / 2, freedom) ** 2 for part, freedom, sign in squares]
        assert half == pytest.approx(np.sqrt(max(sum(parts), parts[0], parts[1])), rel=1e-6)
    assert np.isnan(interval(np.zeros(5)).p), "nothing to test"
    assert interval(np.ones(5)).p == 0


def test_holm_adjusts_in_steps() -> None:
    # statsmodels 0.14, multipletests(method="holm"), gives the same for the five that are known.
    adjusted = holm([0.01, 0.04, float("nan"), 0.03, 0.005, 0.9])
    np.testing.assert_allclose(adjusted, [0.04, 0.09, np.nan, 0.09, 0.025, 0.9])
    sure = [Interval(1, 0.5, 1.5, "t", 0.01), Interval(-1, -2, -0.1, "t", 0.03), Interval(0, 0, 0)]
    assert certain(sure) == [True, True, False]
    assert certain([*sure, Interval(1, -1, 3, "t", 0.3)]) == [True, False, False, False]
    assert certain([Interval(1, -0.01, 2, "bootstrap", 0.049)]) == [False], "its interval holds 0"
    assert certain([]) == []


@pytest.mark.parametrize(("seeds", "alike"), [(1, 0.0), (1, 0.9), (1, 1.0), (5, 0.9)])
def test_bands_of_profiles_over_a_sweep_cover_as_often_as_they_say(seeds: int, alike: float) -> None:
    rng = np.random.default_rng(0)
    thresholds = np.array([0.0, 1.0, 1.5])
    of_seeds = 0.5 if seeds > 1 else 0.0
    truth = stats.norm.sf(thresholds / np.hypot(1, of_seeds))
    held = np.zeros(3)
    for _ in range(200):
        episodes = np.sqrt(alike) * rng.normal(size=(1, 1, 10)) + np.sqrt(1 - alike) * rng.normal(size=(1, 10, 10))
        low, high = profile_band(episodes + of_seeds * rng.normal(size=(seeds, 1, 1)), thresholds)
        held += (low <= truth) & (truth <= high)
    assert (held / 200 >= 0.92).all(), held / 200


def test_what_no_interval_can_know_is_stated() -> None:
    """`docs/compare.md` says how often intervals hold the mean where one seed in five fails: look at the seeds."""
    rng = np.random.default_rng(0)

    def draw(seeds: int) -> tuple[np.ndarray]:
        of_seeds = np.where(rng.random((seeds, 1)) < 0.2, 10, 0) + 0.3 * rng.normal(size=(seeds, 1))
        return (of_seeds + rng.normal(size=(1, 20)) + rng.normal(size=(seeds, 20)),)

    found = {seeds: coverage(mean_over_seeds_and_episodes, 2, lambda seeds=seeds: draw(seeds)) for seeds in (5, 10, 20)}
    assert found[5] == pytest.approx(0.67, abs=0.07)
    assert found[10] == pytest.approx(0.89, abs=0.05)
    assert found[20] == pytest.approx(0.93, abs=0.04)
