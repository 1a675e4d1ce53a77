"""The likelihood of responses that each have a design of their own: weights, or rows that are missing.

Nothing of the spectrum is shared then, so a response is reduced to what groups hold of it (Pinheiro &
Bates 2000, ch. 2; as MixedModels.jl). X is split into the part within groups, with cross-products W, and
the group means: with N_g the (weighted) number of observations of group g, b_g is N_g^(1/2) times the
mean of X, and e_g that of y after X was fitted within groups, which leaves ``rest``. Then

    M(lam)  = X'V^-1 X = W + sum_g b_g b_g' r_g,       r_g = 1 / (1 + lam N_g),
    M delta = sum_g r_g b_g e_g,
    s(lam)  = rest + delta' W delta + sum_g r_g (e_g - b_g' delta)^2,

with delta what the coefficients are beyond those within groups. s is a sum of squares of residuals that
are formed before they are squared: nothing cancels at any lam, however much X or the groups explain, and
an error in delta counts only by its square. The columns of X are first those that vary within groups,
then those that do not, which have nothing in W: so M has nothing of the size of W in the rows of the latter,
where M goes with 1 / lam. With f_g = e_g - b_g' delta and ' for d/dlam

    s' = -sum N r^2 f^2,   s'' = 2 sum N^2 r^3 f^2 - 2 h' C h,   h = sum N r^2 b f,
    C = M^-1,   C' = -C M' C,   K = -C''/2 = C M'' C / 2 - C M' C M' C.

Sums over groups are products for each response of r, N r^2 and N^2 r^3 with the products b_g b_g' and b_g e_g, one
by one, which takes half the time of all three at once; what follows from them, small matrices, has the responses as
its last axis. The search goes by such sums alone where that is exact enough (``quick``). Systems are solved by
``sweeps``: on the CPU, JAX's batched LAPACK calls can wait for ever for threads of the pool that they hold
themselves, as soon as several run at a time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.engine.blocks import in_parts, settled
from jaxlmm.families.intercept.objective import Moments
from jaxlmm.families.logs import log_product, sum_of_logs
from jaxlmm.families.own import quick
from jaxlmm.families.own.sweeps import UNROLLED, apply, inverse, unpacked
from jaxlmm.optimize.certificate import Candidate, Nodes
from jaxlmm.optimize.search import first_minimum, hessian_in_theta, is_minimum, settle_all
from jaxlmm.optimize.solver import bracketed_minima
from jaxlmm.runtime import programs

__all__ = [
    "AXES", "EACH", "CrossFit", "CrossProducts", "cross_curves", "cross_modes", "first_cross",
    "settle_cross", "settle_cross_block", "take",
]  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossProducts:
    """What groups hold of c responses (see the module's docstring); the response axis is first.

    Attributes
    ----------
    N : (c, G)
        (Weighted) number of observations of each group, 0 for a group without any.
    b : (c, p, G)
    e : (c, G)
    W : (c, p, p)
    rows : (c, p, p)
        Contrasts of the coefficients delta that are the user's coefficients.
    rest : (c,)
    nu : (c,)
        Degrees of freedom of the method, n - p or n.
    reml : bool scalar
    d_max : scalar
        Largest N_g of the design: the search is in t = log(1 + lam d_max).
    """

    N: jax.Array
    b: jax.Array
    e: jax.Array
    W: jax.Array
    rows: jax.Array
    rest: jax.Array
    nu: jax.Array
    reml: jax.Array
    d_max: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossFit:
    """At the optimum of c responses, numbers (c,).

    ``delta`` (p, c); ``variance``, ``first`` and ``second`` (p, c) are those of the user's coefficients over sigma2
    and their derivatives in lam, ``l1`` and ``l2`` the derivatives of the log-determinant. ``total`` is the pwrss
    at variance ratio 0, the residual sum of squares of least squares.
    """

    lam: jax.Array
    pwrss: jax.Array
    deviance: jax.Array
    hessian: jax.Array
    converged: jax.Array
    delta: jax.Array
    variance: jax.Array
    first: jax.Array
    second: jax.Array
    l1: jax.Array
    l2: jax.Array
    total: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Point:
    """Everything about c responses at one lam each, numbers (c,).

    ``delta`` (p, c), ``C`` (p, p, c), and ``C1`` and ``C2``, its derivatives; ``f`` (c, G) are what is left of the
    group means.
    """

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    logdet: jax.Array
    l1: jax.Array
    l2: jax.Array
    delta: jax.Array
    f: jax.Array
    C: jax.Array
    C1: jax.Array
    C2: jax.Array


EACH = ("N", "b", "e", "W", "rows", "rest", "nu")  # of each response
AXES = CrossProducts(0, 0, 0, 0, 0, 0, 0, None, None)  # type: ignore[arg-type]


def _product(A: jax.Array, B: jax.Array) -> jax.Array:
    """A B of small matrices (i, j, c) and (j, l, c)."""
    return sum((A[:, j, None] * B[None, j] for j in range(1, len(B))), A[:, 0, None] * B[None, 0])


def _trace(A: jax.Array) -> jax.Array:
    return sum(A[j, j] for j in range(len(A)))  # type: ignore[return-value]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Responses:
    """A ``Problem`` of ``optimize.certificate``.

    ``products`` (c, q, G) are the lower triangles of a_g a_g' with a_g = (b_g, e_g); ``W`` (p, p, c). ``exact``: the
    search goes by residuals.
    """

    data: CrossProducts
    products: jax.Array
    W: jax.Array
    exact: bool = field(metadata=dict(static=True))

    @classmethod
    def of(cls, data: CrossProducts, *, exact: bool = True) -> _Responses:
        a = jnp.concatenate([data.b, data.e[:, None]], axis=1)
        products = jnp.concatenate([a[:, i, None] * a[:, : i + 1] for i in range(a.shape[1])], axis=1)
        return cls(data, products, jnp.moveaxis(data.W, 0, 2), exact or len(data.W[0]) > UNROLLED)

    @property
    def p(self) -> int:
        return len(self.W)

    @property
    def nu(self) -> jax.Array:
        return self.data.nu

    @property
    def d_max(self) -> jax.Array:
        return self.data.d_max

    def newton(self, start: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        return bracketed_minima(_slope, start, low, high, self.nu, self)

    def evaluate(self, t: jax.Array) -> Candidate:
        at = self.point(jnp.expm1(t) / self.d_max)
        return Candidate(t, Moments(at.s, at.s1, at.s2, at.l1, at.l2), self.nu * jnp.log(at.s) + at.logdet)

    def take(self, index: jax.Array) -> _Responses:
        some = {name: getattr(self.data, name)[index] for name in EACH}
        return _Responses.of(replace(self.data, **some), exact=self.exact)

    def point(self, lam: jax.Array) -> _Point:
        """At lam (c,)."""
        one, reml = self.data, jnp.where(self.data.reml, 1.0, 0.0)
        r = 1 / (1 + lam[:, None] * one.N)
        w = one.N * r
        (M, M1, M2), v = self._derivatives(r, w)
        C, pivots = inverse(M + self.W)
        delta = apply(C, v)
        # Once more from what that left: by then an error is far below the residuals' own roundings.
        f = self._left(delta)
        delta = delta + apply(C, self._onto(r * f) - apply(self.W, delta))
        s, s1, s2, f = self._squares(r, w, C, delta)
        A, A2 = _product(C, M1), _product(C, M2)
        C1 = -_product(A, C)
        return _Point(
            s, s1, s2,
            logdet=reml * log_product([*pivots]) - sum_of_logs(r),
            l1=jnp.sum(w, axis=1) + reml * _trace(A),
            l2=-jnp.sum(w * w, axis=1) + reml * (_trace(A2) - jnp.sum(A * jnp.swapaxes(A, 0, 1), axis=(0, 1))),
            delta=delta, f=f, C=C, C1=C1, C2=-_product(A2, C) - 2 * _product(A, C1),
        )  # fmt: skip

    def _derivatives(self, r: jax.Array, w: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """sum_g r_g b_g b_g' and its derivatives in lam (p, p, c), and sum_g r_g b_g e_g (p, c)."""
        sums = self._sums(r, w)
        M, M1, M2 = (self._unpacked(one) for one in sums)
        return (M, -M1, 2 * M2), sums[0][-1 - self.p : -1]

    def _sums(self, r: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        """sum_g r_g w_g^k a_g a_g' (q, c), k = 0, 1 and 2."""
        wr = w * r
        return tuple(jnp.einsum("cqg,cg->qc", self.products, x) for x in (r, wr, w * wr))

    def _unpacked(self, sums: jax.Array) -> jax.Array:
        """The rows and columns of b (p, p, ...) of lower triangles (q, ...)."""
        return unpacked(sums[: self.p * (self.p + 1) // 2], self.p)

    def _left(self, delta: jax.Array) -> jax.Array:
        """e - b delta (c, G)."""
        return self.data.e - jnp.einsum("cpg,pc->cg", self.data.b, delta)

    def _onto(self, x: jax.Array) -> jax.Array:
        """sum_g b_g x_g (p, c)."""
        return jnp.einsum("cpg,cg->pc", self.data.b, x)

    def _squares(self, r: jax.Array, w: jax.Array, C: jax.Array, delta: jax.Array) -> tuple[jax.Array, ...]:
        """The pwrss, its derivatives (c,), and f."""
        f = self._left(delta)
        rf = r * f * f
        h = self._onto(w * r * f)
        s = self.data.rest + jnp.sum(delta * apply(self.W, delta), axis=0) + jnp.sum(rf, axis=1)
        s2 = 2 * jnp.sum(w * w * rf, axis=1) - 2 * jnp.sum(h * apply(C, h), axis=0)
        return s, -jnp.sum(w * rf, axis=1), s2, f

    def slope(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Derivatives of the deviance in t (c,)."""
        lam = jnp.expm1(t) / self.d_max
        s, s1, s2, l1, l2 = self.derivatives(lam)
        first = self.nu * s1 / s + l1
        second = self.nu * (s2 / s - (s1 / s) ** 2) + l2
        step = jnp.exp(t) / self.d_max
        return first * step, (second * step + first) * step

    def derivatives(self, lam: jax.Array) -> tuple[jax.Array, ...]:
        """The pwrss and its derivatives in lam, and those of the log-determinant, all (c,)."""
        reml = jnp.where(self.data.reml, 1.0, 0.0)
        r = 1 / (1 + lam[:, None] * self.data.N)
        w = self.data.N * r
        if self.exact:
            (M, M1, M2), v = self._derivatives(r, w)
            C, _ = inverse(M + self.W)
            s, s1, s2, _ = self._squares(r, w, C, apply(C, v))
            A = _product(C, M1)
            l1, l2 = _trace(A), jnp.sum(C * M2, axis=(0, 1)) - jnp.sum(A * jnp.swapaxes(A, 0, 1), axis=(0, 1))
        else:
            s, s1, s2, l1, l2 = quick.derivatives(self._sums(r, w), self.W, self.data.rest)
        return s, s1, s2, jnp.sum(w, axis=1) + reml * l1, reml * l2 - jnp.sum(w * w, axis=1)

    def on_grid(self, lams: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The pwrss and the log-determinant (K, c) at K values of lam; whether the search is to be ``exact`` (c,)."""
        if self.exact:
            s, logdet = jax.lax.map(self._at_node, lams)
            return s, logdet, jnp.zeros_like(s[0], dtype=bool)
        r = 1 / (1 + self.data.N[:, :, None] * lams)
        sums = jnp.einsum("cqg,cgk->cqk", self.products, r)
        s, log_x, whole = quick.at_nodes(jnp.moveaxis(sums, 1, 0), self.W[..., None], self.data.rest[:, None])
        logdet = jnp.where(self.data.reml, log_x, 0.0) - sum_of_logs(r)
        return s.T, logdet.T, jnp.any(~(whole <= quick.LOSS * s), axis=1)

    def _at_node(self, lam: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pwrss and the log-determinant (c,) at one lam."""
        one = self.data
        r = 1 / (1 + lam * one.N)
        sums = jnp.einsum("cqg,cg->qc", self.products, r)
        C, pivots = inverse(self._unpacked(sums) + self.W)
        delta = apply(C, sums[-1 - self.p : -1])
        f = self._left(delta)
        s = one.rest + jnp.sum(delta * apply(self.W, delta), axis=0) + jnp.sum(r * f * f, axis=1)
        return s, jnp.where(one.reml, log_product([*pivots]), 0.0) - sum_of_logs(r)


def _slope(t: jax.Array, responses: _Responses) -> tuple[jax.Array, jax.Array]:
    return responses.slope(t)


def _nodes(problem: _Responses, grid: jax.Array) -> tuple[Nodes, jax.Array, jax.Array]:
    """The grid; the log-determinant is convex in t, so its chords bound its derivative. Then the pwrss at lam = 0,
    and whether the search is to be ``exact`` (c,)."""
    data = problem.data
    s, logdet, lossy = problem.on_grid(jnp.expm1(grid) / data.d_max)
    s0, s1, _, l1, _ = problem.derivatives(jnp.zeros_like(data.nu))
    chord = (logdet[1:] - logdet[:-1]) / (grid[1:] - grid[:-1])[:, None]
    low = jnp.concatenate([(l1 / data.d_max)[None], chord])
    high = jnp.concatenate([chord, jnp.sum(data.N > 0, axis=1)[None].astype(chord.dtype)])
    return Nodes(grid, s, logdet, low, high, (data.nu * s1 / s0 + l1) / data.d_max), s0, lossy


def first_cross(
    data: CrossProducts, grid: np.ndarray, n: int | None = None, *, at_once: int | None = None
) -> tuple[CrossFit, jax.Array]:
    """The minimum beside each response's lowest grid point; where (c,) it is undecided that it is the lowest.

    Of the first n responses, or more. ``at_once`` of them are computed together, by default all.
    """

    def again(index: np.ndarray) -> tuple[CrossFit, jax.Array]:
        some = replace(data, **take(data, index))
        found: tuple[CrossFit, jax.Array] = _first_block(some, grid, np.asarray(0), at_once=None, exact=True)[:2]
        return found

    c = len(data.nu)
    found, undecided, lossy = _first_block(
        data, grid, np.asarray(c if n is None else n), at_once=at_once, exact=False
    )
    return settled((found, undecided), np.asarray(lossy), again, axis=-1)


@functools.partial(
    programs.jit, alone=False, keep=True, responses=lambda data, *_, **__: len(data.nu),
    static_argnames=("at_once", "exact"),
)  # fmt: skip
def _first_block(
    data: CrossProducts, grid: jax.Array, n: jax.Array, *, at_once: int | None, exact: bool
) -> tuple[CrossFit, jax.Array, jax.Array]:
    """As :func:`first_cross`; where (c,) the search is to be ``exact``, too."""
    width = len(data.nu)
    if at_once is None or at_once >= width:
        return _first(data, grid, exact)

    def part(start: jax.Array) -> tuple[CrossFit, jax.Array, jax.Array]:
        some = {name: jax.lax.dynamic_slice_in_dim(getattr(data, name), start, at_once) for name in EACH}
        return _first(replace(data, **some), grid, exact)

    return in_parts(part, n, width, at_once, axis=-1)


def _first(data: CrossProducts, grid: jax.Array, exact: bool) -> tuple[CrossFit, jax.Array, jax.Array]:
    problem = _Responses.of(data, exact=exact)
    nodes, total, lossy = _nodes(problem, grid)
    found, undecided = first_minimum(problem, nodes)
    return _cross_fit(problem, found, ~undecided, total), undecided, lossy


@functools.partial(programs.jit, keep=True)
def settle_cross_block(data: CrossProducts, grid: jax.Array, lam: jax.Array) -> CrossFit:
    """Global minimum of the deviance of responses that are undecided at ``lam`` (c,)."""
    problem = _Responses.of(data)
    nodes, total, _ = _nodes(problem, grid)
    return _cross_fit(problem, *settle_all(problem, nodes, jnp.log1p(lam * data.d_max)), total)


def settle_cross(data: CrossProducts, grid: np.ndarray, found: CrossFit, undecided: jax.Array) -> CrossFit:
    """Global minimum of each response's deviance, from the results of :func:`first_cross`."""

    def fit(index: np.ndarray) -> CrossFit:
        some = replace(data, **take(data, index))
        new: CrossFit = settle_cross_block(some, grid, np.asarray(found.lam)[index])
        return new

    return settled(found, np.asarray(undecided), fit, axis=-1)


def take(data: CrossProducts, index: np.ndarray) -> dict[str, Any]:
    """The fields of some of the responses, as numpy arrays."""
    return {name: np.asarray(getattr(data, name))[index] for name in EACH}


def _cross_fit(problem: _Responses, found: Candidate, sure: jax.Array, total: jax.Array) -> CrossFit:
    data, step = problem.data, jnp.exp(found.t) / problem.d_max
    at = problem.point(jnp.expm1(found.t) / data.d_max)
    first = data.nu * at.s1 / at.s + at.l1
    second = data.nu * (at.s2 / at.s - (at.s1 / at.s) ** 2) + at.l2
    converged = sure & is_minimum(found.t, first * step, second * step**2, data.nu)
    lam = jnp.expm1(found.t) / data.d_max
    rows = jnp.moveaxis(data.rows, 0, 2)

    def own(C: jax.Array) -> jax.Array:
        return jnp.sum(_product(rows, C) * rows, axis=1)

    return CrossFit(
        lam, at.s, found.deviance, hessian_in_theta(lam, first, second), converged, at.delta, own(at.C), own(at.C1),
        own(at.C2), at.l1, at.l2, total,
    )  # fmt: skip


@functools.partial(programs.jit, alone=False)
def cross_curves(data: CrossProducts, lam: jax.Array) -> tuple[jax.Array, ...]:
    """C, C' and C'' (p, p, c), and derivatives of the log-determinant (c,), at given lam; see ``estimates``."""
    at = _Responses.of(data).point(lam)
    return at.C, at.C1, at.C2, at.l1, at.l2


@functools.partial(programs.jit, alone=False)
def cross_modes(data: CrossProducts, lam: jax.Array) -> jax.Array:
    """Conditional modes (c, G) of the group intercepts at given lam; 0 for a group without an observation."""
    f = _Responses.of(data).point(lam).f
    return f * lam[:, None] * jnp.sqrt(data.N) / (1 + lam[:, None] * data.N)
