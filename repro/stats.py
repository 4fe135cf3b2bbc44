"""Pure functions of numbers: no clock, no file, no opinion."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
