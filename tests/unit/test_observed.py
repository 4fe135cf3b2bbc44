"""What was observed: values of builds, clocks while they were measured, files of a wrong size."""

from __future__ import annotations

import math

from repro import observed
from tests.builders import make_failed, make_record, make_run

# --- the key figure, against values worked out by hand -------------------------------------------


def test_the_key_figure_is_the_geometric_mean_of_the_builds() -> None:
    figure = observed.key_figure(make_record((8.0, 2.0)))
    assert figure is not None
    assert figure.builds == 2
    assert math.isclose(figure.value_ns, 4e6)  # sqrt(8 × 2)
    # log 8 − log 2 = 2 log 2: half width t(0.975, 1) × sd / sqrt(2) = 12.7062 × log 2.
    assert math.isclose(math.log(figure.high_ns or 0) - math.log(4e6), 12.7062 * math.log(2), rel_tol=1e-4)
    assert math.isclose((figure.low_ns or 0) * (figure.high_ns or 0), figure.value_ns**2, rel_tol=1e-9)


def test_runs_of_one_build_count_as_one() -> None:
    runs = (make_run(0, 1.0), make_run(0, 4.0, id="b0r1"), make_run(1, 2.0))
    figure = observed.key_figure(make_record((1.0, 2.0), runs=runs))
    assert figure is not None
    assert (figure.builds, round(figure.value_ns)) == (2, 2_000_000)


def test_one_build_has_no_interval() -> None:
    figure = observed.key_figure(make_record((3.0,)))
    assert figure is not None
    assert (figure.low_ns, figure.high_ns, figure.builds) == (None, None, 1)


def test_no_run_has_no_figure() -> None:
    assert observed.key_figure(make_failed()) is None
