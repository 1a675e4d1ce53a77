"""One block of responses on the spectrum, from statistics to results; compiled once for each shape.

With several devices a block is cut along its responses, a piece for each. The pieces do not wait
for each other: ``shard_map`` gives every device its own loops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxlmm._types import float64_scope
from jaxlmm.engine.blocks import (
    AXIS,
    BLOCK_WIDTHS,
    GPU_BYTES,
    GPU_WIDTHS,
    block_width,
    mesh,
    placement,
)  # fmt: skip
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.intercept.estimates import coef_unit, se2_weights, weights
from jaxlmm.families.intercept.minimum import first_optimum, minimise, settle_optimum
from jaxlmm.families.intercept.objective import Terms, make_terms
from jaxlmm.families.intercept.reduce import Reducer, Stats
from jaxlmm.optimize.search import Optimum, make_grid
from jaxlmm.runtime import programs
from jaxlmm.runtime.device import compute_devices
from jaxlmm.runtime.progress import advance

__all__ = ["BlockFitter", "Constants", "Raw", "Results", "block_arrays", "fit_block"]


def block_arrays(stats: Stats, width: int) -> list[np.ndarray]:
    """``ols``, ``u`` and ``rest`` padded to ``width``, harmless where a response is bad."""
    arrays = [stats.ols, stats.u, stats.rest]
    bad = ~stats.finite | stats.constant | stats.exact_within
    if bad.any():
        # A bad response must not slow the loops that all share.
        arrays = [np.where(bad, fill, a) for a, fill in zip(arrays, (0.0, 0.0, 1.0), strict=True)]
    pad = width - len(stats.rest)
    if pad:
        ols, u, rest = arrays
        fill = ((0, 0), (0, pad))
        arrays = [np.pad(ols, fill), np.pad(u, fill), np.pad(rest, (0, pad), constant_values=1.0)]
    return arrays


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constants:
    """What the compiled code needs of a design."""

    terms: Terms
    grid: jax.Array
    f: jax.Array
    se2: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Raw:
    """What the compiled code returns of a block: the optimum, the coefficients (p, c) of X's basis for scaled data,
    and the variances / sigma2 (p, c) of those of the user's X; whether it is undecided (c,) if a minimum is the
    lowest."""

    optimum: Optimum
    coef: jax.Array
    variance: jax.Array
    undecided: jax.Array


@dataclass(frozen=True)
class BlockFitter:
    """A design ready to take blocks of responses, for one method; the width of a block is that of all devices."""

    reducer: Reducer
    method: str
    width: int
    constants: Constants
    devices: tuple[jax.Device, ...]

    @classmethod
    def make(cls, reducer: Reducer, method: str, m: int, devices: Sequence[jax.Device] | None = None) -> BlockFitter:
        """For about m responses in all; ``devices`` are by default those of ``compute_devices``."""
        chosen = compute_devices() if devices is None else tuple(devices)
        if m <= BLOCK_WIDTHS[1]:  # not worth sharing
            chosen = chosen[:1]
        spectrum = reducer.spectrum
        widths = BLOCK_WIDTHS if chosen[0].platform == "cpu" else GPU_WIDTHS
        most = max(GPU_BYTES // (8 * len(spectrum.d)), BLOCK_WIDTHS[1])
        terms = make_terms(spectrum, reducer.projection.n_obs, method)
        constants = Constants(terms, make_grid(terms.d), spectrum.f, se2_weights(spectrum))  # type: ignore[arg-type]
        width = len(chosen) * block_width(-(-m // len(chosen)), [w for w in widths if w <= most])
        return cls(reducer, method, width, jax.device_put(constants, placement(chosen)), chosen)

    def start(self, stats: Stats) -> Raw:
        """Send a block on its way; the result is a promise."""
        if np.all(~stats.finite | stats.constant | stats.exact_within):
            # Nothing to fit, as where every response misses observations of its own.
            nothing, rows = np.full(self.width, np.nan), np.full((len(stats.ols), self.width), np.nan)
            numbers: Any = dict.fromkeys(("lam", "pwrss", "deviance", "hessian"), nothing)
            optimum = Optimum(**numbers, converged=np.zeros(self.width, dtype=bool))  # type: ignore[arg-type]
            return Raw(optimum, rows, rows, optimum.converged)  # type: ignore[arg-type]
        arrays: Sequence[Any] = block_arrays(stats, self.width)
        if len(self.devices) > 1:
            arrays = [jax.device_put(a, placement(self.devices, *[None] * (a.ndim - 1), AXIS)) for a in arrays]
        wide = self.width > BLOCK_WIDTHS[1]
        raw: Raw = _compiled(self.devices if len(self.devices) > 1 else (), wide)(self.constants, *arrays)
        return raw

    def store(self, out: dict[str, np.ndarray], cols: slice, stats: Stats, raw: Raw) -> np.ndarray:
        """Undo scale, shift and unit columns; set the status; write NaN where there is no fit.

        Returns the positions in the block of responses that are undecided.
        """
        c = cols.stop - cols.start
        found: Any = jax.tree.map(lambda a: np.asarray(a)[..., :c], raw)
        projection, basis = self.reducer.projection, self.reducer.spectrum.basis
        root_w, optimum = projection.root_w, found.optimum
        k = int(projection.n_groups > 0)
        log_w = 0.0 if root_w is None else 2 * np.sum(np.log(root_w))
        at = Found(
            np.sqrt(optimum.lam)[None][:k], optimum.pwrss, optimum.deviance, optimum.hessian[None, None][:k, :k],
            optimum.converged, (optimum.lam == 0) & bool(k),
            coef=(basis.coef(found.coef, stats.shift) + stats.start).T, variance=found.variance.T,
        )  # fmt: skip
        finish(
            out, cols, at, Scaling(stats.shift, stats.scale, stats.finite, stats.constant, stats.exact_within),
            intercept=None, nu=float(self.constants.terms.nu),
            logdet=(basis.logdet if self.method == "REML" else 0.0) - log_w,
        )  # fmt: skip
        return np.flatnonzero(found.undecided)

    def settle(self, stats: Stats, lam: np.ndarray) -> dict[str, np.ndarray]:
        """Results of responses that blocks have left undecided at variance ratios ``lam`` (c,)."""
        c, (p, _) = len(stats.rest), stats.ols.shape
        out, width = empty_results(c, p, int(self.reducer.projection.n_groups > 0)), block_width(c)
        for first in range(0, c, width):
            cols = slice(first, min(first + width, c))
            part = stats.take(cols)
            arrays = block_arrays(part, width)
            advance(-int(np.count_nonzero(part.finite)))  # they were counted before
            self.store(out, cols, part, settle_block(self.constants, *arrays, np.resize(lam[cols], width)))
        return out


@dataclass(frozen=True)
class Results:
    """Results of all blocks; the search that settles undecided responses, which is long to compile and slow, is left
    to the end, for all of them together."""

    fitter: BlockFitter
    out: dict[str, np.ndarray]
    undecided: list[tuple[np.ndarray, np.ndarray, Stats]] = field(default_factory=list)

    def store(self, cols: slice, stats: Stats, raw: Raw) -> None:
        """Those of one block, once they are there."""
        where = self.fitter.store(self.out, cols, stats, raw)
        if len(where):
            self.undecided.append((cols.start + where, np.asarray(raw.optimum.lam)[where], stats.take(where)))

    def settled(self) -> dict[str, np.ndarray]:
        """All of them, after the last block."""
        if self.undecided:
            positions, lams, stats = zip(*self.undecided, strict=True)
            at = np.concatenate(positions)
            with float64_scope():
                found = self.fitter.settle(Stats.joined(stats), np.concatenate(lams))
            for name in found.keys() - {"n_used"}:
                self.out[name][at] = found[name]
        return self.out


def fit_block(constants: Constants, ols: jax.Array, u: jax.Array, rest: jax.Array) -> Raw:
    """Statistics (.., c) to results, in JAX; to be compiled."""
    optimum = minimise(constants.terms, u * u, rest, constants.grid)
    return _raw(constants, ols, u, optimum, jnp.zeros(rest.shape, dtype=bool))


def first_block(constants: Constants, ols: jax.Array, u: jax.Array, rest: jax.Array) -> Raw:
    """The same, in a third of the time to compile; some responses may be left undecided."""
    return _raw(constants, ols, u, *first_optimum(constants.terms, u * u, rest, constants.grid))


@programs.jit
def settle_block(constants: Constants, ols: jax.Array, u: jax.Array, rest: jax.Array, lam: jax.Array) -> Raw:
    """What :func:`first_block` has left undecided at ``lam`` (c,)."""
    optimum = settle_optimum(constants.terms, u * u, rest, constants.grid, lam)
    return _raw(constants, ols, u, optimum, jnp.zeros(rest.shape, dtype=bool))


def _raw(constants: Constants, ols: jax.Array, u: jax.Array, optimum: Optimum, undecided: jax.Array) -> Raw:
    w = weights(optimum.lam, constants.terms.d[: constants.terms.n_spectrum])
    a, b, C = constants.se2
    variance = a[:, None] + optimum.lam * b[:, None] + C @ w
    return Raw(optimum, coef_unit(w, ols, u, constants.f), variance, undecided)


@functools.cache
def _compiled(devices: tuple[jax.Device, ...], wide: bool) -> Callable[..., Raw]:
    """``first_block`` cut over several devices; for none, on whatever device its constants are.

    ``wide``: blocks are many, or full, so that what takes longer to compile and less to run pays.
    """
    if not devices:
        return programs.jit(first_block, quick=not wide)
    row, rows = PartitionSpec(AXIS), PartitionSpec(None, AXIS)
    options: dict[str, Any] = dict(
        mesh=mesh(devices), in_specs=(PartitionSpec(), rows, rows, row), out_specs=Raw(row, rows, rows, row),  # type: ignore[arg-type]
    )  # fmt: skip
    # The check is for code that talks across devices; jaxopt's loops were not written for it.
    return programs.jit(jax.shard_map(first_block, check_vma=False, **options), quick=not wide)
