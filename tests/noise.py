"""Simulated measurements: the noise that the statistics must stand, as logarithms of times.

Levels of repetition as in a session: a build has a spread of its own and may take a slow tactic, a run
adds another, iterations are correlated and hiccup now and then. The figures are those of a simulation of
earlier work, assumed and not measured on TensorRT; `PILOT` is set so that the results of a pilot on a
shared processor come out. Everything is vectorised over experiments (the first axis).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Modes = npt.NDArray[np.int64]
ITERATIONS = 150


class Noise(NamedTuple):
    """Standard deviations of log times at each level, and what happens to builds and sessions."""

    build: float = 0.006
    run: float = 0.005
    slow_share: float = 0.0
    """Share of builds that take a tactic slower by `SLOW`."""
    heavy: bool = False
    """Builds spread as Student's t with 3 degrees instead of normally."""
    session: float = 0.0
    drift: float = 0.0
    """Of the machine in the course of a session, with long memory (`drift`)."""


SLOW = 0.05
UNIMODAL = Noise()
BIMODAL = Noise(build=0.004, slow_share=0.3)
HEAVY = Noise(heavy=True)
DRIFTING = Noise(drift=0.01)
SESSIONS = Noise(session=0.005)
PILOT, PILOT_ROUNDS = Noise(build=0.003, run=0.003, drift=0.048), 10
"""There pairs found 2 % in 83 % of cases, and builds counted one by one in 32 %."""


class Side(NamedTuple):
    """Values of one side: by experiment and build, and which builds are slow."""

    iterations: Array
    """By experiment, build, run and iteration."""
    modes: Modes

    @property
    def runs(self) -> Array:
        """The value of each run: the median of its log times."""
        return np.asarray(np.median(self.iterations, axis=-1))

    @property
    def builds(self) -> Array:
        """The value of each build: the mean of its runs."""
        return np.asarray(self.runs.mean(-1))


def side(
    random: np.random.Generator,
    noise: Noise,
    experiments: int,
    builds: int,
    runs: int = 3,
    *,
    shift: float = 0.0,
    slow_share: float | None = None,
    extra: Array | None = None,
) -> Side:
    """Return one side whose times are longer by `shift`; `extra` is added to each build."""
    shape = (experiments, builds)
    spread = random.standard_t(3, shape) / np.sqrt(3) if noise.heavy else random.normal(size=shape)
    modes = (random.random(shape) < (noise.slow_share if slow_share is None else slow_share)).astype(np.int64)
    level = shift + noise.build * spread + np.log1p(SLOW) * modes
    if noise.session:
        level = level + noise.session * random.normal(size=(experiments, 1))
    if extra is not None:
        level = level + extra
    of_runs = level[..., None] + noise.run * random.normal(size=(*shape, runs))
    return Side(of_runs[..., None] + _iterations(random, of_runs.shape), modes)


def _iterations(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return AR(1) noise (ρ 0.95, sd 1.2 %) with hiccups of +10 % in one of a hundred."""
    rho, sd = 0.95, 0.012
    steps = random.standard_normal((ITERATIONS, *shape), dtype=np.float32) * np.float32(sd)
    steps[1:] *= np.float32(np.sqrt(1 - rho**2))
    for i in range(1, ITERATIONS):
        steps[i] += np.float32(rho) * steps[i - 1]
    hiccups = random.random(steps.shape, dtype=np.float32) < 0.01
    steps[hiccups] += random.exponential(0.1, int(hiccups.sum())).astype(np.float32)
    return np.moveaxis(steps, 0, -1).astype(np.float64)


def drift(random: np.random.Generator, experiments: int, turns: int, sd: float) -> Array:
    """Return noise whose power falls with f^−1.5, a stretch of a series four times as long."""
    length = 4 * turns
    frequencies = np.fft.rfftfreq(length)[1:]
    amplitude = frequencies**-0.75
    waves = random.normal(size=(experiments, frequencies.size)) + 1j * random.normal(
        size=(experiments, frequencies.size)
    )
    spectrum = np.concatenate([np.zeros((experiments, 1)), waves * amplitude], axis=1)
    series = np.fft.irfft(spectrum, length)[:, :turns]
    expected = np.sqrt(4 * (amplitude**2).sum()) / length
    return np.asarray(series * (sd / expected))


def alternating(
    random: np.random.Generator, noise: Noise, experiments: int, rounds: int, shift: float = 0.0
) -> tuple[Side, Side]:
    """Return both arms of a session of quads A B B A or B A A B, a fresh build in each turn.

    The builds of an arm stand in the order in which they were taken: two for each round.
    """
    wander = drift(random, experiments, 4 * rounds, noise.drift).reshape(experiments, rounds, 4)
    flipped = random.random((experiments, rounds, 1)) < 0.5
    outer = wander[..., [0, 3]]
    inner = wander[..., [1, 2]]
    of_a, of_b = np.where(flipped, inner, outer), np.where(flipped, outer, inner)
    arms = [
        side(random, noise, experiments, 2 * rounds, 1, shift=by, extra=wandered.reshape(experiments, -1))
        for by, wandered in ((0.0, of_a), (shift, of_b))
    ]
    return arms[0], arms[1]


def sequential(
    random: np.random.Generator, noise: Noise, experiments: int, builds: int, shift: float = 0.0
) -> tuple[Side, Side]:
    """Return both sides measured one after the other: all of A, then all of B."""
    wander = drift(random, experiments, 2 * builds, noise.drift)
    return (
        side(random, noise, experiments, builds, 1, extra=wander[:, :builds]),
        side(random, noise, experiments, builds, 1, shift=shift, extra=wander[:, builds:]),
    )


def pairs(a: Side, b: Side) -> Array:
    """Return the difference of each round: the mean of B's two builds less that of A's."""
    rounds = (a.builds.shape[0], -1, 2)
    return np.asarray(b.builds.reshape(rounds).mean(-1) - a.builds.reshape(rounds).mean(-1))
