"""NIST StRD one-way analysis of variance, SmLs01 to SmLs09: how many digits hold.

Generated from NIST's published definition (Simon and Lesage 1989): 9 treatments with k = 21, 201
or 2001 replicates; a leading value offset + c (c = 0.4 for the first treatment, then 0.3 and 0.5
in turn) followed by pairs 0.1 below and above it; offsets 1, 1e6 and 1e12.

REML of a balanced layout has a closed form, sigma2 = MSW and group_var = (MSB - MSW) / k. Two
answers are compared: that of NIST's decimal data, and that of the same data after rounding to
float64, computed in exact rational arithmetic. The first is limited by the rounding of the data
(1e-4 at an offset of 1e12), the second shows what the computation itself loses.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import jaxlmm

# Digits asserted of (sigma2, group_var, coef): against the certified values by offset, and against
# the rounded data's exact answer, whatever the offset.
CERTIFIED_DIGITS = {1: (13, 12, 13), 10**6: (10, 9, 13), 10**12: (4, 3, 13)}
OWN_DIGITS = (13, 12, 13)


def layout(replicates: int, offset: int) -> list[list[Fraction]]:
    centres = [Fraction(4, 10), *[Fraction(3, 10), Fraction(5, 10)] * 4]
    steps = [Fraction(0), *[Fraction(-1, 10), Fraction(1, 10)] * ((replicates - 1) // 2)]
    return [[offset + c + step for step in steps] for c in centres]


def mean_squares(values: list[list[Fraction]]) -> tuple[Fraction, Fraction]:
    k, G = len(values[0]), len(values)
    means = [sum(v) / k for v in values]
    grand = sum(means) / G
    between = k * sum((mean - grand) ** 2 for mean in means) / (G - 1)
    within = sum((x - mean) ** 2 for v, mean in zip(values, means, strict=True) for x in v) / (G * (k - 1))
    return between, within


def digits(found: float, expected: Fraction) -> float:
    error = abs(Fraction(float(found)) - expected) / expected
    return 16.0 if error == 0 else -np.log10(float(error))


def test_the_definition_gives_the_certified_mean_squares() -> None:
    for replicates, between in ((21, "0.21"), (201, "2.01"), (2001, "20.01")):
        assert mean_squares(layout(replicates, 1)) == (Fraction(between), Fraction("0.01"))


@pytest.mark.parametrize("offset", [1, 10**6, 10**12])
@pytest.mark.parametrize("replicates", [21, 201, 2001])
def test_digits(replicates: int, offset: int) -> None:
    decimal = layout(replicates, offset)
    rounded = [[Fraction(float(v)) for v in row] for row in decimal]
    y = np.array([float(v) for row in decimal for v in row])
    groups = np.repeat(np.arange(9), replicates)
    # Beside ordinary responses, so that both ways through the reduction are in one panel.
    Y = np.column_stack([y, np.random.default_rng(0).normal(size=len(y))])
    found = jaxlmm.fit(np.ones((len(y), 1)), Y, groups)
    for values, least in ((decimal, CERTIFIED_DIGITS[offset]), (rounded, OWN_DIGITS)):
        between, within = mean_squares(values)
        exact = (within, (between - within) / replicates, sum(sum(row) for row in values) / len(y))
        for value, wanted, enough in zip(
            (found.sigma2[0], found.group_var[0], found.coef[0, 0]), exact, least, strict=True
        ):
            assert digits(value, wanted) >= enough
