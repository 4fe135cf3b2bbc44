"""Statistics against hand values, the literature and another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

moderate = st.floats(-1e6, 1e6, allow_subnormal=False)


def test_the_log_median_of_an_odd_count_is_the_log_of_the_middle() -> None:
    assert pytest.approx(math.log(7)) == stats.log_median([9, 7, 1])


def test_the_log_median_of_an_even_count_is_the_log_of_the_geometric_middle() -> None:
    assert pytest.approx(math.log(4)) == stats.log_median([1, 2, 8, 100])


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=30), st.integers(2, 1000))
def test_a_factor_of_the_times_is_a_difference_of_log_medians(times: list[int], factor: int) -> None:
    slower = [factor * t for t in times]
    assert pytest.approx(math.log(factor)) == stats.log_median(slower) - stats.log_median(times)


def test_the_t_interval_of_a_textbook_sample() -> None:
    # mean 3, s = √2.5, t(0.975; 4) = 2.776445: 3 ± 1.963243
    interval = stats.mean_interval([1, 2, 3, 4, 5])
    assert interval is not None
    assert pytest.approx((1.036757, 4.963243), abs=1e-6) == interval


def test_two_values_give_a_wide_interval() -> None:
    # s = 1/√2, t(0.975; 1) = 12.706205: 0.5 ± 12.706205 / 2
    interval = stats.mean_interval([0.0, 1.0])
    assert interval is not None
    assert pytest.approx((0.5 - 6.3531024, 0.5 + 6.3531024), abs=1e-6) == interval


@pytest.mark.parametrize("values", [[], [3.0]])
def test_there_is_no_interval_without_a_spread(values: list[float]) -> None:
    assert stats.mean_interval(values) is None


@given(
    st.lists(moderate, min_size=2, max_size=40).filter(lambda v: np.std(v) > 1e-3),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_interval_is_that_of_scipy(values: list[float], confidence: float) -> None:
    expected = scipy.stats.t.interval(
        confidence, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    interval = stats.mean_interval(values, confidence)
    assert interval is not None
    assert pytest.approx(expected, rel=1e-9, abs=1e-9) == interval


def test_trend_of_a_series_computed_by_hand() -> None:
    # 1 3 2 4 5: of ten pairs one falls, so S = 8; var = 5·4·15/18 = 16.667; z = 7/4.0825 = 1.7146
    # slopes 2, .5, 1, 1, −1, .5, .667, 2, 1.5, 1: median 1, over four steps 4.
    change, p = stats.trend([1, 3, 2, 4, 5])
    assert pytest.approx(4.0) == change
    assert pytest.approx(0.086411, abs=1e-6) == p


def test_trend_of_a_falling_series() -> None:
    # S = −15 of 15 pairs; var = 6·5·17/18 = 28.333; z = −14/5.3229 = −2.6302
    change, p = stats.trend([6, 5, 4, 3, 2, 1])
    assert pytest.approx(-5.0) == change
    assert pytest.approx(0.008535, abs=1e-6) == p


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0], [5.0] * 50])
def test_short_and_constant_series_have_no_trend(values: list[float]) -> None:
    assert stats.trend(values) == (0.0, 1.0)


@given(st.lists(moderate, min_size=4, max_size=60))
def test_the_slope_is_that_of_scipy(values: list[float]) -> None:
    change, _ = stats.trend(values)
    slope = scipy.stats.theilslopes(values).slope
    assert pytest.approx(slope * (len(values) - 1), abs=1e-6) == change


@given(st.lists(st.integers(-1000, 1000), min_size=4, max_size=60))
def test_a_reversed_series_has_the_opposite_trend(values: list[int]) -> None:
    change, p = stats.trend(values)
    assert pytest.approx((-change, p)) == stats.trend(values[::-1])


def test_a_long_series_is_reduced_and_keeps_its_trend() -> None:
    times = np.linspace(100.0, 110.0, 20_000)
    times[::50] *= 5  # hiccups
    change, p = stats.trend(times)
    assert pytest.approx(10.0, rel=0.02) == change
    assert p < 1e-12


def test_noise_without_drift_has_no_small_p_more_often_than_it_should() -> None:
    noise = np.random.default_rng(5).normal(size=(400, 60))
    small = sum(stats.trend(series)[1] < 0.05 for series in noise)
    # Binomial(400, 0.05): mean 20, standard deviation 4.4.
    assert 7 <= small <= 34


def test_odd_values_lie_beyond_three_interquartile_ranges() -> None:
    # Quartiles of 1 … 9 are 3 and 7: the fences are at −9 and 19.
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert stats.odd(values).sum() == 0
    # With a tenth value the quartiles are 3.25 and 7.75: the upper fence is at 21.25.
    assert stats.odd([*values, 21]).tolist() == [False] * 10
    assert stats.odd([*values, 22]).tolist() == [False] * 9 + [True]
    assert stats.odd([-12, *values]).tolist() == [True] + [False] * 9


def test_a_constant_series_has_no_odd_values() -> None:
    assert stats.odd([7.0] * 10).sum() == 0


def test_without_a_resolution_any_other_value_among_equal_ones_is_odd() -> None:
    assert stats.odd([100] * 9 + [101]).sum() == 1


def test_values_closer_than_the_resolution_can_tell_are_not_odd() -> None:
    # The quartiles are equal only because the clock is coarse: 3 steps of 40 around them are nothing.
    assert stats.odd([100] * 9 + [220], resolution=40).sum() == 0
    assert stats.odd([100] * 9 + [221], resolution=40).tolist() == [False] * 9 + [True]


def test_a_resolution_finer_than_the_spread_changes_nothing() -> None:
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 22]
    assert stats.odd(values).tolist() == stats.odd(values, resolution=1).tolist()


@given(st.integers(0, 5000), st.integers(2, 400))
def test_thinning_keeps_first_and_last_and_nothing_twice(count: int, keep: int) -> None:
    chosen = stats.thin(count, keep).tolist()
    assert len(chosen) == min(count, keep)
    assert chosen == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)


@given(st.integers(2, 5000), st.integers(2, 400))
def test_thinning_is_even(count: int, keep: int) -> None:
    steps = np.diff(stats.thin(count, keep))
    assert steps.max() - steps.min() <= 1


def test_thinning_at_its_real_size() -> None:
    chosen = stats.thin(20_001, 20_000)
    assert (chosen.size, np.unique(chosen).size, chosen[-1]) == (20_000, 20_000, 20_000)


@pytest.mark.parametrize(("n", "percent", "index"), [(100, 99, 99), (1000, 99, 990), (10, 90, 8), (1, 50, 0)])
def test_trtexec_s_percentile_is_a_value_of_the_sample(n: int, percent: float, index: int) -> None:
    assert stats.trtexec_percentile(list(range(n)), percent) == index
