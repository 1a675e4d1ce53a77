"""Responses with missing observations, or weights, of their own: their fits in batches, each exactly as if alone.

A design with one grouping factor is a few numbers for each level (``one_factor``), so that each response can bring
its own along: ``own_rows`` finds them. The optimum, the arithmetic and the results are those of complete responses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.design.columns import Basis
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.base import Moments
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general import one_factor
from jaxlmm.families.general.family import General
from jaxlmm.families.general.layout import Core, Reducer
from jaxlmm.families.general.moments import Stats
from jaxlmm.families.general.own_curves import OwnMatrices
from jaxlmm.families.general.own_rows import RowSums
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.parameters import phi_from_theta
from jaxlmm.optimize.several import minimise_several
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import in_batches, take, width_for
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["OwnDesigns"]

# Responses that are fitted together, at least and at most, and the memory that their designs take.
BLOCK, BLOCK_BYTES = (16, 256), 64 * 2**20
# Arrays (levels, c) that an evaluation holds, about.
ARRAYS = 60
# W is 0 but for rounding in no direction that counts: at relative covariances up to this.
MOST_PHI = 1e6
# Numbers of the table of products of columns (``own_rows``); with more, designs are made one by one.
MOST_PRODUCTS = 2e7


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OwnStats:
    """Of c responses: ``R``, ``C`` and ``W`` of each one's ``layout.Core``, and ``moments.Stats`` but for ``a``."""

    R: jax.Array
    C: jax.Array
    W: jax.Array
    rest: jax.Array
    b: jax.Array
    ols: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OwnKernel:
    """The family of ``deviance.Deviance`` whose responses bring their designs along; all of it is static.

    ``sizes``, ``n_levels`` and ``p`` as in ``layout.Core``, of the complete design.
    """

    sizes: tuple[int, ...] = field(metadata=dict(static=True))
    n_levels: int = field(metadata=dict(static=True))
    p: int = field(metadata=dict(static=True))

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        return 8 * ARRAYS * self.n_levels

    @property
    def bytes_per_design(self) -> int:
        """Memory that one response's design takes."""
        r = sum(self.sizes)
        return 8 * self.n_levels * r * (r + self.p + 1)

    def parts(self, stats: OwnStats) -> tuple[Core, Stats]:
        """The designs, and what is left of ``stats``."""
        terms, nothing = tuple(range(len(self.sizes))), jnp.zeros((0, 0))
        core = Core(
            stats.R, stats.C, stats.W, (), nothing, self.sizes, (self.n_levels,) * len(terms), terms, (), 0, 0, self.p
        )
        return core, Stats(stats.rest, stats.b, nothing, stats.ols)

    def moments(self, phi: jax.Array, stats: OwnStats, *, reml: bool) -> Moments:
        """See ``families.base.Family.moments``."""
        core, own = self.parts(stats)
        return one_factor.moments(core, phi, own, reml=reml)

    def node_parts(self, phi: jax.Array, stats: OwnStats, *, reml: bool) -> tuple[jax.Array, jax.Array]:
        """pwrss and log-determinants (K, c) at phi (k, K) that all responses share."""
        core, own = self.parts(stats)
        c = own.rest.shape[0]

        def at(node: jax.Array) -> tuple[jax.Array, jax.Array]:
            return one_factor.pwrss_logdet(core, jnp.broadcast_to(node[:, None], (len(node), c)), own, reml=reml)

        found: tuple[jax.Array, jax.Array] = jax.lax.map(at, phi.T)
        return found


@dataclass(frozen=True, eq=False)
class OwnDesigns:
    """A design with one grouping factor, whose responses have rows or weights of their own."""

    kernel: General
    basis: Basis
    sums: RowSums

    @classmethod
    def make(cls, kernel: General, basis: Basis) -> OwnDesigns | None:
        """None where the design is another one, or so large that it is not worth it."""
        core = kernel.core
        if not one_factor.fits(core) or core.n_obs * core.r1 * (core.r1 + core.p) > MOST_PRODUCTS:
            return None
        assert isinstance(kernel.reducer, Reducer)
        return cls(kernel, basis, RowSums.make(core, kernel.reducer, kernel.terms, kernel.whiteners))

    @functools.cached_property
    def own(self) -> OwnKernel:
        """What compiled code knows of the design."""
        core = self.kernel.core
        return OwnKernel(core.sizes, core.levels[0], core.p)

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

    def _blocks(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Those of the columns ``where`` of Y that are good, reduced, some at a time: positions, and ``OwnRows``."""
        block = int(np.clip(BLOCK_BYTES // self.own.bytes_per_design, *BLOCK))
        for start in range(0, len(where), block):
            some = Y[:, where[start : start + block]]
            weights = some.counting() if isinstance(some, WeightedMatrix) else None
            found = self.sums.reduce(values_of(some), weights)
            good = np.flatnonzero(found.good)
            if len(good):
                yield start + good, take({f.name: getattr(found, f.name) for f in fields(found)}, good)

    def curves(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, reml: bool
    ) -> tuple[np.ndarray, OwnMatrices]:
        """Which of the columns ``where`` of Y, which have phi (len(where), k), are known here; their covariances."""
        known = np.zeros(len(where), dtype=bool)
        parts: list[tuple[np.ndarray, ...]] = []
        for at, *found in self._matrices(Y, where, phi, reml=reml):
            known[at] = True
            parts.append(tuple(found))
        at = np.flatnonzero(known)
        shapes = [(0, *shape) for shape in self._shapes]
        joined = [np.concatenate(some) for some in zip(*parts, strict=True)] or [np.zeros(shape) for shape in shapes]
        value, first, l1, l2 = joined

        def second() -> np.ndarray:
            some = self._matrices(Y, where[at], phi[at], reml=None)
            return np.concatenate([found[1] for found in some])

        return at, OwnMatrices(value, first, second, l1, l2, reml, self._contrast)

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a response: A^-1, its derivatives, those of the log-determinant."""
        p, k = self.own.p, self.kernel.n_phi
        return (p, p), (k, p, p), (k,), (k, k)

    def _contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts (q, p) of the coefficients of ``sums.A``, of contrasts of the user's."""
        return self.basis.contrast(L) @ self.sums.rotation

    def _matrices(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, *, reml: bool | None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Positions, and A^-1, its first derivatives and those of the log-determinant, in phi of the user's columns;
        or, for ``reml`` None, the second derivatives of A^-1."""
        back = np.linalg.inv(self.kernel.phi_to_user_matrix)
        for at, rows in self._blocks(Y, where):
            unit, stats = rows["unit"], _stats(rows)
            inner = self.kernel.phi_from_user(np.nan_to_num(phi[at]).T) * unit

            def found(index: np.ndarray) -> Any:
                with float64_scope():
                    some = _matrices(self.own, inner[:, index], take(stats, index), reml=reml)  # noqa: B023
                    return jax.tree.map(lambda a: np.moveaxis(np.asarray(a), 0, -1), some)

            parts = in_batches(found, len(at), width_for(len(at), self.own.bytes_per_response))
            parts = [np.moveaxis(part, -1, 0) for part in parts]
            if reml is None:
                yield at, np.einsum("ts,uv,ctuij,c->csvij", back, back, parts[0], unit, optimize=True)
                continue
            value, first, l1, l2 = parts
            yield (
                at, value / unit[:, None, None], np.einsum("ts,ctij->csij", back, first, optimize=True),
                *_in_user_phi(back, l1.T, np.moveaxis(l2, 0, -1), unit),
            )  # fmt: skip

    def _fit_rows(
        self, rows: dict[str, np.ndarray], at: np.ndarray, reml: bool, out: dict[str, np.ndarray],
        known: KnownCurves | None,
    ) -> np.ndarray:  # fmt: skip
        """Results of the responses ``at``; which of them are right beyond doubt."""
        kernel, basis, p, c = self.kernel, self.basis, self.own.p, len(at)
        stats = _stats(rows)
        nu = (rows["n_used"] - p if reml else rows["n_used"]).astype(np.float64)
        optimum = minimise_several(Deviance(self.own, nu, reml), stats)
        contrasts = self._contrast(np.eye(p))
        phi = phi_from_theta(optimum.theta, kernel.sizes)

        def solved(index: np.ndarray) -> Any:
            with float64_scope():
                return _solved(self.own, phi[:, index], take(stats, index), contrasts, reml=reml)

        width = width_for(c, self.own.bytes_per_response)
        pwrss, fixef, variance, first, l1, l2 = in_batches(solved, c, width)
        unit = rows["unit"]
        found = Found(
            kernel.to_user(optimum.theta) / np.sqrt(unit), pwrss * unit, optimum.value,
            kernel.hessian_to_user(optimum.hessian) * unit, optimum.converged, np.any(optimum.singular, axis=0),
            basis.coef(self.sums.rotation @ fixef).T, (variance / unit).T,
        )  # fmt: skip
        none = np.zeros(c, dtype=bool)
        scaling = Scaling(np.zeros(c), rows["scale"], ~none, none, none)
        part = empty_results(c, p, kernel.n_phi)
        logdet = (basis.logdet if reml else 0.0) - rows["log_w"]
        finish(part, slice(0, c), found, scaling, intercept=None, nu=nu, logdet=logdet)
        part["n_used"][:] = rows["n_used"]
        for name, value in part.items():
            out[name][at] = value
        if known is not None:
            back = np.linalg.inv(kernel.phi_to_user_matrix)
            turned = np.einsum("ts,tqc->csq", back, first, optimize=True)
            outer = phi_from_theta(np.ascontiguousarray(part["theta"].T), kernel.sizes).T
            second = np.full((c, kernel.n_phi, kernel.n_phi, p), np.nan)
            known.put(at, KnownCurves(outer, turned, second, *_in_user_phi(back, l1, l2, unit)))
        return np.asarray(np.abs(phi).max(axis=0) < MOST_PHI)


def _stats(rows: dict[str, np.ndarray]) -> OwnStats:
    return OwnStats(*(rows[f.name] for f in fields(OwnStats)))  # type: ignore[arg-type]


def _in_user_phi(back: np.ndarray, l1: np.ndarray, l2: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives (c, k) and (c, k, k) in phi of the user's columns and weights, of ``l1`` (k, c) and ``l2``."""
    first = np.einsum("ts,tc,c->cs", back, l1, unit, optimize=True)
    return first, np.einsum("ts,uv,tuc,c->csv", back, back, l2, unit**2, optimize=True)


@functools.partial(programs.jit, batch=1, keep=True, static_argnames="reml")
def _matrices(own: OwnKernel, phi: jax.Array, stats: OwnStats, *, reml: bool | None) -> tuple[jax.Array, ...]:
    """A^-1 and its first derivatives, then those of the log-determinants; or its second derivatives. Responses
    first."""
    core, _ = own.parts(stats)
    if reml is None:
        return one_factor.covariance_matrices(core, phi, second=True)
    l1, l2 = one_factor.information(core, phi, reml=reml)
    return *one_factor.covariance_matrices(core, phi, second=False), l1.T, jnp.moveaxis(l2, -1, 0)


@functools.partial(programs.jit, batch=1, keep=True, static_argnames="reml")
def _solved(own: OwnKernel, phi: jax.Array, stats: OwnStats, L: jax.Array, *, reml: bool) -> Any:
    """pwrss, coefficients, variances of the contrasts L and their derivatives, and those of the log-determinants."""
    core, kept = own.parts(stats)
    pwrss, fixef, _ = one_factor.solutions(core, phi, kept, L)
    variance, first = one_factor.own_covariance(core, phi, L)
    return pwrss, fixef, variance, first, *one_factor.information(core, phi, reml=reml)
