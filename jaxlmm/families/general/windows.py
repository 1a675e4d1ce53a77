"""The deviance of a design with two variances, read off a polynomial of its own for each response.

Of two terms of one column each. At a given phi_1 of the eliminated factor, with S = U diag(lam) U' what that factor
and Q leave of Z2'V1^-1 Z2, all else is a sum over the eigenvalues:

    s = s_inf + sum_j e_j^2 / (1 + phi_2 lam_j),     l = log|V1| + log|Q'V1^-1 Q| + sum_j log(1 + phi_2 lam_j)

where e, and s_inf at an infinite phi_2, take one matrix product for all responses (for ML, l has the eigenvalues of
Z2'V1^-1 Z2 alone). So on a grid of phi_1 and phi_2 the deviance costs a response a fraction of what one evaluation of
its own does.

A coarse grid shows where the minima are. Around each lies a window of N x N Chebyshev nodes of
x_t = log(1 + c_t phi_t). Where c_t is above the largest eigenvalue of Z_t'Z_t, all singularities of the deviance lie
off the strip |Im x_t| < pi, so that in a window of half-width h the error falls as (pi/h + root(1 + pi^2/h^2))^-N
(Trefethen 2013, ch. 8). With 20 nodes and h = 1.7 it is that of rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxlmm.families.deviance import in_theta
from jaxlmm.families.general.eliminated import sums
from jaxlmm.families.general.layout import Core
from jaxlmm.families.general.moments import Stats
from jaxlmm.optimize.trust_region import Evaluation
from jaxlmm.runtime.threads import by_chunks

__all__ = ["Grids", "WindowStats", "Windowed", "Windows", "make_grids"]

# Chebyshev nodes in each direction, and the half-width of a window; centres are about 1 apart.
NODES, HALF = 20, 1.7
# phi up to which windows go, and by how much c_t lies above the largest eigenvalue.
LARGEST, ABOVE = 1e4, 2.0
# Coarse nodes in phi_2 for each centre: they cost next to nothing.
FINER = 2
# Eigenvalues of S that are rounding, relative to the largest.
RANK_TOL = 1e-12
# Responses that are worked at together.
CHUNK = 512
# Memory that the windows of a design may take.
MOST_BYTES = 2**28


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowStats:
    """Of c responses: the deviance ``F`` (N, N, c) at the nodes of their windows, which begin at x ``low`` (2, c)."""

    F: np.ndarray
    low: np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Windowed:
    """The deviance in the windows of ``WindowStats``, as ``optimize.trust_region.Problem``; infinite outside."""

    nu: float
    c: np.ndarray
    sizes: tuple[int, ...] = field(default=(1, 1), metadata=dict(static=True))

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        return 8 * NODES * (NODES + 16)

    def evaluate(self, theta: jax.Array, stats: WindowStats) -> Evaluation:
        """Value, gradient and Hessian in theta (2, c), and the gradient in phi."""
        phi = theta * theta
        u = self.c[:, None] * phi
        z = (jnp.log1p(u) - stats.low) / HALF - 1
        T = jnp.cos(np.arange(NODES)[None, :, None] * jnp.arccos(jnp.clip(z, -1, 1))[:, None])
        first, second = ((_lagrange() @ T[t]).reshape(3, NODES, -1) for t in range(2))
        along = sums([stats.F * second[n] for n in range(3)], 1)
        f, f1, f11, f2, f22, f12 = sums(
            [first[n] * along[m] for n, m in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1))], 0
        )
        # x' = c / (1 + c phi), x'' = -x'^2
        step = self.c[:, None] / (1 + u)
        gradient = jnp.stack([f1, f2]) * step
        cross = f12 * step[0] * step[1]
        hessian = jnp.stack([
            jnp.stack([(f11 - f1) * step[0] ** 2, cross]), jnp.stack([cross, (f22 - f2) * step[1] ** 2])
        ])  # fmt: skip
        inside = jnp.all(jnp.abs(z) <= 1 + 1e-9, axis=0)
        return in_theta(jnp.where(inside, f, np.inf), gradient, hessian, theta, self.sizes)


@functools.cache
def _lagrange() -> np.ndarray:
    """Lagrange's polynomials of the nodes, and their first and second derivatives in x, from T_n(z): (3 N, N)."""
    n = np.arange(NODES)
    to_coefficients = 2 / NODES * np.cos(n[:, None] * np.pi * (n + 0.5) / NODES)
    to_coefficients[0] *= 0.5
    D = np.column_stack([np.pad(np.polynomial.chebyshev.chebder(e), (0, NODES))[:NODES] for e in np.eye(NODES)])
    once = to_coefficients.T @ (D / HALF).T
    return np.concatenate([to_coefficients.T, once, once @ (D / HALF).T])


# In numpy ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Nodes:
    """Nodes phi_1 (n,), as what a grid over phi_2 is made of.

    ``H`` (n, G); ``lam`` (n, q2), and ``mu`` (n, q2) of Z2'V1^-1 Z2; ``logdet1`` and ``logdet_Q`` (n,).
    ``lowered`` (n, q2 + p, G) of b and ``turned`` (n, q2, q2) of a: their sums squared are what Z2 and Q explain.
    ``C`` (n, p, p), the covariance of the coefficients of Q at phi_2 = 0, and ``k`` (n, q2, p) by which it grows.
    """

    H: np.ndarray
    lam: np.ndarray
    mu: np.ndarray
    logdet1: np.ndarray
    logdet_Q: np.ndarray
    lowered: np.ndarray
    turned: np.ndarray
    C: np.ndarray
    k: np.ndarray

    def values(self, reml: bool) -> np.ndarray:
        """The eigenvalues (n, q2) by which the log-determinants rise with phi_2."""
        return self.lam if reml else self.mu

    def logdet(self, phi2: np.ndarray, reml: bool) -> np.ndarray:
        """The log-determinants (n, len(phi2))."""
        base = self.logdet1 + self.logdet_Q if reml else self.logdet1
        return np.asarray(base[:, None] + np.log1p(self.values(reml)[:, :, None] * phi2).sum(1))


@dataclass(frozen=True, eq=False)
class Grids:
    """A design with two variances: what its grids over phi_1 and phi_2 need, worked out once.

    Attributes
    ----------
    core : Core
    c : (2,)
        x_t = log(1 + c_t phi_t), of the eliminated factor first.
    n_centres : (2,)
        Centres of windows, at 1/2 and so on.
    """

    core: Core
    c: np.ndarray
    n_centres: np.ndarray

    @property
    def order(self) -> list[int]:
        """The parameters of the eliminated factor and of the other."""
        return [self.core.first[0], self.core.second[0]]

    def phi(self, x: np.ndarray, t: int) -> np.ndarray:
        """phi_t at x."""
        return np.expm1(x) / self.c[t]

    def x(self, phi: np.ndarray) -> np.ndarray:
        """x (2, c), of the eliminated factor first, at phi (2, c)."""
        return np.log1p(self.c[:, None] * phi[self.order])

    def centres(self, x: np.ndarray) -> np.ndarray:
        """The numbers (2, c) of the windows around x."""
        return np.clip(np.nan_to_num(x), 0, self.n_centres[:, None] - 1).astype(int)

    def by_window(self, centre: np.ndarray, work: Callable[[np.ndarray, _Nodes], None]) -> None:
        """``work(which, nodes)`` for the responses ``which`` of the same ``centre`` (1 or 2, c), in all threads."""
        ordered = np.lexsort(centre[::-1])

        def some(rows: slice) -> None:
            index = ordered[rows]
            changes = np.flatnonzero(np.any(np.diff(centre[:, index], axis=1) != 0, axis=0)) + 1
            for which in np.split(index, changes):
                work(which, self.fine(int(centre[0, which[0]])))

        by_chunks(len(ordered), CHUNK, some)

    @functools.cached_property
    def coarse(self) -> _Nodes:
        """The centres of phi_1."""
        return self._nodes(np.arange(self.n_centres[0]) + 0.5)

    @functools.cached_property
    def fine(self) -> Callable[[int], _Nodes]:
        """The nodes of phi_1 of a window."""
        return functools.cache(lambda centre: self._nodes(_window(centre)))

    def _nodes(self, x1: np.ndarray) -> _Nodes:
        found = [self._node(phi) for phi in self.phi(x1, 0)]
        return _Nodes(*(np.stack(v) for v in zip(*found, strict=True)))

    def _node(self, phi: float) -> tuple[np.ndarray, ...]:
        core, q2 = self.core, self.core.q2
        C, W, R2 = np.asarray(core.C), np.asarray(core.W), np.asarray(core.R)[0, 0] ** 2
        H = 1 / (1 + R2 * phi)
        HC = H[:, None] * C
        A = W + C.T @ HC
        L = np.linalg.cholesky(A[q2:, q2:])
        down = scipy.linalg.solve_triangular(
            L, np.concatenate([A[q2:, :q2], HC[:, q2:].T, np.eye(core.p)], axis=1), lower=True
        )
        across, own, inverse_L = np.split(down, [q2, q2 + core.G], axis=1)
        lam, U = np.linalg.eigh(A[:q2, :q2] - across.T @ across)
        lam = np.where(lam > RANK_TOL * lam[-1], lam, 0.0)
        root = np.sqrt(lam)
        inverse = np.where(lam > 0, 1 / np.where(lam > 0, root, 1.0), 0.0)
        mu = np.maximum(np.linalg.eigvalsh(A[:q2, :q2]), 0)
        lowered = np.concatenate([inverse[:, None] * (U.T @ (HC[:, :q2].T - across.T @ own)), own])
        logdets = np.sum(np.log1p(R2 * phi)), 2 * np.sum(np.log(np.diag(L)))
        return (
            H, lam, mu, *(np.asarray(v) for v in logdets), lowered, root[:, None] * U.T, inverse_L.T @ inverse_L,
            U.T @ across.T @ inverse_L,
        )  # fmt: skip

    def known(self, phi: np.ndarray) -> np.ndarray:
        """Which of phi (2, c) lie in windows."""
        return np.asarray(np.all(np.abs(self._inside(self.x(phi))) <= 1, axis=0))

    def _inside(self, x: np.ndarray) -> np.ndarray:
        """Where in its window x lies, from -1 to 1."""
        return np.asarray((x - _low(self.centres(x))) / HALF - 1)

    def own_covariance(self, phi: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variances (q, c) over sigma2 of contrasts L (q, p), and their first derivatives in phi, (2, q, c)."""

        def at(nodes: _Nodes, phi2: np.ndarray) -> list[np.ndarray]:
            weights = 1 / (1 + nodes.lam[:, :, None] * phi2)
            k2 = np.swapaxes((nodes.k @ L.T) ** 2, 1, 2)
            own = np.einsum("qi,nij,qj->nq", L, nodes.C, L)[:, :, None]
            return [own + k2 @ (weights * phi2), k2 @ weights**2]

        value, first, _ = self._read(phi, len(L), at)
        return value, first

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivatives (2, c), (2, 2, c) of the log-determinants."""

        def at(nodes: _Nodes, phi2: np.ndarray) -> list[np.ndarray]:
            weights = nodes.values(reml)[:, :, None] / (1 + nodes.values(reml)[:, :, None] * phi2)
            return [v[:, None] for v in (nodes.logdet(phi2, reml), weights.sum(1), -(weights**2).sum(1))]

        _, first, second = self._read(phi, 1, at)
        return first[:, 0], second[:, :, 0]

    def _read(
        self, phi: np.ndarray, q: int, at: Callable[[_Nodes, np.ndarray], list[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q functions (q, c) of phi that all responses share, with derivatives (2, q, c), (2, 2, q, c) in phi.

        ``at(nodes, phi_2)`` gives them at the nodes of phi_1, (n, q, c), and derivatives in phi_2; without the second
        one its place is left open.
        """
        x, m = self.x(phi), phi.shape[1]
        z = np.clip(self._inside(x)[0], -1, 1)
        lagrange = (_lagrange() @ _chebyshev(z)).reshape(3, NODES, m)
        found = np.zeros((6, q, m))
        pairs = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))

        def some(which: np.ndarray, nodes: _Nodes) -> None:
            parts = at(nodes, phi[self.order[1], which])
            for k, (i, j) in enumerate(pairs):
                if j < len(parts):
                    found[k][:, which] = np.einsum("nr,nqr->qr", lagrange[i][:, which], parts[j])

        self.by_window(self.centres(x)[:1], some)
        value, f1, f2, f11, f12, f22 = found
        step = self.c[0] * np.exp(-x[0])  # x' = c / (1 + c phi), x'' = -x'^2
        second = np.array([[(f11 - f1) * step**2, f12 * step], [f12 * step, f22]])
        order = np.argsort(self.order)
        return value, np.stack([f1 * step, f2])[order], second[order][:, order]


@dataclass(frozen=True, eq=False)
class Windows:
    """The deviance of ``grids``, with ``nu`` degrees of freedom, as ``optimize.several.Windows``."""

    grids: Grids
    nu: float
    reml: bool

    def starts(self, stats: Stats) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes theta (2, K) of a coarse grid, the deviance there (K, c), and which are next to each (K, 8)."""
        grids, m = self.grids, stats.rest.shape[0]
        n1, n2 = int(grids.n_centres[0]), FINER * int(grids.n_centres[1])
        phi1 = grids.phi(np.arange(n1) + 0.5, 0)
        phi2 = grids.phi((np.arange(n2) + 0.5) / FINER, 1)
        value = np.empty((n1, n2, m))

        def some(rows: slice) -> None:
            value[:, :, rows] = self._deviance(grids.coarse, phi2, stats, np.arange(rows.start, rows.stop))

        by_chunks(m, CHUNK, some)
        phi = np.empty((2, n1 * n2))
        phi[grids.order] = [v.ravel() for v in np.meshgrid(phi1, phi2, indexing="ij")]
        return np.sqrt(phi), value.reshape(n1 * n2, m), _neighbours(n1, n2)

    def around(self, theta: np.ndarray, stats: Stats) -> tuple[Windowed, WindowStats]:
        """The deviance in the windows around theta (2, c)."""
        grids = self.grids
        centre = grids.centres(grids.x(theta**2))
        F = np.empty((NODES, NODES, theta.shape[1]))

        def some(which: np.ndarray, nodes: _Nodes) -> None:
            phi2 = grids.phi(_window(centre[1, which[0]]), 1)
            found = self._deviance(nodes, phi2, stats, which)
            F[:, :, which] = found if grids.order == [0, 1] else found.swapaxes(0, 1)

        grids.by_window(centre, some)
        return Windowed(self.nu, grids.c[grids.order]), WindowStats(F, _low(centre)[grids.order])

    def _deviance(self, nodes: _Nodes, phi2: np.ndarray, stats: Stats, which: np.ndarray) -> np.ndarray:
        """(n, len(phi2), c), of the responses ``which``."""
        n, q2 = nodes.lam.shape
        rest, b, a = (np.asarray(v)[..., which] for v in (stats.rest, stats.b, stats.a))
        fitted = (nodes.lowered.reshape(-1, len(b)) @ b).reshape(n, -1, len(which))
        infinite = rest + nodes.H @ (b * b) - np.einsum("njc,njc->nc", fitted, fitted)
        e = fitted[:, :q2] + (nodes.turned.reshape(-1, q2) @ a).reshape(n, q2, -1)
        s = np.maximum(infinite, 0)[:, None] + (1 / (1 + phi2[:, None] * nodes.lam[:, None])) @ (e * e)
        np.log(np.maximum(s, np.finfo(float).tiny), out=s)
        s *= self.nu
        s += nodes.logdet(phi2, self.reml)[:, :, None]
        return s


def make_grids(core: Core) -> Grids | None:
    """The grids of a design, or None where it has not just two variances, of two factors, or is too large."""
    if core.sizes != (1, 1) or not core.second:
        return None
    W, C, q2 = np.asarray(core.W), np.asarray(core.C), core.q2
    levels = np.diagonal(W)[:q2] + np.einsum("wd,wd->d", C[:, :q2], C[:, :q2])  # of Z2'Z2, which is diagonal
    c = ABOVE * np.array([np.max(np.asarray(core.R)[0, 0] ** 2), np.max(levels)])
    n_centres = np.ceil(np.log1p(c * LARGEST)).astype(int)
    size = 8 * NODES * n_centres[0] * ((q2 + core.p) * core.G + q2 * q2)
    return Grids(core, c, n_centres) if size <= MOST_BYTES else None


def _window(centre: int) -> np.ndarray:
    """The nodes x of a window."""
    return _low(centre) + HALF * (1 + np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES))


def _low(centre: Any) -> Any:
    """Where a window begins: no variance is negative."""
    return np.maximum(centre + 0.5 - HALF, 0)


def _chebyshev(z: np.ndarray) -> np.ndarray:
    """T_n(z), (NODES, c)."""
    return np.cos(np.arange(NODES)[:, None] * np.arccos(z))


def _neighbours(n1: int, n2: int) -> np.ndarray:
    """The nodes (n1 * n2, 8) around each of a grid; at its edge some are the node itself."""
    i, j = (v.ravel() for v in np.indices((n1, n2)))
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
    return np.stack([np.clip(i + a, 0, n1 - 1) * n2 + np.clip(j + b, 0, n2 - 1) for a, b in around], axis=1)
