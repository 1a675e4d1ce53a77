"""Where curves cross zero, many at once: secant steps inside a bracket (Illinois), for costly functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Bracket", "crossings", "expand"]

MAX_DOUBLINGS = 40
MAX_STEPS = 80
# Functions that are this close to 0, brackets that are this narrow relative to their ends, are done.
TOL_VALUE = 1e-9
TOL_WIDTH = 1e-14

# value(rows, x): the functions ``rows`` at x (len(rows),).
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(eq=False)
class Bracket:
    """Of N functions, points ``inside``, where they are negative, and ``outside``, where they are not.

    NaN in ``outside`` where no such point is known yet.
    """

    inside: np.ndarray
    inside_value: np.ndarray
    outside: np.ndarray
    outside_value: np.ndarray


def expand(function: Function, bracket: Bracket, step: np.ndarray, rows: np.ndarray) -> None:
    """Find ``outside`` of the functions ``rows`` by steps that double, starting with ``step`` (N,), signed."""
    step = step.copy()
    for _ in range(MAX_DOUBLINGS):
        if not len(rows):
            return
        x = bracket.inside[rows] + step[rows]
        value = function(rows, x)
        over, under = value >= 0, value < 0
        bracket.outside[rows[over]], bracket.outside_value[rows[over]] = x[over], value[over]
        bracket.inside[rows[under]], bracket.inside_value[rows[under]] = x[under], value[under]
        rows = rows[under]
        step[rows] *= 2


def crossings(function: Function, bracket: Bracket, rows: np.ndarray) -> np.ndarray:
    """Roots (len(rows),) of the functions ``rows`` between their ends; NaN where the search does not end."""
    a, fa = bracket.inside[rows].copy(), bracket.inside_value[rows].copy()
    b, fb = bracket.outside[rows].copy(), bracket.outside_value[rows].copy()
    found = np.full(len(rows), np.nan)
    active = np.flatnonzero(np.isfinite(a) & np.isfinite(b) & (fa < 0) & (fb >= 0))
    exact = active[fb[active] == 0]
    found[exact] = b[exact]
    active = active[fb[active] > 0]
    side = np.zeros(len(rows))
    for step in range(MAX_STEPS):
        if not len(active):
            break
        i = active
        x = b[i] - fb[i] * (b[i] - a[i]) / (fb[i] - fa[i])
        middle = 0.5 * (a[i] + b[i])
        outward = (x - a[i]) * (x - b[i]) >= 0
        x = np.where(outward | (step % 6 == 5), middle, x)  # a bisection now and then, whatever the shape
        value = function(rows[i], x)
        under, over = value < 0, value >= 0
        # Illinois: an end that stays a second time counts half.
        fb[i[under & (side[i] < 0)]] *= 0.5
        fa[i[over & (side[i] > 0)]] *= 0.5
        a[i[under]], fa[i[under]], side[i[under]] = x[under], value[under], -1
        b[i[over]], fb[i[over]], side[i[over]] = x[over], value[over], 1
        size = np.maximum(np.abs(a[i]), np.abs(b[i]))
        done = (np.abs(value) <= TOL_VALUE) | (np.abs(b[i] - a[i]) <= TOL_WIDTH * size)
        found[i[done]] = x[done]
        active = i[~done & ~np.isnan(value)]
    return found
