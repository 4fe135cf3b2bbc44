"""Statistics of comparing, against the literature and scipy.stats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

# Student's sleep data (Biometrika 6, 1908): hours of sleep gained by ten patients with two drugs.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

sample = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=12).filter(
    lambda values: np.std(values) > 1e-2
)
counts = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=4)


def test_welch_of_the_sleep_data() -> None:
    # As R prints it: t = -1.8608, df = 17.776, p-value = 0.07939, interval -3.3654832 to 0.2054832.
    difference = stats.welch(SLEEP_1, SLEEP_2)
    assert pytest.approx(17.776, abs=5e-4) == float(difference.df)
    assert pytest.approx(1.8608, abs=5e-5) == float(difference.estimate / difference.se)
    assert pytest.approx(0.07939, abs=5e-6) == float(difference.p())
    assert pytest.approx(0.2054832 + 3.3654832, abs=1e-6) == float(2 * difference.half_width())


def test_paired_t_of_the_sleep_data() -> None:
    # As R prints it: t = -4.0621, df = 9, p-value = 0.002833, interval -2.4598858 to -0.7001142.
    difference = stats.paired(np.subtract(SLEEP_2, SLEEP_1))
    assert pytest.approx(4.0621, abs=5e-5) == float(difference.estimate / difference.se)
    assert pytest.approx(0.002833, abs=5e-7) == float(difference.p())
    assert pytest.approx(1.58 + 0.8798858, abs=1e-6) == float(difference.estimate + difference.half_width())


@given(sample, sample)
def test_welch_is_that_of_scipy(a: list[float], b: list[float]) -> None:
    difference = stats.welch(a, b)
    expected = scipy.stats.ttest_ind(b, a, equal_var=False)
    assert pytest.approx(expected.pvalue, rel=1e-9) == float(difference.p())
    low, high = expected.confidence_interval(0.9)
    assert pytest.approx((high - low) / 2, rel=1e-9) == float(difference.half_width(0.9))


@given(sample, sample, st.floats(0.01, 50))
def test_tost_is_two_one_sided_tests_of_scipy(a: list[float], b: list[float], margin: float) -> None:
    above = scipy.stats.ttest_ind(np.add(b, margin), a, equal_var=False, alternative="greater").pvalue
    below = scipy.stats.ttest_ind(np.subtract(b, margin), a, equal_var=False, alternative="less").pvalue
    assert pytest.approx(max(above, below), abs=1e-9) == float(stats.welch(a, b).p_equivalent(margin))


@given(sample, sample, st.floats(0.01, 50))
def test_equivalence_is_the_interval_within_the_margin(a: list[float], b: list[float], margin: float) -> None:
    difference = stats.welch(a, b)
    inside = abs(float(difference.estimate)) + float(difference.half_width(0.9)) < margin
    assert inside == (float(difference.p_equivalent(margin)) < 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_one_value_on_a_side_says_nothing(side: int) -> None:
    samples = [[1.0, 1.1], [2.0]]
    difference = stats.welch(samples[side], samples[1 - side])
    assert math.isnan(float(difference.p()))
    assert math.isnan(float(difference.half_width()))
    assert math.isnan(float(difference.p_equivalent(10.0)))
    assert math.isnan(float(stats.paired([1.0]).p()))


def test_equal_values_without_spread_are_no_evidence() -> None:
    assert float(stats.welch([1.0, 1.0], [1.0, 1.0]).p()) == 1.0
    assert float(stats.paired([0.0, 0.0, 0.0]).p()) == 1.0


def test_a_coarse_clock_cannot_make_one_step_significant() -> None:
    # All builds read 20 steps of the clock, or 21: without the least spread, p would be 0.
    a, b, step = [math.log(20)] * 3, [math.log(21)] * 3, 1 / 20
    assert float(stats.welch(a, b).p()) == 0.0
    assert float(stats.welch(a, b, least_sd=step / math.sqrt(12)).p()) > 0.01
    assert float(stats.paired([b[0] - a[0]] * 2).p()) == 0.0
    assert float(stats.paired([b[0] - a[0]] * 2, least_sd=step / math.sqrt(6)).p()) > 0.05


def test_the_stratified_difference_by_hand() -> None:
    # Fast: 1.0 1.2 | 1.3 1.5 (d 0.3, w 1); slow: 2.0 | 2.5 2.7 (d 0.6, w 2/3); one-sided: 9.
    # d = (0.3 + 0.4) / (5/3) = 0.42; squares 0.02 + 0.02 + 0 + 0.02 = 0.06 over 7 − 4 degrees.
    difference = stats.stratified([1.0, 1.2, 2.0], [0, 0, 1], [1.3, 1.5, 2.5, 2.7, 9.0], [0, 0, 1, 1, 2])
    assert pytest.approx(0.42) == float(difference.estimate)
    assert float(difference.df) == 3
    assert pytest.approx(math.sqrt(0.02 / (5 / 3))) == float(difference.se)


@given(sample, sample)
def test_one_stratum_is_students_t_with_pooled_variance(a: list[float], b: list[float]) -> None:
    difference = stats.stratified(a, [7] * len(a), b, [7] * len(b))
    assert pytest.approx(scipy.stats.ttest_ind(b, a).pvalue, rel=1e-9) == float(difference.p())


def test_strata_that_only_one_side_has_say_nothing() -> None:
    difference = stats.stratified([1.0, 1.1], [0, 0], [2.0, 2.1], [1, 1])
    assert math.isnan(float(difference.p()))


def test_several_experiments_at_once_are_each_alone() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(4, 5)), random.normal(size=(4, 6))
    strata_a, strata_b = random.integers(0, 2, (4, 5)), random.integers(0, 2, (4, 6))
    together = stats.stratified(a, strata_a, b, strata_b)
    for i in range(4):
        alone = stats.stratified(a[i], strata_a[i], b[i], strata_b[i])
        assert pytest.approx(tuple(map(float, alone)), nan_ok=True) == tuple(
            float(part[i]) for part in together
        )
        assert pytest.approx(float(stats.welch(a[i], b[i]).p())) == float(stats.welch(a, b).p()[i])


def test_hodges_and_lehmann_by_hand() -> None:
    # Differences of (1, 2, 4) and (3, 7): 2 6 1 5 −1 3, their median 2.5.
    assert pytest.approx(2.5) == float(stats.hodges_lehmann([1, 2, 4], [3, 7]))


def test_holm_by_hand() -> None:
    # 0.01 × 4, 0.02 × 3, 0.03 × 2 (not below 0.06), 0.2.
    assert pytest.approx([0.06, 0.04, 0.06, 0.2]) == stats.holm([0.03, 0.01, 0.02, 0.2]).tolist()
    assert stats.holm([0.5, 0.9]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    adjusted = stats.holm(p)
    assert (adjusted >= np.minimum(p, 1)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert pytest.approx(min(1.0, min(p) * len(p))) == adjusted.min()


def test_fisher_of_the_lady_tasting_tea() -> None:
    # Fisher, The Design of Experiments (1935): three of four cups right, two-sided 34/70.
    assert pytest.approx(34 / 70) == stats.fisher([3, 1], [1, 3])


@given(counts)
def test_fisher_is_that_of_scipy(table: list[tuple[int, int]]) -> None:
    a, b = zip(*table, strict=True)
    used = [(x, y) for x, y in table if x + y]
    if len(used) == 2 and sum(a) and sum(b):
        expected = scipy.stats.fisher_exact(np.transpose(used)).pvalue
        assert pytest.approx(expected) == stats.fisher(a, b)
    assert pytest.approx(stats.fisher(a, b)) == stats.fisher(b, a)


def test_fisher_of_more_columns_counts_every_table() -> None:
    # Rows (2, 0, 1) and (0, 2, 0): of the C(5, 3) = 10 ways, those with product 1 are (2,0,1), (2,1,0)×…
    # products C(2,x)·C(2,y)·C(1,z), x + y + z = 3: (2,1,0) 2, (1,2,0) 2, (2,0,1) 1, (0,2,1) 1, (1,1,1) 4.
    assert pytest.approx(2 / 10) == stats.fisher([2, 0, 1], [0, 2, 0])


@pytest.mark.parametrize("table", [((12, 3), (4, 11)), ((9, 6, 1), (3, 8, 5)), ((8, 8), (8, 8))])
def test_fisher_of_drawn_tables_is_that_of_all(table: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = table
    totals = [x + y for x, y in zip(a, b, strict=True)]
    assert pytest.approx(stats.fisher(a, b), abs=0.01) == stats._fisher_drawn(totals, a)


def test_fisher_of_many_counts_is_that_of_scipy() -> None:
    expected = scipy.stats.fisher_exact([[300, 200], [260, 240]]).pvalue
    assert pytest.approx(expected, abs=0.005) == stats.fisher([300, 200], [260, 240])


def test_fisher_stays_fast_where_every_build_is_another_structure() -> None:
    assert stats.fisher([1] * 40 + [0] * 40, [0] * 40 + [1] * 40) == 1.0


def test_power_is_that_of_the_tables() -> None:
    # Cohen, Statistical Power Analysis (1988), table 2.3.5: d = 0.50, n = 64 a side, power 0.80.
    assert pytest.approx(0.80, abs=0.005) == stats.t_power(0.5, math.sqrt(2 / 64), 126)
    # d = 1.00, n = 17 a side: 0.80.
    assert pytest.approx(0.80, abs=0.01) == stats.t_power(1.0, math.sqrt(2 / 17), 32)


def test_power_without_an_effect_is_the_level_and_far_out_it_is_one() -> None:
    assert pytest.approx(0.05) == stats.t_power(0.0, 1.0, 8)
    assert stats.t_power(1.0, 1e-6, 8) == 1.0
    assert stats.t_power(1.0, 0.0, 8) == 1.0


def test_the_limit_of_a_standard_deviation() -> None:
    # χ²(0.20; 4) = 1.649: s · √(4 / 1.649).
    assert pytest.approx(math.sqrt(4 / 1.649), abs=1e-3) == stats.sd_limit(1.0, 4)
