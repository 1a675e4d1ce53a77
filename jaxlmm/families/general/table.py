"""The log-determinants of a design with two variance parameters, once for all responses.

They do not depend on y, and at given phi take more arithmetic than pwrss does. So for many responses they are worked
out at Chebyshev nodes of x_t = log(1 + c_t phi_t), and the search for the optimum reads them, with their derivatives,
off the interpolating polynomial. Where c_t is above the largest eigenvalue of Z_t'Z_t, all singularities of the
log-determinants lie off the strip |Im x_t| < pi, so that the error falls geometrically (Trefethen 2013, ch. 8). What
is found is then polished with the log-determinants themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.base import Moments
from jaxlmm.families.general import moments as kernel
from jaxlmm.families.general.layout import Core
from jaxlmm.families.general.moments import Stats

__all__ = ["Tabled", "make_tabled"]

NODES = 48
# phi up to which a table goes, and by how much c_t lies above the largest eigenvalue.
LARGEST = 1e4
ABOVE = 2.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tabled:
    """A design whose log-determinants are interpolated, as what ``families.deviance.Deviance`` needs.

    Attributes
    ----------
    core : Core
    coefficients : (NODES, 6, NODES)
        Of the products of Chebyshev polynomials in x_1 and x_2: the value, and the derivatives in x_1, x_1 twice,
        x_2, x_2 twice, both.
    c, x_max : (2,)
        x = log(1 + c phi) runs from 0 to x_max.
    """

    core: Core
    coefficients: jax.Array
    c: jax.Array
    x_max: jax.Array

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each term."""
        return self.core.sizes

    @property
    def bytes_per_response(self) -> int:
        """Memory that one response takes while its moments are computed."""
        return 8 * (self.core.d**2 * 5 + self.core.G * 6 + 8 * NODES)

    def moments(self, phi: jax.Array, stats: Stats, *, reml: bool) -> Moments:
        """pwrss, and the log-determinants of the method that the table is of; infinite beyond it."""
        return Moments(*kernel.pwrss(self.core, phi, stats), *self._logdet(phi))

    def _logdet(self, phi: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        u = self.c[:, None] * phi
        x = jnp.log1p(u)
        inside = jnp.all(x <= self.x_max[:, None], axis=0)
        z = jnp.clip(2 * x / self.x_max[:, None] - 1, -1.0, 1.0)
        T = jnp.cos(jnp.arange(NODES)[None, :, None] * jnp.arccos(z)[:, None])  # (2, NODES, c)
        both = (self.coefficients.reshape(-1, NODES) @ T[1]).reshape(NODES, 6, -1) * T[0][:, None]
        found = (jnp.ones(NODES) @ both.reshape(NODES, -1)).reshape(6, -1)
        l, l_1, l_11, l_2, l_22, l_12 = found  # noqa: E741
        # x' = c / (1 + c phi), x'' = -x'^2
        step = self.c[:, None] / (1 + u)
        first = jnp.stack([l_1 * step[0], l_2 * step[1]])
        cross = l_12 * step[0] * step[1]
        second = jnp.stack([
            jnp.stack([(l_11 - l_1) * step[0] ** 2, cross]), jnp.stack([cross, (l_22 - l_2) * step[1] ** 2])
        ])  # fmt: skip
        return jnp.where(inside, l, jnp.inf), first, second


def make_tabled(core: Core, logdet: Callable[[np.ndarray], np.ndarray]) -> Tabled:
    """The table of a design with two parameters, each the variance of a term of one column.

    Parameters
    ----------
    core : Core
    logdet : function
        The log-determinants (c,) at phi (2, c).
    """
    largest = [float(np.max(np.asarray(core.R[0, 0]) ** 2)), *(_largest_level(core, t) for t in core.second)]
    order = np.argsort([*core.first, *core.second])
    c = ABOVE * np.asarray(largest)[order]
    x_max = np.log1p(c * LARGEST)
    angle = np.pi * (np.arange(NODES) + 0.5) / NODES
    nodes = np.expm1(0.5 * (np.cos(angle)[None] + 1) * x_max[:, None]) / c[:, None]
    grid = np.stack([a.ravel() for a in np.meshgrid(*nodes, indexing="ij")])
    value = logdet(grid).reshape(NODES, NODES)
    to_coefficients = 2 / NODES * np.cos(np.arange(NODES)[:, None] * angle)
    to_coefficients[0] *= 0.5
    C = to_coefficients @ value @ to_coefficients.T
    D = _derivative(NODES)
    one, two = D * 2 / x_max[0], D * 2 / x_max[1]
    arrays = [C, one @ C, one @ one @ C, C @ two.T, C @ two.T @ two.T, one @ C @ two.T]
    return Tabled(core, np.stack(arrays, axis=1), c, x_max)  # type: ignore[arg-type]


def _largest_level(core: Core, t: int) -> float:
    """The largest eigenvalue of Z_t'Z_t, of a term that is not eliminated: the diagonal of W + C'C."""
    start = sum(core.sizes[u] * core.levels[u] for u in core.second[: core.second.index(t)])
    where = slice(start, start + core.levels[t])
    C = np.asarray(core.C)[:, where]
    return float(np.max(np.diagonal(np.asarray(core.W))[where] + np.einsum("wd,wd->d", C, C)))


def _derivative(n: int) -> np.ndarray:
    """The coefficients of the derivative of a sum of n Chebyshev polynomials from its own."""
    return np.column_stack(
        [np.pad(np.polynomial.chebyshev.chebder(e), (0, n))[:n] for e in np.eye(n)]
    )  # fmt: skip
