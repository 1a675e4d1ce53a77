"""Bands of normal samples: the probability of staying within is what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from jaxlmm.inference.bands import LARGEST, _limits, _within, normal_band, simultaneous_level


@pytest.mark.parametrize(("n", "level"), [(1, 0.9), (2, 0.95), (7, 0.95), (40, 0.95), (40, 0.5)])
def test_samples_stay_within_with_the_probability_asked_for(n: int, level: float) -> None:
    low, high = normal_band(n, level)
    samples = np.sort(np.random.default_rng(n).normal(size=(40_000, n)), axis=1)
    share = np.mean(np.all((samples >= low) & (samples <= high), axis=1))
    assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 40_000)
    np.testing.assert_allclose(low, -high[::-1], rtol=1e-9)  # the same from above and from below


def test_of_one_and_two_numbers_by_hand() -> None:
    assert simultaneous_level(1, 0.95) == pytest.approx(0.05, rel=1e-4)
    low, high = np.array([0.1, 0.3]), np.array([0.6, 0.9])
    # P(min in [0.1, 0.6], max in [0.3, 0.9]) by areas of the unit square.
    square = lambda a, b: max(b - a, 0.0) ** 2  # noqa: E731
    expected = square(0.1, 0.9) - square(0.1, 0.3) - square(0.6, 0.9)
    assert _within(low, high) == pytest.approx(expected, rel=1e-12)
    assert _within(np.zeros(5), np.ones(5)) == pytest.approx(1.0, rel=1e-12)


def test_each_point_leaves_with_the_same_probability() -> None:
    n, eta = 12, simultaneous_level(12, 0.95)
    low, high = normal_band(n, 0.95)
    i = np.arange(1, n + 1)
    order = scipy.stats.beta(i, n + 1 - i)
    np.testing.assert_allclose(order.cdf(scipy.stats.norm.cdf(low)), eta / 2, rtol=1e-6)
    np.testing.assert_allclose(order.sf(scipy.stats.norm.cdf(high)), eta / 2, rtol=1e-6)
    assert 0.05 / n < eta < 0.05


def test_large_samples_go_by_the_asymptotic_level() -> None:
    n = 2 * LARGEST
    assert _within(*_limits(n, simultaneous_level(n, 0.95))) == pytest.approx(0.95, abs=0.002)
