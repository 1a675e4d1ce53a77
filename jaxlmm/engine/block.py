"""One block of responses, from statistics to results; compiled once for each shape.

With several devices a block is cut along its responses, a piece for each. The pieces do not wait
for each other: ``shard_map`` gives every device its own loops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlmm.design.design import Design
from jaxlmm.families.finish import Scaling, finish
from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Terms, make_terms
from jaxlmm.families.intercept.reduce import Reducer, Stats
from jaxlmm.inference import distributions
from jaxlmm.optimize.search import Optimum, make_grid
from jaxlmm.runtime.device import compute_devices

__all__ = [
    "BLOCK_WIDTHS", "BlockFitter", "Constants", "Model", "Raw", "block_arrays", "block_width", "empty_results",
    "fit_block",
]  # fmt: skip

# Blocks are padded up to one of these, so that a last or a small block compiles nothing new.
BLOCK_WIDTHS = (8, 128, 2048)
# A GPU does thousands of responses in the time of one.
GPU_WIDTHS = (128, 2048, 16384)
# Statistics of a block in the memory of a GPU.
GPU_BYTES = 256 * 2**20
AXIS = "responses"


@dataclass(frozen=True, eq=False)
class Model:
    """A design and what is computed from it once: refitting it to other responses is cheap.

    ``indexes`` are the labels of the rows that it came from, to match those of Y.
    """

    design: Design
    reducer: Reducer
    indexes: tuple[tuple[str, Any], ...] = ()


def block_width(m: int, widths: Sequence[int] = BLOCK_WIDTHS) -> int:
    """Width of the blocks in which m responses are computed: the least of ``widths`` that holds them, or the last."""
    return next((w for w in widths if m <= w), widths[-1])


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


def empty_results(m: int, p: int) -> dict[str, np.ndarray]:
    """Room for the results of m responses, by the names that ``Fit`` uses."""
    out: dict[str, np.ndarray] = {name: np.empty((m, p)) for name in ("coef", "se_gls")}
    out |= {name: np.empty(m) for name in ("lam", "sigma2", "loglik", "curvature")}
    return out | {"status": np.empty(m, dtype=np.int8)}


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
    and the variances / sigma2 (p, c) of those of the user's X."""

    optimum: Optimum
    coef: jax.Array
    variance: jax.Array


@dataclass(frozen=True)
class BlockFitter:
    """A model ready to take blocks of responses, for one method; the width of a block is that of all devices."""

    model: Model
    method: str
    width: int
    constants: Constants
    devices: tuple[jax.Device, ...]

    @classmethod
    def make(cls, model: Model, method: str, m: int, devices: Sequence[jax.Device] | None = None) -> BlockFitter:
        """For about m responses in all; ``devices`` are by default those of ``compute_devices``."""
        chosen = compute_devices() if devices is None else tuple(devices)
        if m <= BLOCK_WIDTHS[1]:  # not worth sharing
            chosen = chosen[:1]
        spectrum = model.reducer.spectrum
        widths = BLOCK_WIDTHS if chosen[0].platform == "cpu" else GPU_WIDTHS
        most = max(GPU_BYTES // (8 * len(spectrum.d)), BLOCK_WIDTHS[1])
        terms = make_terms(spectrum, model.design.n_obs, method)
        constants = Constants(terms, make_grid(terms.d), spectrum.f, distributions.se2_weights(spectrum))  # type: ignore[arg-type]
        width = len(chosen) * block_width(-(-m // len(chosen)), [w for w in widths if w <= most])
        return cls(model, method, width, jax.device_put(constants, _placement(chosen)), chosen)

    def start(self, stats: Stats) -> Raw:
        """Send a block on its way; the result is a promise."""
        arrays: Sequence[Any] = block_arrays(stats, self.width)
        if len(self.devices) > 1:
            arrays = [jax.device_put(a, _placement(self.devices, *[None] * (a.ndim - 1), AXIS)) for a in arrays]
        raw: Raw = _compiled(self.devices if len(self.devices) > 1 else ())(self.constants, *arrays)
        return raw

    def store(self, out: dict[str, np.ndarray], cols: slice, stats: Stats, raw: Raw) -> None:
        """Undo scale, shift and unit columns; set the status; write NaN where there is no fit."""
        c = cols.stop - cols.start
        found: Any = jax.tree.map(lambda a: np.asarray(a)[..., :c], raw)
        root_w, basis = self.model.reducer.projection.root_w, self.model.reducer.spectrum.basis
        log_w = 0.0 if root_w is None else 2 * np.sum(np.log(root_w))
        finish(
            out, cols, found.optimum,
            Scaling(stats.shift, stats.scale, stats.finite, stats.constant, stats.exact_within),
            coef=basis.coef(found.coef, stats.shift).T, variance=found.variance.T, intercept=None,
            nu=float(self.constants.terms.nu), logdet=(basis.logdet if self.method == "REML" else 0.0) - log_w,
            random=bool(self.model.design.random),
        )  # fmt: skip


def fit_block(constants: Constants, ols: jax.Array, u: jax.Array, rest: jax.Array) -> Raw:
    """Statistics (.., c) to results, in JAX; to be compiled."""
    terms = constants.terms
    optimum = minimise(terms, u * u, rest, constants.grid)
    w = distributions.weights(optimum.lam, terms.d[: terms.n_spectrum])
    a, b, C = constants.se2
    variance = a[:, None] + optimum.lam * b[:, None] + C @ w
    return Raw(optimum, distributions.coef_unit(w, ols, u, constants.f), variance)


@functools.cache
def _compiled(devices: tuple[jax.Device, ...]) -> Callable[..., Raw]:
    """``fit_block`` cut over several devices; for none, on whatever device its constants are."""
    if not devices:
        return jax.jit(fit_block)
    row, rows = PartitionSpec(AXIS), PartitionSpec(None, AXIS)
    options: dict[str, Any] = dict(
        mesh=_mesh(devices), in_specs=(PartitionSpec(), rows, rows, row), out_specs=Raw(row, rows, rows),  # type: ignore[arg-type]
    )  # fmt: skip
    # The check is for code that talks across devices; jaxopt's loops were not written for it.
    return jax.jit(jax.shard_map(fit_block, check_vma=False, **options))


@functools.cache
def _mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))


def _placement(devices: tuple[jax.Device, ...], *axes: str | None) -> Any:
    """Where arrays go: cut along ``axes`` if there are several devices, and the same on each without axes."""
    return devices[0] if len(devices) == 1 else NamedSharding(_mesh(devices), PartitionSpec(*axes))
