"""Pure functions of numbers: no clock, no file, no opinion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.floating] | npt.NDArray[np.integer]


def log_median(durations_ns: Values) -> float:
    """Return the median of the natural logarithms: robust to hiccups, and ratios become differences."""
    return float(np.median(np.log(np.asarray(durations_ns, dtype=np.float64))))


def mean_interval(values: Values, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval for the mean of `values`, or `None` for fewer than two of them."""
    from scipy.special import stdtrit  # scipy.stats would take 0.8 s to import

    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return None
    quantile = float(stdtrit(sample.size - 1, 0.5 + confidence / 2))
    half = quantile * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return float(sample.mean()) - half, float(sample.mean()) + half


def trtexec_percentile(values: Values, percent: float) -> float:
    """Return a percentile of sorted `values` as trtexec calculates it, in float32 and without interpolation.

    `sorted[max(n − 1 − (int)((1 − p / 100) × n), 0)]` (sampleReporting.cpp, all tags from 8.4 to 11.1):
    of 100 values the 99th percentile is the largest.
    """
    count = len(values)
    exclude = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return float(values[max(count - 1 - exclude, 0)])


def trend(values: Values) -> tuple[float, float]:
    """Return Theil and Sen's change from first to last value, and Mann and Kendall's two-sided p.

    Series longer than 200 are reduced to the medians of 200 equal parts, which keeps the cost of the
    pairwise slopes bounded (Sen, JASA 63, 1968; Mann, Econometrica 13, 1945; no correction for ties).
    """
    series = np.asarray(values, dtype=np.float64)
    if series.size > 200:
        series = np.array([np.median(part) for part in np.array_split(series, 200)])
    n = series.size
    if n < 4:
        return 0.0, 1.0
    later, earlier = np.triu_indices(n, 1)[::-1]
    differences = series[later] - series[earlier]
    slope = float(np.median(differences / (later - earlier)))
    score = float(np.sign(differences).sum())
    variance = n * (n - 1) * (2 * n + 5) / 18
    z = (score - math.copysign(1, score)) / math.sqrt(variance) if score else 0.0
    return slope * (n - 1), math.erfc(abs(z) / math.sqrt(2))


def odd(values: Values, resolution: float = 0.0) -> npt.NDArray[np.bool_]:
    """Mark values farther than three interquartile ranges outside the quartiles (Tukey's "far out").

    A range below the `resolution` of the values counts as the resolution: where most values are equal
    only because the clock is coarse, the next step of the clock is not odd.
    """
    sample = np.asarray(values, dtype=np.float64)
    low, high = np.percentile(sample, [25, 75])
    reach = 3 * max(high - low, resolution)
    return np.asarray((sample < low - reach) | (sample > high + reach))


def thin(count: int, keep: int) -> npt.NDArray[np.int64]:
    """Return the indices of an even selection of `keep` out of `count`, first and last included."""
    if count <= keep:
        return np.arange(count)
    return np.rint(np.linspace(0, count - 1, keep)).astype(np.int64)


# --- comparing ----------------------------------------------------------------------------------
#
# Values are logarithms of times, so a difference is the logarithm of a ratio. All of these work along
# the last axis and give one answer for each index of the others; a plain sample gives arrays without
# an axis.

Array = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """An estimated difference of means b − a, its standard error and degrees of freedom.

    Where nothing can be said (too few values), `se` and `df` are NaN, and so is all that follows.
    """

    estimate: Array
    se: Array
    df: Array

    def p(self) -> Array:
        """Return the two-sided p of no difference."""
        from scipy.special import stdtr

        return np.asarray(2 * stdtr(self.df, -np.abs(self._t(self.estimate))))

    def p_equivalent(self, margin: float) -> Array:
        """Return the p of a difference beyond ±`margin` (two one-sided tests; Schuirmann, 1987)."""
        from scipy.special import stdtr

        above = stdtr(self.df, -self._t(self.estimate + margin))
        below = stdtr(self.df, self._t(self.estimate - margin))
        return np.asarray(np.maximum(above, below))

    def half_width(self, confidence: float = 0.95) -> Array:
        """Return half the width of the interval; it is centred on the estimate."""
        from scipy.special import stdtrit

        return np.asarray(stdtrit(self.df, 0.5 + confidence / 2) * self.se)

    def _t(self, distance: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = distance / self.se
        # Values without any spread that don't differ either: 0 / 0 is no evidence of anything.
        return np.where((self.se == 0) & (distance == 0), 0.0, t)


def welch(a: Values, b: Values, least_sd: float = 0.0) -> Difference:
    """Return the difference of two means with unequal variances (Welch, Biometrika 34, 1947).

    `least_sd` is the spread that a value has at least, because its clock is coarse.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n, m = left.shape[-1], right.shape[-1]
    estimate = right.mean(-1) - left.mean(-1)
    if min(n, m) < 2:
        nan = np.full_like(estimate, math.nan)
        return Difference(np.asarray(estimate), nan, nan)
    of_a = np.maximum(left.var(-1, ddof=1), least_sd**2) / n
    of_b = np.maximum(right.var(-1, ddof=1), least_sd**2) / m
    both = of_a + of_b
    with np.errstate(invalid="ignore"):
        df = both**2 / (of_a**2 / (n - 1) + of_b**2 / (m - 1))
    return Difference(
        np.asarray(estimate), np.asarray(np.sqrt(both)), np.asarray(np.where(both > 0, df, n + m - 2))
    )


def paired(differences: Values, least_sd: float = 0.0) -> Difference:
    """Return the mean of `differences` of pairs, with Student's t (one less degree than pairs)."""
    sample = np.asarray(differences, dtype=np.float64)
    n = sample.shape[-1]
    estimate = np.asarray(sample.mean(-1))
    if n < 2:
        nan = np.full_like(estimate, math.nan)
        return Difference(estimate, nan, nan)
    variance = np.maximum(sample.var(-1, ddof=1), least_sd**2)
    return Difference(estimate, np.asarray(np.sqrt(variance / n)), np.full_like(estimate, n - 1))


def stratified(
    a: Values, strata_a: npt.ArrayLike, b: Values, strata_b: npt.ArrayLike, least_sd: float = 0.0
) -> Difference:
    """Return the difference within strata: d = Σ w d_s / Σ w, w = n_a n_b / (n_a + n_b).

    The variance is pooled over the cells of strata that both sides have; df = N − cells. Values of
    strata that one side lacks don't count. `strata_*` hold an integer for each value.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    of_a, of_b = np.asarray(strata_a), np.asarray(strata_b)
    weight = weighted = squares = n = cells = np.zeros(left.shape[:-1])
    for stratum in np.unique(np.concatenate([of_a.ravel(), of_b.ravel()])):
        here = [(left, of_a == stratum), (right, of_b == stratum)]
        n_a, n_b = (mask.sum(-1) for _, mask in here)
        both = (n_a > 0) & (n_b > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_a, mean_b = ((values * mask).sum(-1) / mask.sum(-1) for values, mask in here)
            w = np.where(both, n_a * n_b / (n_a + n_b), 0.0)
            weighted = weighted + np.where(both, w * (mean_b - mean_a), 0.0)
        for (values, mask), mean in zip(here, (mean_a, mean_b), strict=True):
            spread = (np.where(mask, values - np.expand_dims(mean, -1), 0.0) ** 2).sum(-1)
            squares = squares + np.where(both, spread, 0.0)
        weight = weight + w
        n = n + np.where(both, n_a + n_b, 0)
        cells = cells + np.where(both, 2, 0)
    df = np.where(n > cells, n - cells, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(squares / df, least_sd**2)
        return Difference(np.asarray(weighted / weight), np.asarray(np.sqrt(variance / weight)), df)


def combined(parts: Sequence[Difference]) -> Difference:
    """Return the mean of independent differences, its degrees of freedom after Welch and Satterthwaite."""
    estimate = sum((part.estimate for part in parts), np.zeros(())) / len(parts)
    total = sum((part.se**2 for part in parts), np.zeros(()))
    weights = sum((part.se**4 / part.df for part in parts), np.zeros(()))
    with np.errstate(invalid="ignore"):
        df = np.where(weights > 0, total**2 / weights, min(float(part.df.min()) for part in parts))
    return Difference(np.asarray(estimate), np.asarray(np.sqrt(total) / len(parts)), df)


def hodges_lehmann(a: Values, b: Values) -> Array:
    """Return the median of all differences b − a (Hodges and Lehmann, Ann. Math. Stat. 34, 1963)."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = right[..., :, None] - left[..., None, :]
    return np.asarray(np.median(differences, axis=(-2, -1)))


def holm(p: Values) -> Array:
    """Return Holm's adjusted p along the last axis: the chance of any false one stays below each."""
    values = np.asarray(p, dtype=np.float64)
    n = values.shape[-1]
    order = np.argsort(values, axis=-1)
    stepped = np.take_along_axis(values, order, -1) * np.arange(n, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


EXACT_MOST = 40
"""Counts of which every table is looked at; beyond, the time would double with every few more."""
DRAWN_TABLES = 20_000


def fisher(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the p of two rows of counts having one distribution (Fisher; Freeman and Halton, 1951).

    Tables no likelier than the one seen are counted, whatever the number of columns: exactly, in
    integers, up to `EXACT_MOST` counts, and beyond among `DRAWN_TABLES` tables drawn with a fixed seed.
    """
    totals = [x + y for x, y in zip(a, b, strict=True)]
    if sum(totals) > EXACT_MOST:
        return _fisher_drawn(totals, a)
    # By how many of the counts so far fall to a: how many tables have which product of binomials.
    ways: dict[int, Counter[int]] = {0: Counter({1: 1})}
    for total in totals:
        longer: dict[int, Counter[int]] = {}
        for used, products in ways.items():
            for x in range(total + 1):
                choices = math.comb(total, x)
                into = longer.setdefault(used + x, Counter())
                for product, tables in products.items():
                    into[product * choices] += tables
        ways = longer
    seen = math.prod(math.comb(total, x) for total, x in zip(totals, a, strict=True))
    as_rare = sum(product * tables for product, tables in ways[sum(a)].items() if product <= seen)
    return as_rare / math.comb(sum(totals), sum(a))


def _fisher_drawn(totals: Sequence[int], a: Sequence[int]) -> float:
    from scipy.special import gammaln

    def log_p(table: npt.NDArray[np.int64]) -> Array:
        return np.asarray(-(gammaln(table + 1) + gammaln(np.asarray(totals) - table + 1)).sum(-1))

    drawn = np.random.default_rng(0).multivariate_hypergeometric(
        np.asarray(totals), sum(a), DRAWN_TABLES, method="marginals"
    )
    # Rounding must not make a table of equal probability a likelier one.
    as_rare = int((log_p(drawn) <= float(log_p(np.asarray(a))) + 1e-9).sum())
    return (1 + as_rare) / (1 + DRAWN_TABLES)


def t_power(effect: float, se: float, df: float, alpha: float = 0.05) -> float:
    """Return the chance that a two-sided t test at `alpha` finds `effect` (noncentral t)."""
    from scipy.special import nctdtr, stdtrit

    if se == 0:
        return 1.0
    beyond = float(stdtrit(df, 1 - alpha / 2))
    shift = abs(effect) / se
    # Far out the series of the distribution ends in NaN, where the power is 1 to any digit.
    power = 1 - float(nctdtr(df, shift, beyond)) + float(nctdtr(df, shift, -beyond))
    return 1.0 if math.isnan(power) else power


def sd_limit(sd: float, df: float, confidence: float = 0.8) -> float:
    """Return the upper limit of a standard deviation seen with `df` degrees of freedom."""
    from scipy.special import chdtri

    return sd * math.sqrt(df / float(chdtri(df, confidence)))
