"""Responses with missing observations, or weights, of their own: their fits in batches, each exactly as if alone.

Each response brings what ``layout.Core`` holds of a design along: ``own_rows`` finds it. The optimum, the arithmetic
and the results are those of complete responses: ``one_factor``, whose numbers of a level may be each response's own,
or ``moments`` of one response after the other (``jax.vmap``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.design.columns import Basis
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.base import Modes, Moments
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general import moments, one_factor
from jaxlmm.families.general.family import General, contrast_by_contrast
from jaxlmm.families.general.layout import Core, Reducer
from jaxlmm.families.general.moments import Stats
from jaxlmm.families.general.own_curves import OwnMatrices
from jaxlmm.families.general.own_rows import OwnRows, RowSums
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.parameters import phi_from_theta
from jaxlmm.optimize.several import minimise_several
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import in_batches, take, width_for
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = ["MOST_PHI", "OwnDesigns", "OwnKernel", "OwnStats", "computed", "solved", "stats_of"]

# Responses that are fitted together, at least and at most, and the memory that their designs take.
BLOCK, BLOCK_BYTES = (16, 256), 64 * 2**20
# Arrays (levels, c) that an evaluation holds, about.
ARRAYS = 60
# W is 0 but for rounding in no direction that counts: at relative covariances up to this.
MOST_PHI = 1e6
# Numbers of the table of products of columns (``own_rows``); with more, designs are made one by one.
MOST_PRODUCTS = 2e7
# Numbers that a response's design and its evaluation take.
MOST_NUMBERS = 1e5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OwnStats:
    """Of c responses: ``R``, ``C`` and ``W`` of each one's ``layout.Core``, and its ``moments.Stats``."""

    R: jax.Array
    C: jax.Array
    W: jax.Array
    rest: jax.Array
    b: jax.Array
    a: jax.Array
    ols: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OwnKernel:
    """The family of ``deviance.Deviance`` whose responses bring their designs along; all of it is static.

    Attributes are those of ``layout.Core`` of the complete design.
    """

    sizes: tuple[int, ...] = field(metadata=dict(static=True))
    levels: tuple[int, ...] = field(metadata=dict(static=True))
    first: tuple[int, ...] = field(metadata=dict(static=True))
    second: tuple[int, ...] = field(metadata=dict(static=True))
    p: int = field(metadata=dict(static=True))
    reach: tuple[float, ...] = field(metadata=dict(static=True))

    @classmethod
    def of(cls, kernel: General) -> OwnKernel:
        """What compiled code knows of a design."""
        core = kernel.core
        assert isinstance(core, Core)
        return cls(core.sizes, core.levels, core.first, core.second, core.p, kernel.reach)

    @property
    def n_levels(self) -> int:
        """The fewest levels of a factor."""
        return min(self.levels)

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Columns and levels of the eliminated factor, and columns of all else."""
        q2 = sum(self.sizes[t] * self.levels[t] for t in self.second)
        return sum(self.sizes[t] for t in self.first), self.levels[self.first[0]], q2 + self.p

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        r, G, d = self._shape
        if not self.second:
            return 8 * ARRAYS * G
        return 8 * (d * d * (6 + 2 * len(self.sizes) * r) + 2 * r * G * (r * G + 2 * d))

    @property
    def bytes_per_design(self) -> int:
        """Memory that one response's design takes."""
        r, G, d = self._shape
        return 8 * (r * G * (r + 2 * d) + 2 * d * d)

    def parts(self, stats: OwnStats) -> tuple[Core, Stats]:
        """The designs, and what is left of ``stats``."""
        core = Core(
            stats.R, stats.C, stats.W, (), jnp.zeros((0, 0)), self.sizes, self.levels, self.first, self.second, 0, 0,
            self.p,
        )  # fmt: skip
        return core, Stats(stats.rest, stats.b, stats.a, stats.ols)

    def moments(self, phi: jax.Array, stats: OwnStats, *, reml: bool) -> Moments:
        """See ``families.base.Family.moments``."""
        core, own = self.parts(stats)
        if one_factor.fits(core):
            return one_factor.moments(core, phi, own, reml=reml)
        return self._each(lambda core, phi, own: moments.moments(core, phi, own, reml=reml), phi, stats)

    def node_parts(self, phi: jax.Array, stats: OwnStats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
        """pwrss and log-determinants (K, c) at phi (k, K) that all responses share."""
        core, own = self.parts(stats)
        c = own.rest.shape[0]

        def at(node: jax.Array) -> tuple[jax.Array, jax.Array]:
            shared = jnp.broadcast_to(node[:, None], (len(node), c))
            if one_factor.fits(core):
                return one_factor.pwrss_logdet(core, shared, own, reml=reml)
            return self._each(
                lambda core, phi, own: moments.pwrss_logdet(core, phi, own, reml=reml), shared, stats
            )  # fmt: skip

        found: tuple[jax.Array, jax.Array] = jax.lax.map(at, phi.T)
        return found

    def solutions(self, phi: jax.Array, stats: OwnStats, L: jax.Array, *, reml: bool) -> tuple[jax.Array, ...]:
        """pwrss, coefficients, variances (q, c) of the contrasts L and their derivatives (k, q, c), and those of the
        log-determinants."""
        core, own = self.parts(stats)
        if one_factor.fits(core):
            pwrss, fixef, _ = one_factor.solutions(core, phi, own, L)
            variance, first = one_factor.own_covariance(core, phi, L)
            return pwrss, fixef, variance, first, *one_factor.information(core, phi, reml=reml)

        def one(core: Core, phi: jax.Array, own: Stats) -> tuple[jax.Array, ...]:
            at = moments.covariance(core, phi, L)  # second derivatives are left out by the compiler
            each = contrast_by_contrast(at.value), contrast_by_contrast(at.first)
            return *moments.estimates(core, phi, own), *each, *moments.information(core, phi, reml=reml)

        return self._each(one, phi, stats)

    def matrices(self, phi: jax.Array, stats: OwnStats, *, reml: bool | None) -> tuple[jax.Array, ...]:
        """(Q'V^-1 Q)^-1 (p, p, c) and its first derivatives, then those of the log-determinants; or, for ``reml``
        None, its second derivatives."""
        core, _ = self.parts(stats)
        if one_factor.fits(core):
            found = one_factor.covariance_matrices(core, phi, second=reml is None)
            found = tuple(jnp.moveaxis(x, 0, -1) for x in found)
            return found if reml is None else (*found, *one_factor.information(core, phi, reml=reml))

        def one(core: Core, phi: jax.Array, own: Stats) -> tuple[jax.Array, ...]:
            at = moments.covariance(core, phi, jnp.asarray(np.eye(core.p)))
            if reml is None:
                return (at.second,)
            return at.value, at.first, *moments.information(core, phi, reml=reml)

        return self._each(one, phi, stats)

    def conditional(self, phi: jax.Array, stats: OwnStats) -> tuple[Any, Any]:
        """Modes (levels, r, c) of each term of whitened columns, and covariances / sigma2 (levels, r, r, c)."""
        found: tuple[Any, Any] = self._each(moments.conditional, phi, stats)
        return found

    def _each(self, function: Callable[[Core, jax.Array, Stats], Any], phi: jax.Array, stats: OwnStats) -> Any:
        """``function`` of one response after the other, the response axis last."""

        def one(phi: jax.Array, stats: OwnStats) -> Any:
            core, own = self.parts(stats)
            found = function(core, phi[:, None], jax.tree.map(lambda a: a[..., None], own))
            return jax.tree.map(lambda a: a[..., 0], found)

        return jax.vmap(one, in_axes=-1, out_axes=-1)(phi, stats)


@dataclass(frozen=True, eq=False)
class OwnDesigns:
    """A design whose responses have rows or weights of their own."""

    kernel: General
    basis: Basis
    sums: RowSums

    @classmethod
    def make(cls, kernel: General, basis: Basis) -> OwnDesigns | None:
        """None where the design is another one, or so large that it is not worth it."""
        core = kernel.core
        assert isinstance(core, Core)
        columns = sum(core.sizes) + core.p  # that are not 0 in a row
        blocks = 0 if one_factor.fits(core) else (core.r1 * core.G) ** 2
        numbers = core.r1 * core.G * (core.r1 + core.d) + core.d**2 + blocks
        if core.n_obs * columns**2 > MOST_PRODUCTS or numbers > MOST_NUMBERS:
            return None
        if any(core.levels[t] <= core.p for t in core.second):
            return None  # X might fit all their effects
        assert isinstance(kernel.reducer, Reducer)
        return cls(kernel, basis, RowSums.make(core, kernel.reducer, kernel.terms, kernel.whiteners))

    @functools.cached_property
    def own(self) -> OwnKernel:
        """What compiled code knows of the design."""
        return OwnKernel.of(self.kernel)

    def fit(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, reml: bool, known: KnownCurves | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fit the columns ``where`` of Y to the rows where they are not NaN, with their weights.

        What tests of their coefficients need goes to ``known``. Also returns which of them are fitted.
        """
        m, p, k = len(where), self.own.p, self.kernel.n_phi
        out, good = empty_results(m, p, k), np.zeros(m, dtype=bool)
        for at, rows in self._blocks(Y, where):
            good[at] = self._fit_rows(rows, at, reml, out, known)
        return out, good

    def _blocks(self, Y: np.ndarray | WeightedMatrix, where: np.ndarray) -> Iterator[tuple[np.ndarray, OwnRows]]:
        """Those of the columns ``where`` of Y that are good, reduced, some at a time: positions, and ``OwnRows``."""
        block = int(np.clip(BLOCK_BYTES // self.own.bytes_per_design, *BLOCK))
        for start in range(0, len(where), block):
            found = self.sums.reduce(Y[:, where[start : start + block]])
            good = np.flatnonzero(found.good)
            if len(good):
                yield start + good, found.take(good)

    def curves(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, reml: bool
    ) -> tuple[np.ndarray, OwnMatrices | None]:
        """Which of the columns ``where`` of Y, which have phi (len(where), k), are known here; their covariances, or
        None where none are."""
        parts = list(self._matrices(Y, where, phi, reml=reml))
        if not parts:
            return np.zeros(0, dtype=np.intp), None
        at, value, first, l1, l2 = (np.concatenate(some) for some in zip(*parts, strict=True))

        def second() -> np.ndarray:
            some = self._matrices(Y, where[at], phi[at], reml=None)
            return np.concatenate([found[1] for found in some])

        return at, OwnMatrices(value, first, second, l1, l2, reml, self.basis.contrast)

    def modes(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, tuple[Modes, ...]]:
        """Which of the columns ``where`` of Y, which have theta (len(where), k), are known here; their modes."""
        known, parts = [np.zeros(0, dtype=np.intp)], []
        phi = phi_from_theta(np.ascontiguousarray(theta.T), self.kernel.sizes)
        for at, rows in self._blocks(Y, where):
            known.append(at)
            unit, some = rows.unit, []
            inner = self.kernel.phi_from_user(np.nan_to_num(phi[:, at])) * unit
            found = computed(self.own, _conditional, inner, stats_of(rows))
            for A, b, v in zip(self.kernel.whiteners, *found, strict=True):
                values = np.einsum("ij,ljc->cli", A, b * rows.scale)
                values[np.isnan(phi[:, at]).any(axis=0)] = np.nan
                some.append((values, np.einsum("ij,ljkc,mk->clim", A, v / unit, A, optimize=True)))
            parts.append(some)
        joined = [[np.concatenate(arrays) for arrays in zip(*term, strict=True)] for term in zip(*parts, strict=True)]
        return np.concatenate(known), tuple(Modes(*term) for term in joined)

    def _matrices(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, *, reml: bool | None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Positions, and A^-1, its first derivatives and those of the log-determinant, in phi of the user's columns;
        or, for ``reml`` None, the second derivatives of A^-1."""
        back = np.linalg.inv(self.kernel.phi_to_user_matrix)
        for at, rows in self._blocks(Y, where):
            unit = rows.unit
            inner = self.kernel.phi_from_user(np.nan_to_num(phi[at]).T) * unit
            found = computed(self.own, _matrices, inner, stats_of(rows), reml=reml)
            parts = [np.moveaxis(part, -1, 0) for part in found]
            if reml is None:
                yield at, np.einsum("ts,uv,ctuij,c->csvij", back, back, parts[0], unit, optimize=True)
                continue
            value, first, l1, l2 = parts
            yield (
                at, value / unit[:, None, None], np.einsum("ts,ctij->csij", back, first, optimize=True),
                *_in_user_phi(back, l1.T, np.moveaxis(l2, 0, -1), unit),
            )  # fmt: skip

    def _fit_rows(
        self, rows: OwnRows, at: np.ndarray, reml: bool, out: dict[str, np.ndarray],
        known: KnownCurves | None,
    ) -> np.ndarray:  # fmt: skip
        """Results of the responses ``at``; which of them are right beyond doubt."""
        kernel, basis, p, c = self.kernel, self.basis, self.own.p, len(at)
        nu = (rows.n_used - p if reml else rows.n_used).astype(np.float64)
        stats = stats_of(rows)
        optimum = minimise_several(Deviance(self.own, nu, reml), stats)
        phi = phi_from_theta(optimum.theta, kernel.sizes)
        contrasts = basis.contrast(np.eye(p))
        pwrss, fixef, variance, first, l1, l2 = computed(self.own, solved, phi, stats, contrasts, reml=reml)
        unit = rows.unit
        found = Found(
            kernel.to_user(optimum.theta) / np.sqrt(unit), pwrss * unit, optimum.value,
            kernel.hessian_to_user(optimum.hessian) * unit, optimum.converged, np.any(optimum.singular, axis=0),
            basis.coef(fixef).T, (variance / unit).T,
        )  # fmt: skip
        none = np.zeros(c, dtype=bool)
        scaling = Scaling(np.zeros(c), rows.scale, ~none, none, none)
        part = empty_results(c, p, kernel.n_phi)
        logdet = (basis.logdet if reml else 0.0) - rows.log_w
        finish(part, slice(0, c), found, scaling, intercept=None, nu=nu, logdet=logdet)
        part["n_used"][:] = rows.n_used
        for name, value in part.items():
            out[name][at] = value
        if known is not None:
            back = np.linalg.inv(kernel.phi_to_user_matrix)
            turned = np.einsum("ts,tqc->csq", back, first, optimize=True)
            outer = phi_from_theta(np.ascontiguousarray(part["theta"].T), kernel.sizes).T
            second = np.full((c, kernel.n_phi, kernel.n_phi, p), np.nan)
            known.put(at, KnownCurves(outer, turned, second, *_in_user_phi(back, l1, l2, unit)))
        return np.asarray(np.abs(phi).max(axis=0) < MOST_PHI)


def stats_of(rows: OwnRows) -> OwnStats:
    """What compiled code takes of reduced responses."""
    return OwnStats(*(getattr(rows, f.name) for f in fields(OwnStats)))


def computed(
    own: OwnKernel, program: Callable[..., Any], phi: np.ndarray, stats: OwnStats, *args: Any, **options: Any
) -> Any:
    """``program(own, phi, stats, *args)`` of c responses at phi (k, c) of whitened columns."""

    def found(index: np.ndarray) -> Any:
        with float64_scope():
            return program(own, phi[:, index], take(stats, index), *args, **options)

    c = phi.shape[1]
    return in_batches(found, c, width_for(c, own.bytes_per_response))


def _in_user_phi(back: np.ndarray, l1: np.ndarray, l2: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives (c, k) and (c, k, k) in phi of the user's columns and weights, of ``l1`` (k, c) and ``l2``."""
    first = np.einsum("ts,tc,c->cs", back, l1, unit, optimize=True)
    return first, np.einsum("ts,uv,tuc,c->csv", back, back, l2, unit**2, optimize=True)


@functools.partial(programs.jit, batch=1, keep=True, static_argnames="reml")
def _matrices(own: OwnKernel, phi: jax.Array, stats: OwnStats, *, reml: bool | None) -> tuple[jax.Array, ...]:
    return own.matrices(phi, stats, reml=reml)


@functools.partial(programs.jit, batch=1, keep=True)
def _conditional(own: OwnKernel, phi: jax.Array, stats: OwnStats) -> tuple[Any, Any]:
    return own.conditional(phi, stats)


@functools.partial(programs.jit, batch=1, keep=True, static_argnames="reml")
def solved(own: OwnKernel, phi: jax.Array, stats: OwnStats, L: jax.Array, *, reml: bool) -> tuple[jax.Array, ...]:
    """See ``OwnKernel.solutions``."""
    return own.solutions(phi, stats, L, reml=reml)
