"""The family of any random terms: nested, crossed, slopes, several terms on one factor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxlmm._types import float64_scope
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import Covariance, Moments, Scaling
from jaxlmm.families.entries import add
from jaxlmm.families.general import few_strata, one_factor, strata_moments
from jaxlmm.families.general import moments as kernel
from jaxlmm.families.general.layout import Core, Reducer, make_core, whitener
from jaxlmm.families.general.moments import Stats
from jaxlmm.families.general.reduce import reduce_responses, reduce_to_strata
from jaxlmm.families.general.strata import StrataCore, StrataReducer, make_strata
from jaxlmm.families.general.strata_moments import StrataStats
from jaxlmm.families.general.windows import Grids, Windows, make_grids
from jaxlmm.families.parameters import lower_triangle, phi_from_theta
from jaxlmm.optimize.covariances import semidefinite_factor
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import in_batches, on_gpu, take, width_for

__all__ = ["AnyStats", "General", "block_matrix", "contrast_by_contrast", "make_general"]

# Beyond the nodes of all designs go those of the few whose levels differ by this many powers of ten, up to so many.
LEAST_REACH, MOST_REACH = 0.5, 4.0
# Responses for which the windows of a design are made.
WORTH_WINDOWS = 1024
# Contrasts one by one: more than so many times p go through the program of p of them, again and again.
MOST_TOGETHER = 2

AnyCore = Core | StrataCore
AnyStats = Stats | StrataStats


@dataclass(frozen=True, eq=False)
class General:
    """A design with random terms, as ``families.base.Family``.

    What compiled code calls (``moments``, ``node_parts``, ``fixef``, ``covariance``, ``simulate``) takes phi of
    whitened columns (see ``layout``), and so does the optimiser's theta; ``to_user`` and ``hessian_to_user`` take
    its results to the columns of Z as they were given. ``modes``, ``curves`` and ``information``, in numpy, take
    phi of the columns as given. Inside compiled code only ``core`` is there.

    Where the terms commute, ``core`` and ``reducer`` are those of ``strata``; ``blocks`` is then the same design as
    ``layout`` has it, which knows the modes.
    """

    core: AnyCore
    reducer: Reducer | StrataReducer | None
    whiteners: tuple[np.ndarray, ...]
    terms: tuple[RandomTerm, ...] = ()
    _reach: tuple[float, ...] | None = None

    @property
    def reach(self) -> tuple[float, ...]:
        """See ``optimize.starts.Shared``."""
        return self._reach or (0.0,) * sum(self.sizes)

    @functools.cached_property
    def blocks(self) -> General:
        """The same design, its factors eliminated one after another."""
        if isinstance(self.core, Core):
            return self
        assert self.reducer is not None
        return make_general(self.reducer.Q, self.reducer.root_w, self.terms, strata=False)

    @property
    def n_phi(self) -> int:
        """k, the number of variance parameters beside sigma2."""
        return self.core.n_phi

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each term."""
        return self.core.sizes

    @property
    def n_levels(self) -> int:
        """The fewest levels of a factor."""
        return min(self.core.levels)

    @property
    def bytes_per_response(self) -> int:
        """Memory that one response takes while its moments are computed."""
        core = self.core
        if isinstance(core, StrataCore):
            return core.bytes_per_response
        squares = core.d**2 * (6 + 2 * len(core.sizes) * core.r1)
        return 8 * (squares + core.G * core.r1**2 * 8 + core.q2 * core.n_phi)

    def reduce(self, Y: np.ndarray) -> tuple[AnyStats, Scaling]:
        """All that is needed of the responses Y (n_obs, c), in numpy."""
        if self.reducer is None:
            raise TypeError("responses are reduced outside of compiled code.")
        if isinstance(self.core, StrataCore):
            assert isinstance(self.reducer, StrataReducer)
            return reduce_to_strata(self.core, self.reducer, Y)
        assert isinstance(self.reducer, Reducer)
        return reduce_responses(self.core, self.reducer, Y)

    def moments(self, phi: jax.Array, stats: AnyStats, *, reml: bool) -> Moments:
        """pwrss and log-determinants at phi (k, c)."""
        written = few_strata.fits(self.core) and not on_gpu()
        known = few_strata if written else _search_kernel(self.core)
        found: Moments = known.moments(self.core, phi, stats, reml=reml)
        return found

    def node_parts(self, phi: jax.Array, stats: AnyStats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
        """pwrss (K, c) and log-determinants (K,) at phi (k, K) that all responses share."""
        found: tuple[jax.Array, jax.Array] = _search_kernel(self.core).node_parts(self.core, phi, stats, reml=reml)
        return found

    def windows(self, nu: float, reml: bool, c: int) -> Windows | None:
        """What makes the search cheap for a design with two variances, where c responses are worth it."""
        grids = self._grids if c >= WORTH_WINDOWS else None
        return None if grids is None else Windows(grids, nu, reml)

    @functools.cached_property
    def _grids(self) -> Grids | None:
        return make_grids(self.core) if isinstance(self.core, Core) else None

    def fixef(self, phi: jax.Array, stats: AnyStats) -> jax.Array:
        """Generalised least squares estimate (p, c) of b, the coefficients of Q."""
        found: jax.Array = _kernel(self.core).estimates(self.core, phi, stats)[1]
        return found

    def covariance(self, phi: jax.Array, stats: AnyStats, L: jax.Array) -> Covariance:
        """Covariance of the contrasts L (q, p) of b, over sigma2, with derivatives in phi."""
        found: Covariance = _kernel(self.core).covariance(self.core, phi, L)
        return found

    def modes(self, phi: np.ndarray, fixef: np.ndarray, Y: np.ndarray) -> tuple[Any, ...]:
        """Modes (levels, r, c) of each term, and their covariances / sigma2 (levels, r, r, c).

        ``phi`` (k, c) and the modes are of the user's columns. ``fixef`` (p, c), the coefficients of Q at phi, is
        taken off Y first, which leaves the modes as they are.
        """
        if self.reducer is None:
            raise TypeError("modes are computed outside of compiled code.")
        if isinstance(self.core, StrataCore):
            return self.blocks.modes(phi, fixef, Y)
        root_w = self.reducer.root_w
        fitted = self.reducer.Q @ fixef
        stats, scaling = self.reduce(Y - (fitted if root_w is None else fitted / root_w[:, None]))
        inner = self.phi_from_user(phi)

        def conditional(index: np.ndarray) -> Any:
            with float64_scope():
                return _conditional(self.core, inner[:, index], take(stats, index))

        modes, spread = in_batches(conditional, phi.shape[1], self._width(phi.shape[1]))
        out = []
        for A, b, v in zip(self.whiteners, modes, spread, strict=True):
            effects = np.einsum("ij,ljc->lic", A, b) * scaling.scale
            out.append((effects, np.einsum("ij,ljkc,mk->limc", A, v, A, optimize=True)))
        return tuple(out)

    def estimates(self, theta: np.ndarray, stats: AnyStats) -> tuple[np.ndarray, np.ndarray]:
        """pwrss (c,) and coefficients of Q (p, c) at theta (k, c) of the whitened columns, in numpy."""

        def solved(index: np.ndarray) -> Any:
            with float64_scope():
                return _estimates(self.core, theta[:, index], take(stats, index))

        c = theta.shape[1]
        pwrss, fixef = in_batches(solved, c, self._width(c))
        return pwrss, fixef

    def solutions(
        self, theta: np.ndarray, stats: AnyStats, L: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What :meth:`estimates` and :meth:`variances` give, in one program."""

        def solved(index: np.ndarray) -> Any:
            with float64_scope():
                at = theta[:, index]
                return _solutions(self.core, at, take(stats, index), L)

        pwrss, fixef, variance = in_batches(solved, theta.shape[1], self._width(theta.shape[1]))
        return pwrss, fixef, variance

    def variances(self, theta: np.ndarray, L: np.ndarray) -> np.ndarray:
        """diag L C L' (q, c) for contrasts L (q, p) of the coefficients of Q, at theta of the whitened columns."""

        def variance(index: np.ndarray) -> Any:
            with float64_scope():
                return _variances(self.core, theta[:, index], L)

        found: np.ndarray = in_batches(variance, theta.shape[1], self._width(theta.shape[1]))
        return found

    def curves(self, phi: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """L C L' and its derivatives in phi; needs no responses.

        Parameters
        ----------
        phi : (k, m)
            Relative covariances of the user's columns.
        L : (q, p)
            Contrasts of the coefficients of Q.

        Returns
        -------
        value, first, second : (m, q, q), (m, k, q, q), (m, k, k, q, q)
        """
        inner, q, p = self.phi_from_user(phi), len(L), self.core.p
        padding = np.zeros((-q % p, p))  # one compiled function serves all tests of up to p contrasts
        contrasts = np.concatenate([L, padding])

        def covariance(index: np.ndarray) -> Any:
            with float64_scope():
                return _covariance(self.core, inner[:, index], contrasts)

        at = in_batches(covariance, phi.shape[1], self._width(phi.shape[1]))
        back = np.linalg.inv(self.phi_to_user_matrix)
        first = np.einsum("ts,tijm->msij", back, at.first[:, :q, :q], optimize=True)
        second = np.einsum("ts,uv,tuijm->msvij", back, back, at.second[:, :, :q, :q], optimize=True)
        return np.ascontiguousarray(np.moveaxis(at.value[:q, :q], -1, 0)), first, second

    def own_curves(self, phi: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The diagonal of L C L', (m, q), and its first derivatives in phi, (m, k, q); as :meth:`curves`."""
        inner, q, p = self.phi_from_user(phi), len(L), self.core.p
        if q > MOST_TOGETHER * p:
            # Each contrast is alone, and a program for hundreds of them would take minutes to compile.
            parts = [self.own_curves(phi, L[start : start + p]) for start in range(0, q, p)]
            value, first = zip(*parts, strict=True)
            return np.concatenate(value, axis=1), np.concatenate(first, axis=2)
        contrasts = np.concatenate([L, np.zeros((-q % p, p))])

        def covariance(index: np.ndarray) -> Any:
            with float64_scope():
                return _own_covariance(self.core, inner[:, index], contrasts)

        value, first = self._where_known(inner, lambda grids, some: grids.own_covariance(some, contrasts), covariance)
        back = np.linalg.inv(self.phi_to_user_matrix)
        turned = np.einsum("ts,tqm->msq", back, first[:, :q], optimize=True)
        return np.ascontiguousarray(value[:q].T), turned

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives (m, k) and (m, k, k) of the log-determinants in phi (k, m) of the user's columns."""
        inner = self.phi_from_user(phi)

        def derivatives(index: np.ndarray) -> Any:
            with float64_scope():
                return _information(self.core, inner[:, index], reml=reml)

        l1, l2 = self._where_known(inner, lambda grids, some: grids.information(some, reml=reml), derivatives)
        back = np.linalg.inv(self.phi_to_user_matrix)
        return l1.T @ back, np.einsum("ts,uv,tum->msv", back, back, l2, optimize=True)

    def _where_known(
        self,
        phi: np.ndarray,
        read: Callable[[Grids, np.ndarray], tuple[np.ndarray, ...]],
        compute: Callable[[np.ndarray], Any],
    ) -> tuple[np.ndarray, ...]:
        """What does not depend on y, off the grids of the design where it has some; ``compute(index)`` elsewhere."""
        m = phi.shape[1]
        grids = self._grids if m >= WORTH_WINDOWS else None
        if grids is None:
            return tuple(in_batches(compute, m, self._width(m)))
        known, found = grids.known(phi), read(grids, phi)
        if len(rest := np.flatnonzero(~known)):
            others = in_batches(lambda index: compute(rest[index]), len(rest), self._width(len(rest)))
            for whole, part in zip(found, others, strict=True):
                whole[..., rest] = part
        return found

    def _width(self, c: int) -> int:
        return width_for(c, self.bytes_per_response)

    def simulate(self, phi: jax.Array, key: jax.Array) -> AnyStats:
        """Statistics of simulated responses, one for each column of phi (k, c), with b = 0 and sigma2 = 1."""
        core, c = self.core, phi.shape[1]
        if isinstance(core, StrataCore):
            return strata_moments.simulate(core, phi, key)
        keys = jax.random.split(key, 3 + len(core.sizes))
        alpha = core.W_root @ jax.random.normal(keys[0], (core.W_root.shape[1], c), core.W.dtype)
        present = (jnp.abs(core.R).sum(1) > 0).reshape(-1, 1)
        b = jax.random.normal(keys[1], (core.r1 * core.G, c), core.W.dtype) * present - core.C @ alpha
        half = jnp.maximum(0.5 * core.n_rest, 0.5)  # any number will do where there is no rest
        rest = jnp.where(core.n_rest > 0, 2 * jax.random.gamma(keys[2], half, (c,), core.W.dtype), 0.0)
        start, effects = 0, {}
        for t, r in enumerate(core.sizes):
            pairs = list(zip(*lower_triangle(r), strict=True))
            Phi = {(int(i), int(j)): phi[core.offsets[t] + k] for k, (i, j) in enumerate(pairs)}
            T = kernel.singular_cholesky(Phi, r)
            u = jax.random.normal(keys[3 + t], (core.levels[t], r, c), core.W.dtype)
            effects[t] = jnp.stack([add(T[i, j] * u[:, j] for j in range(i + 1)) for i in range(r)], axis=1)
        for t in core.first:
            for j in range(core.sizes[t]):
                for a in range(core.r1):
                    rows = slice(a * core.G, (a + 1) * core.G)
                    b = b.at[rows].add(core.R[a, start + j][:, None] * effects[t][:, j])
            start += core.sizes[t]
        others = alpha[: core.q2]
        if core.second:
            others = others + jnp.concatenate([effects[t].reshape(-1, c) for t in core.second])
        return Stats(rest, b, others, alpha[core.q2 :])

    @functools.cached_property
    def theta_to_user_matrix(self) -> np.ndarray:
        """B (k, k): theta of the columns of Z as given is B times theta of the whitened columns."""
        return block_matrix(self.whiteners, lambda A, E: A @ E)

    @functools.cached_property
    def phi_to_user_matrix(self) -> np.ndarray:
        """B (k, k): phi of the columns of Z as given is B times phi of the whitened columns."""
        return block_matrix(self.whiteners, lambda A, E: A @ (E + E.T - np.diag(np.diag(E))) @ A.T)

    def to_user(self, theta: np.ndarray) -> np.ndarray:
        """theta (k, c) of the columns of Z as given, from that of the whitened columns."""
        return _transform(theta, self.whiteners)

    def from_user(self, theta: np.ndarray) -> np.ndarray:
        """theta (k, c) of the whitened columns, from that of the columns of Z as given."""
        return _transform(theta, tuple(np.linalg.inv(A) for A in self.whiteners))

    def phi_from_user(self, phi: np.ndarray) -> np.ndarray:
        """phi (k, c) of the whitened columns, from that of the columns of Z as given."""
        return np.linalg.solve(self.phi_to_user_matrix, phi)

    def hessian_to_user(self, hessian: np.ndarray) -> np.ndarray:
        """Hessian (k, k, c) in theta of the columns of Z as given, from that in theta of the whitened columns."""
        back = np.linalg.inv(self.theta_to_user_matrix)
        return np.einsum("as,abc,bt->stc", back, hessian, back, optimize=True)


jax.tree_util.register_pytree_node(
    General, lambda family: ((family.core,), None), lambda _, children: General(children[0], None, ())
)


def make_general(
    Q: np.ndarray, root_w: np.ndarray | None, terms: Sequence[RandomTerm], *, strata: bool = True
) -> General:
    """The family of a design; its work that depends on the design alone.

    Parameters
    ----------
    Q : (n_obs, p)
        Orthonormal basis of X, rows multiplied by the roots of their weights.
    root_w : (n_obs,) or None
        Roots of the weights.
    terms : sequence of RandomTerm
    strata : bool
        Whether terms that commute are taken as such.
    """
    whiteners = tuple(whitener(term, root_w) for term in terms)
    weight = np.ones(len(Q)) if root_w is None else root_w
    columns = [(t.Z * weight[:, None]) @ A for t, A in zip(terms, whiteners, strict=True)]
    found = make_strata(Q, root_w, terms, columns) if strata else None
    core, reducer = make_core(Q, root_w, terms, columns) if found is None else found
    return General(core, reducer, whiteners, tuple(terms), _reach(columns, terms))


def _reach(columns: Sequence[np.ndarray], terms: Sequence[RandomTerm]) -> tuple[float, ...]:
    """How much less most levels know of the effects of a column than the average one, to which it was whitened.

    Where an outlier of a covariate is most of what is known of its effects, moderate variances are large in its
    units.
    """
    out = []
    for Z, term in zip(columns, terms, strict=True):
        gram = np.zeros((term.n_levels, term.size, term.size))
        np.add.at(gram, term.codes, Z[:, :, None] * Z[:, None])
        pivots = np.einsum("gjj->gj", semidefinite_factor(gram, tol=1e-12)) ** 2
        for known in pivots.T:
            some = known[known > 0]
            far = -0.5 * np.log10(np.quantile(some, 0.25)) if len(some) else 0.0
            out.append(float(np.clip(far, 0, MOST_REACH)) if far > LEAST_REACH else 0.0)
    return tuple(out)


def _kernel(core: AnyCore) -> Any:
    """The module that knows a design's arithmetic."""
    return strata_moments if isinstance(core, StrataCore) else kernel


def _search_kernel(core: AnyCore) -> Any:
    """The module that knows what the search for the optimum asks for."""
    return one_factor if _written_out(core) else _kernel(core)


def _written_out(core: AnyCore) -> TypeGuard[Core]:
    """Whether ``one_factor`` is the fastest; its loops are a CPU's."""
    return one_factor.fits(core) and not on_gpu()


@functools.partial(programs.jit, batch=1, keep=True)
def _conditional(core: Core, phi: jax.Array, stats: Stats) -> Any:
    return kernel.conditional(core, phi, stats)


@functools.partial(programs.jit, batch=1, keep=True)
def _covariance(core: AnyCore, phi: jax.Array, L: jax.Array) -> Any:
    return _kernel(core).covariance(core, phi, L)


@functools.partial(programs.jit, batch=1, keep=True)
def _own_covariance(core: AnyCore, phi: jax.Array, L: jax.Array) -> Any:
    if _written_out(core):
        return one_factor.own_covariance(core, phi, L)
    # Second derivatives are left out by the compiler.
    at = _kernel(core).covariance(core, phi, L)
    return contrast_by_contrast(at.value), contrast_by_contrast(at.first)


@functools.partial(programs.jit, batch=1, keep=True)
def _variances(core: AnyCore, theta: jax.Array, L: jax.Array) -> jax.Array:
    # Derivatives are left out by the compiler.
    at = _kernel(core).covariance(core, phi_from_theta(theta, core.sizes), L)
    return contrast_by_contrast(at.value)


@functools.partial(programs.jit, batch=1, keep=True, static_argnames="reml")
def _information(core: AnyCore, phi: jax.Array, *, reml: bool) -> Any:
    return _search_kernel(core).information(core, phi, reml=reml)


@functools.partial(programs.jit, batch=1, keep=True)
def _estimates(core: AnyCore, theta: jax.Array, stats: AnyStats) -> Any:
    return _kernel(core).estimates(core, phi_from_theta(theta, core.sizes), stats)


@functools.partial(programs.jit, batch=1, keep=True)
def _solutions(core: AnyCore, theta: jax.Array, stats: AnyStats, L: jax.Array) -> Any:
    phi, known = phi_from_theta(theta, core.sizes), _kernel(core)
    if _written_out(core):
        assert isinstance(stats, Stats)
        return one_factor.solutions(core, phi, stats, L)
    pwrss, fixef = known.estimates(core, phi, stats)
    return pwrss, fixef, contrast_by_contrast(known.covariance(core, phi, L).value)


def contrast_by_contrast(values: jax.Array) -> jax.Array:
    """Diagonals (..., q, c) of values (..., q, q, c)."""
    return jnp.stack([values[..., j, j, :] for j in range(values.shape[-2])], axis=-2)


def block_matrix(
    whiteners: Sequence[np.ndarray], change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Block-diagonal matrix of a linear change of each term's lower triangle (r, r)."""
    parts = []
    for A in whiteners:
        r = len(A)
        rows, columns = lower_triangle(r)
        images = []
        for i, j in zip(rows, columns, strict=True):
            E = np.zeros((r, r))
            E[i, j] = 1.0
            images.append(change(A, E)[rows, columns])
        parts.append(np.column_stack(images))
    return np.asarray(scipy.linalg.block_diag(*parts))


def _transform(theta: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """A T of each term, T the lower triangle held by theta."""
    out, start = [], 0
    for A in factors:
        r = len(A)
        rows, columns = lower_triangle(r)
        T = np.zeros((r, r, theta.shape[1]))
        T[rows, columns] = theta[start : start + len(rows)]
        start += len(rows)
        out.append(np.einsum("ij,jkc->ikc", A, T)[rows, columns])
    return np.concatenate(out)
