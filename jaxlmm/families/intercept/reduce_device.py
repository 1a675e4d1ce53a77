"""The one pass of ``reduce`` as compiled JAX code, for responses that lie on a GPU.

The same coordinates in the same basis, always after a shift by the first row where the constant is
in the span of X. If ``rest`` by subtraction would cost some response digits, it is formed from
residuals instead, as there. Responses near what rounding can tell apart, or that are bad, are only
marked: the caller takes them to ``reduce.reduce_panel``, which says what they are. All sums are in
a fixed order, without atomic additions, so that results do not change from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.families.intercept.reduce import MAX_LOSS, NOISE, Reducer
from jaxlmm.runtime import programs

__all__ = ["DeviceReducer", "DeviceStats", "SegmentSum", "make_device_reducer", "reduce_block"]

# ``rest`` below so many times its noise, or below total / this, is left to ``reduce_panel``.
ABOVE_NOISE = 16.0
MAX_SPREAD = 1e10


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceStats:
    """Statistics of c responses of y - shift, as ``reduce.Stats``; ``safe`` (c,) says which are good."""

    ols: jax.Array
    u: jax.Array
    rest: jax.Array
    shift: jax.Array
    safe: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SegmentSum:
    """Weighted sums of rows by group.

    Groups of similar size (up to the same power of two) are summed together, by a table of their
    rows that is padded with weight 0; so at most twice the rows are read.

    Attributes
    ----------
    rows, weights : tuple of (G_k, L_k)
    order : (G,)
        Where each group stands among the groups of all tables.
    """

    rows: tuple[jax.Array, ...]
    weights: tuple[jax.Array, ...]
    order: jax.Array

    @classmethod
    def make(cls, codes: np.ndarray, weights: np.ndarray, n_groups: int) -> SegmentSum:
        """From the group of each row, none of them empty, and its weight."""
        sizes = np.bincount(codes, minlength=n_groups)
        ends, by_group = np.cumsum(sizes), np.argsort(codes, kind="stable")
        classes = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
        tables, factors, groups = [], [], []
        for k in np.unique(classes):
            at = np.flatnonzero(classes == k)
            inside = np.arange(2**k) < sizes[at, None]
            position = np.where(inside, (ends - sizes)[at, None] + np.arange(2**k), 0)
            rows = by_group[position]
            tables.append(rows.astype(np.int32))
            factors.append(np.where(inside, weights[rows], 0.0))
            groups.append(at)
        order = np.argsort(np.concatenate(groups)) if groups else np.zeros(0)
        return cls(tuple(tables), tuple(factors), order.astype(np.int32))  # type: ignore[arg-type]

    def __call__(self, y: jax.Array) -> jax.Array:
        """(rows, c) -> (G, c)."""
        if not self.rows:
            return jnp.zeros((0, y.shape[1]))
        # A product and a sum, which XLA fuses with the look-up; a matrix product it would not.
        sums = [jnp.sum(w[:, :, None] * y[at], axis=1) for at, w in zip(self.rows, self.weights, strict=True)]
        return jnp.concatenate(sums)[self.order]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Dense:
    """All coordinates by one matrix, ``Reducer.A``; ``merge`` (K, rows) sums squares by merged term."""

    A: jax.Array
    merge: jax.Array
    p: int = field(metadata=dict(static=True))
    J_u: int = field(metadata=dict(static=True))

    def coords(self, y: jax.Array) -> jax.Array:
        """As ``Reducer.coords``."""
        return _product(self.A, y)

    def remove(self, y: jax.Array, coords: jax.Array) -> jax.Array:
        """As ``Reducer.remove``."""
        return y - _product(self.A.T, coords)

    def spectral(self, coords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q, u of the single terms, and the summed squares of the merged ones."""
        split = self.p + self.J_u
        return coords[: self.p], coords[self.p : split], _product(self.merge, coords[split:] ** 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Sparse:
    """Group sums first, then the spectrum from them; see ``reduce._spectral``.

    ``codes`` and ``weights`` (n_obs,) are those of ``Zt``.
    ``H`` (r, G_m) holds the bases of the merged terms, row by row, padded with 0; ``at`` (G_m,) are
    their groups, ``term`` (G_m,) which of the K terms each belongs to, and ``T_inside`` (J_u, r K)
    takes the coordinates on these bases.
    """

    Zt: SegmentSum
    codes: jax.Array
    weights: jax.Array
    Qw: jax.Array
    Q: jax.Array
    single: jax.Array
    at: jax.Array
    term: jax.Array
    H: jax.Array
    by_term: SegmentSum
    T_single: jax.Array
    T_inside: jax.Array
    T_within: jax.Array

    def coords(self, y: jax.Array) -> jax.Array:
        """As ``Reducer.coords``."""
        return jnp.concatenate([self.Zt(y), _product(self.Qw.T, y)])

    def remove(self, y: jax.Array, coords: jax.Array) -> jax.Array:
        """As ``Reducer.remove``."""
        G = len(self.Zt.order)
        y = y - _product(self.Qw, coords[G:])
        return y - self.weights[:, None] * coords[:G][self.codes] if G else y

    def spectral(self, coords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q, u of the single terms, and the summed squares of the merged ones."""
        q = _product(self.Q.T, coords)
        off_x = coords - _product(self.Q, q)
        part = off_x[self.at]
        inside = [self.by_term(h[:, None] * part) for h in self.H]
        for h, value in zip(self.H, inside, strict=True):
            part = part - h[:, None] * value[self.term]
        u = _product(self.T_single, off_x[self.single]) + _product(self.T_within, off_x[len(self.Zt.order) :])
        if inside:
            u += _product(self.T_inside, jnp.concatenate(inside))
        return q, u, self.by_term(part * part)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceReducer:
    """What the pass needs of a design, on one device.

    ``weight`` is the sum of the weights; ``n_rest`` as in ``Projection``. ``padding`` is how many
    terms of the spectrum stand between the single and the merged ones, and after these.
    """

    form: _Dense | _Sparse
    root_w: jax.Array | None
    weight: jax.Array
    shifted: bool = field(metadata=dict(static=True))
    n_rest: int = field(metadata=dict(static=True))
    padding: tuple[int, int] = field(metadata=dict(static=True))


def make_device_reducer(reducer: Reducer, device: Any) -> DeviceReducer:
    """``reducer`` with its arrays on ``device``; in a float64 scope."""
    projection, spectrum = reducer.projection, reducer.spectrum
    K, J_u, p, G = len(spectrum.merged), len(spectrum.T), len(spectrum.f), projection.n_groups
    form: Any
    if reducer.A is not None:
        lengths = [len(at) - H.shape[1] for at, H in spectrum.merged]
        merge = np.zeros((K, sum(lengths)))
        merge[np.repeat(np.arange(K), lengths), np.arange(sum(lengths))] = 1.0
        form = _Dense(reducer.A, merge, p, J_u)  # type: ignore[arg-type]
    else:
        Zt = projection.Zt.tocoo()
        weights = np.zeros(projection.n_obs)
        weights[Zt.col] = Zt.data
        sizes = [len(at) for at, _ in spectrum.merged]
        term = np.repeat(np.arange(K), sizes)
        at = np.concatenate([np.zeros(0, dtype=int), *(at for at, _ in spectrum.merged)])
        ranks = [H.shape[1] for _, H in spectrum.merged]
        r, n_single = max(ranks, default=0), len(spectrum.single)
        H, T_inside = np.zeros((r, len(at))), np.zeros((J_u, r, K))
        row, column = 0, n_single
        for k, (_, basis) in enumerate(spectrum.merged):
            H[: ranks[k], row : row + sizes[k]] = basis.T
            T_inside[:, : ranks[k], k] = spectrum.T[:, column : column + ranks[k]]
            row, column = row + sizes[k], column + ranks[k]
        by_group = SegmentSum.make(projection.codes[: len(Zt.col)], weights, G)  # without groups no row has one
        by_term, inside = SegmentSum.make(term, np.ones(len(term)), K), T_inside.reshape(J_u, r * K)
        arrays: Any = (
            by_group, projection.codes, weights, projection.Qw, spectrum.Q, spectrum.single, at, term, H, by_term,
            spectrum.T[:, :n_single], inside, spectrum.T[:, column:],
        )  # fmt: skip
        form = _Sparse(*arrays)
    weight = projection.n_obs if projection.root_w is None else np.sum(projection.root_w**2)
    made = DeviceReducer(
        form, projection.root_w, np.float64(weight),  # type: ignore[arg-type]
        projection.columns.constant is not None, projection.n_rest,
        (spectrum.n_single - J_u, len(spectrum.d) - spectrum.n_single - K),
    )  # fmt: skip
    placed: DeviceReducer = jax.device_put(made, device)
    return placed


@programs.jit
def reduce_block(reducer: DeviceReducer, y: jax.Array) -> DeviceStats:
    """Statistics of the responses y (n_obs, c), real of any type; in a float64 scope."""
    rounding = max(_rounding(np.dtype(y.dtype)), NOISE)
    given = y = y.astype(jnp.float64)
    shift = y[0] if reducer.shifted else jnp.zeros(y.shape[1])
    y = y - shift
    if reducer.root_w is not None:
        y = y * reducer.root_w[:, None]
    total = jnp.sum(y * y, axis=0)
    usual = (total > 1e-200) & (total < 1e200)
    coords = reducer.form.coords(y)
    rest = total - jnp.sum(coords * coords, axis=0)
    safe = (rest * MAX_LOSS > total) & usual

    def careful() -> tuple[jax.Array, jax.Array, jax.Array]:
        left = reducer.form.remove(y, coords)
        again = reducer.form.coords(left)
        left = reducer.form.remove(left, again)
        by_residuals = jnp.sum(left * left, axis=0)
        noise = reducer.weight * (rounding * jnp.max(jnp.abs(given), axis=0)) ** 2
        clear = usual & (by_residuals > ABOVE_NOISE * noise) & (by_residuals * MAX_SPREAD > total)
        return jnp.where(safe, coords, coords + again), jnp.where(safe, rest, by_residuals), safe | clear

    if reducer.n_rest:  # else rest is 0, and there is nothing to tell apart
        coords, rest, safe = jax.lax.cond(jnp.any(~safe & usual), careful, lambda: (coords, rest, safe))
    q, u, energy = reducer.form.spectral(coords)
    between, last = (jnp.zeros((k, y.shape[1])) for k in reducer.padding)
    u = jnp.concatenate([u, between, jnp.sqrt(energy), last])
    return DeviceStats(q, u, rest, shift, safe)


def _rounding(dtype: np.dtype[Any]) -> float:
    """Relative rounding of data of this type as a numpy array, where JAX's small floats are float32."""
    floats = {"f": dtype, "V": np.dtype(np.float32)}
    return 0.5 * float(np.finfo(floats[dtype.kind]).eps) if dtype.kind in floats else 0.0


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full precision, whatever ``jax_default_matmul_precision`` says."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
