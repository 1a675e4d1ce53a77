"""Proof that a minimum of the deviance is the lowest one; where it fails, the search that settles it.

With t = log(1 + lam d_max), g = lam + 1 / d_max and q_j = g d_j / (1 + lam d_j), which lies in [0, 1],

    F(t) = nu log s + l,   s = sum_j u_j^2 / (1 + lam d_j) + rest,   l = sum_j m_j log(1 + lam d_j),
    F' = L - nu Q,   L = l' = sum_j m_j q_j,   Q = -s' / s.

Three means of the q_j (weights in brackets) say how both change: a (m_j q_j), Q (u_j^2 / (1 + lam d_j),
with q = 0 for rest) and b (u_j^2 q_j / (1 + lam d_j)). Over dt, q_j changes by q_j (1 - q_j) and the weights
by 1 - q_j, -q_j and 1 - 2 q_j of themselves. So, whatever the d_j, m_j and u_j are,

    -a (1 - a) <= a' <= a (1 - a),     a'' >= -a (1 - a) (1 + a) / 2,
    -Q (1 - Q) <= Q' <= Q (1 - Q),     Q'' >= -Q (1 - Q) (1 + Q) / 2,
    -2 b (1 - b) <= b' <= b (1 - b),   b'' <= 4 b (1 - b), and b'' <= 0.6875 y + 0.75 y^2 - 1.25 y^3, y = 1 - b.

(Of a mean mu of weights that change by 1 - k q of themselves, with variance V and third central moment W,
mu'' = (1 - 2 mu) (mu (1 - mu) - 3 (1 + k) V) + (1 + k) (2 + k) W, and on [0, 1] by Cauchy and Schwarz
V^2 / mu - V mu <= W <= V (1 - mu) - V^2 / (1 - mu); the bounds are the extremes over V.)

F' = 0 where log(L / (nu Q)) = 0, and the derivative of this logarithm is D = 2 b - Q - a.

*Intervals of the grid.* s is concave in exp(-t), since each term of it is: on an interval s lies above the
chord between its ends, which is A + B exp(-t) with A, B >= 0, the logarithm of which is convex in t. So is l.
Hence F lies above a convex function that touches it at both ends; where that one does not fall at the
left end, or does not rise at the right end, nothing inside is lower than the ends. The other intervals are *open*.

*Around a minimum.* Two minima t1 < t3 with a maximum between them are three zeros of log(L / (nu Q)), so that
D(t1) = (t2 - t1) (t3 - t1) D''(x) / 6 for some x between them. Where D(t1) is larger than the bounds above
allow, there is no other minimum. At t1 = 0, where the logarithm may have a value g > 0, g / (t2 - t1) + g / (t3 - t1)
is added to D(t1). Nearly all responses are settled so.

*Sweep.* For the others, t walks through what is open, in steps over which the bounds above show that F falls, or
rises, or has one minimum at most, or stays above the lowest minimum known. Each minimum met is polished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

__all__ = [
    "OF_UNDECIDED", "Candidate", "Nodes", "Problem", "Shape", "interval_bounds", "is_alone", "open_range",
    "safe_step", "settle", "thresholds",
]  # fmt: skip

# How much lower, in deviance, a minimum may be without being looked for.
TOLERANCE = 1e-9
# Steps of the sweep that are tried; the least is taken also without proof (it loses less than rounding).
STEPS = tuple(2.0**-k for k in range(-1, 17))
LEAST_STEP = 2.0**-17
MAX_STEPS = 4096
# One in so many responses is taken at a time, where the first proof fails and where the second does: of all
# responses, and of those for which the first is known to fail.
OF_ALL = (16, 128)
OF_UNDECIDED = (1, 4)
# The largest b'' that there is, and the largest -a'' and -Q''; rounded up.
MOST_B, MOST_A = 0.4214, 0.1925
# Added where 1 - q may be lost in rounding.
ROUNDING = 4e-16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Candidate:
    """A point of each response: ``t`` and ``deviance`` (c,), and what the caller keeps ``at`` it.

    ``at`` has the pwrss ``s`` and the derivatives in lam ``s1``, ``s2``, ``l1``, ``l2`` (c,) of it and of
    the log-determinant, and whatever else.
    """

    t: jax.Array
    at: Any
    deviance: jax.Array


class Problem(Protocol):
    """c responses whose deviance is nu log s + l as above; ``nu`` is a scalar or (c,)."""

    @property
    def nu(self) -> jax.Array: ...

    @property
    def d_max(self) -> jax.Array: ...

    def newton(self, start: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        """A minimum inside of each bracket, (c,)."""

    def evaluate(self, t: jax.Array) -> Candidate:
        """Everything at t (c,)."""

    def take(self, index: jax.Array) -> Problem:
        """Some of the responses; an index out of range may stand for any."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nodes:
    """The grid of K points.

    Attributes
    ----------
    t : (K,)
    s : (K, c)
    logdet, slope_low, slope_high : (K, c) or (K, 1)
        The log-determinant, and bounds of its derivative in t.
    slope_zero : (c,)
        Derivative of the deviance in t at t = 0.
    """

    t: jax.Array
    s: jax.Array
    logdet: jax.Array
    slope_low: jax.Array
    slope_high: jax.Array
    slope_zero: jax.Array

    def take(self, index: jax.Array) -> Nodes:
        def some(a: jax.Array) -> jax.Array:
            return a if a.shape[1] == 1 else a[:, index]

        low, high = some(self.slope_low), some(self.slope_high)
        return Nodes(self.t, some(self.s), some(self.logdet), low, high, self.slope_zero[index])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shape:
    """L, Q, a, b and nu of the module's docstring at one t of each response."""

    L: jax.Array
    Q: jax.Array
    a: jax.Array
    b: jax.Array
    nu: jax.Array

    @classmethod
    def of(cls, point: Candidate, problem: Problem) -> Shape:
        at, g = point.at, jnp.exp(point.t) / problem.d_max

        def part(x: jax.Array) -> jax.Array:
            return jnp.clip(x, 0.0, 1.0)

        a, b = -at.l2 / at.l1 * g, -0.5 * at.s2 / at.s1 * g
        return cls(at.l1 * g, part(-at.s1 / at.s * g), part(a), part(b), problem.nu)

    @property
    def log_ratio(self) -> jax.Array:
        """log(L / (nu Q)), which has the sign of F'."""
        return jnp.log(self.L / (self.nu * jnp.maximum(self.Q, 1e-300)))

    @property
    def D(self) -> jax.Array:
        return 2 * self.b - self.Q - self.a


def thresholds(nodes: Nodes, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factors f, g (K - 1, ...) such that an interval is open where s_right < f s_left and s_left < g s_right."""
    h = (nodes.t[1:] - nodes.t[:-1])[:, None]
    return 1 + nodes.slope_low[:-1] * jnp.expm1(-h) / nu, 1 + nodes.slope_high[1:] * jnp.expm1(h) / nu


def interval_bounds(nodes: Nodes, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A bound (K - 1, c) below which F does not fall between two nodes, and whether the interval is open.

    The convex function of the module's docstring lies above its tangents at both ends; where they meet is the bound.
    """
    h = (nodes.t[1:] - nodes.t[:-1])[:, None]
    value = nu * jnp.log(nodes.s) + nodes.logdet
    left, right = nodes.s[:-1], nodes.s[1:]
    falls = nu * (1 - right / left) / -jnp.expm1(-h) - nodes.slope_low[:-1]
    rises = nodes.slope_high[1:] - nu * (left / right - 1) / jnp.expm1(h)
    opened = (falls > 0) & (rises > 0)
    total = jnp.where(opened, falls + rises, 1.0)
    meet = jnp.clip((value[:-1] - value[1:] + rises * h) / total, 0.0, h)
    inside = jnp.maximum(value[:-1] - falls * meet, value[1:] - rises * (h - meet))
    return jnp.where(opened, inside, jnp.minimum(value[:-1], value[1:])), opened


def open_range(nodes: Nodes, nu: jax.Array, best: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From where to where (c,) F might be lower than ``best``; inf and -inf if it cannot be."""
    bound, opened = interval_bounds(nodes, nu)
    opened &= bound < best - TOLERANCE
    first = jnp.min(jnp.where(opened, nodes.t[:-1, None], jnp.inf), axis=0)
    return first, jnp.max(jnp.where(opened, nodes.t[1:, None], -jnp.inf), axis=0)


def is_alone(shape: Shape, reach: jax.Array, at_zero: jax.Array) -> jax.Array:
    """Whether a minimum, with this shape, is the only one within the distance ``reach``; all (c,).

    ``at_zero``: it lies at t = 0, where the deviance may rise.
    """

    def largest(x: jax.Array, factor: float, rate: float, bound: float) -> jax.Array:
        """factor x (1 - x) over that distance, at most ``bound``: the logit of x changes by ``rate`` at most."""
        return jnp.minimum(bound, factor * x * (1 - x) * jnp.exp(rate * reach))

    curvature = 2 * largest(shape.b, 4.0, 2.0, MOST_B)
    curvature += largest(shape.a, 1.0, 1.0, MOST_A) + largest(shape.Q, 1.0, 1.0, MOST_A)
    lead = jnp.where(at_zero, jnp.maximum(shape.log_ratio, 0.0), 0.0)
    return (reach <= 0) | (6 * (shape.D * reach + 2 * lead) > reach**3 * curvature)


def safe_step(shape: Shape, gap: jax.Array) -> jax.Array:
    """How far (c,) from here F surely has one minimum at most, or none below the lowest known.

    ``gap`` (c,) is how far F lies above that one, and not negative.
    """
    L, Q, a, b, nu = shape.L, jnp.maximum(shape.Q, 1e-300), shape.a, shape.b, shape.nu
    left_a, left_q, log_ratio = 1 - a + ROUNDING, 1 - Q + ROUNDING, shape.log_ratio
    ratio = jnp.exp(log_ratio)
    # F rises as long as nu Q (1 - a + a x) <= L (1 - Q + Q x), x = exp(step).
    turn, room = a - ratio * Q, jnp.maximum(ratio * (1 - Q) - left_a, 0.0)
    rising = jnp.where(turn < -1e-14, jnp.inf, jnp.log(jnp.maximum(room / jnp.maximum(turn, 1e-14), 1.0)))
    # F falls as long as (L / nu Q) (a + (1 - a) x) (Q + (1 - Q) x) <= 1.
    square, linear, constant = left_a * left_q, a * left_q + left_a * Q, a * Q - 1 / ratio
    root = jnp.sqrt(jnp.maximum(linear * linear - 4 * square * constant, 0.0))
    falling = jnp.log(jnp.maximum(-2 * constant / (linear + root), 1.0))
    known = jnp.where(log_ratio >= 0, rising, falling)

    step = jnp.array(STEPS)[:, None]
    x = jnp.exp(step)
    D = 2 * b / (b + (1 - b) * x * x) - a * x / (1 - a + a * x) - Q * x / (1 - Q + Q * x)
    # F stays above F + (L / a) log(1 - a + a x) - nu log(1 - Q + Q x), which turns once at most.
    lowest = jnp.where((ratio < 1) & (turn < 0), jnp.minimum(x, (ratio * (1 - Q) - (1 - a)) / turn), x)
    least_a = jnp.maximum(a, 1e-12)
    change = L / least_a * jnp.log1p(least_a * (lowest - 1)) - nu * jnp.log1p(Q * (lowest - 1))
    # And it falls no faster than D allows.
    deepest = jnp.maximum(-(log_ratio + step * jnp.minimum(D, 0.0)), 0.0)
    drop = step * L * (a + (1 - a) * x) * jnp.expm1(deepest)
    fine = (D > 0) | (gap + change >= -TOLERANCE) | (gap - drop >= -TOLERANCE)
    found = jnp.maximum(known, jnp.max(jnp.where(fine, step, 0.0), axis=0))
    return jnp.maximum(jnp.where(found >= 0, found, 0.0), LEAST_STEP)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Walk:
    """Responses on their way through what is open, (n,) each: the last two points, and the lowest minimum yet.

    ``crossed``: a minimum lies between ``before`` and ``t``. ``polished``: ``best`` is one, not just a point.
    """

    before: jax.Array
    t: jax.Array
    end: jax.Array
    fell: jax.Array
    crossed: jax.Array
    done: jax.Array
    polished: jax.Array
    steps: jax.Array
    best: Candidate


def _choose(where: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _advance(problem: Problem, walk: _Walk) -> _Walk:
    """One step of every response that neither is through nor stands behind a minimum."""
    # A response whose minimum was just polished goes on from the same point.
    here = problem.evaluate(walk.t)
    shape = Shape.of(here, problem)
    falls = shape.log_ratio < 0
    lower = here.deviance < walk.best.deviance - TOLERANCE
    best, polished = _choose(lower, here, walk.best), walk.polished & ~lower
    known = polished & (walk.before <= best.t) & (best.t <= walk.t)
    crossed = walk.fell & ~falls & ~known
    step = safe_step(shape, jnp.maximum(here.deviance - best.deviance, 0.0))
    last = (walk.t >= walk.end) | (walk.steps >= MAX_STEPS) | jnp.isnan(here.deviance)
    t = jnp.where(crossed | last, walk.t, jnp.minimum(walk.t + step, walk.end))
    before = jnp.where(crossed, walk.before, walk.t)
    new = _Walk(before, t, walk.end, falls, crossed, last & ~crossed, polished, walk.steps + 1, best)
    return _choose(walk.done | walk.crossed, walk, new)


def _polish(problem: Problem, walk: _Walk) -> _Walk:
    """The minima that were met."""
    wanted = walk.crossed | (walk.done & ~walk.polished)
    low = jnp.where(walk.crossed, walk.before, jnp.maximum(walk.best.t - 0.25, 0.0))
    high = jnp.where(walk.crossed, walk.t, walk.best.t + 0.25)
    new = problem.evaluate(problem.newton(0.5 * (low + high), low, high))
    # A minimum that is known stays unless another is lower: the same one, met again, differs by rounding.
    better = wanted & (new.deviance < walk.best.deviance - jnp.where(walk.polished, TOLERANCE, 0.0))
    best = _choose(better, new, walk.best)
    none, through = jnp.zeros_like(walk.done), walk.done
    # What was just polished is not to be found again: the walk starts anew at t, not falling.
    return _Walk(
        walk.t, walk.t, walk.end, walk.fell & ~walk.crossed, none, through, walk.polished | wanted, walk.steps, best
    )


def _sweep(problem: Problem, best: Candidate, first: jax.Array, last: jax.Array) -> tuple[Candidate, jax.Array]:
    """Lowest minimum of each response from ``first`` to ``last``, or ``best``; and whether all was seen."""
    false = jnp.zeros(best.t.shape, dtype=bool)
    nowhere = ~(first < last)
    start = _Walk(first, first, last, false, false, nowhere, ~false, jnp.zeros(best.t.shape, dtype=jnp.int32), best)
    start = _choose(nowhere, _Walk(best.t, best.t, best.t, false, false, ~false, ~false, start.steps, best), start)

    def walk_on(walk: _Walk) -> _Walk:
        walk = jax.lax.while_loop(lambda w: jnp.any(~w.done & ~w.crossed), lambda w: _advance(problem, w), walk)
        needed = jnp.any(walk.crossed | ~walk.polished)
        return jax.lax.cond(needed, lambda w: _polish(problem, w), lambda w: w, walk)

    walk = jax.lax.while_loop(lambda w: jnp.any(~w.done | w.crossed | ~w.polished), walk_on, start)
    return walk.best, walk.steps < MAX_STEPS


def settle(
    problem: Problem, nodes: Nodes, found: Candidate, undecided: jax.Array, shares: tuple[int, int] = OF_ALL
) -> tuple[Candidate, jax.Array]:
    """Lowest minimum of the responses that are ``undecided`` (c,), some at a time.

    Also returns whether each response's minimum is known to be the lowest.
    """

    def narrow(index: jax.Array, range_: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """What is open below the lowest value known, which settles most."""
        part, best, grid = problem.take(index), _take(found, index), nodes.take(index)
        lowest = jnp.min(part.nu * jnp.log(grid.s) + grid.logdet, axis=0)
        first, last = open_range(grid, part.nu, jnp.minimum(best.deviance, lowest))
        # Where Newton's steps missed the valley of the lowest node, walk through all.
        missed = best.deviance > lowest + TOLERANCE
        first, last = jnp.where(missed, grid.t[0], first), jnp.where(missed, grid.t[-1], last)
        settled = ~missed & is_alone(Shape.of(best, part), jnp.maximum(best.t - first, last - best.t), best.t == 0)
        return jnp.where(settled, jnp.inf, first), jnp.where(settled, -jnp.inf, last)

    nowhere = jnp.full_like(found.t, jnp.inf)
    first, last = _in_turn(narrow, undecided, (nowhere, -nowhere), shares[0])

    def search(index: jax.Array, state: tuple[Candidate, jax.Array]) -> tuple[Candidate, jax.Array]:
        padding = index == len(undecided)
        ends = jnp.where(padding, jnp.inf, first[index]), jnp.where(padding, -jnp.inf, last[index])
        return _sweep(problem.take(index), _take(state[0], index), *ends)

    return _in_turn(search, first < last, (found, jnp.ones_like(undecided)), shares[1])


def _take(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def _in_turn(function: Any, wanted: jax.Array, state: Any, share: int) -> Any:
    """``function(index, state)`` replaces the ``state`` of the responses ``wanted`` (c,), a share of c at a time."""
    c = len(wanted)
    width = min(c, max(8, c // share))

    def some(loop: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        todo, state = loop
        index = jnp.nonzero(todo, size=width, fill_value=c)[0]
        new = function(index, state)
        state = jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), state, new)
        return todo.at[index].set(False, mode="drop"), state

    return jax.lax.while_loop(lambda loop: jnp.any(loop[0]), some, (wanted, state))[1]
