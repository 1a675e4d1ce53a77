"""Responses with missing observations: each is fitted exactly as if its rows were dropped.

A pattern shared by many responses becomes a design of its own (``Design.take``). Every other
response is reduced to its cross-products by group, all responses of a block together, by matrix
products with the mask of what is there; ``crosslik`` takes them from there. X is replaced by an
orthonormal basis and centred by group, and y by its own group means, before anything is squared.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from jaxlmm._types import Status, float64_scope
from jaxlmm.design.columns import Basis
from jaxlmm.families.intercept.reduce import NOISE, Reducer
from jaxlmm.families.own.crosslik import CrossFit, CrossProducts, cross_curves, fit_cross_block
from jaxlmm.optimize.search import make_grid
from jaxlmm.runtime.threads import N_THREADS, single_threaded_blas

__all__ = ["MissingDesign", "cross_matrices", "cross_modes", "fit_incomplete"]

# Cross-products of about this many bytes are held at once.
BLOCK_BYTES = 64 * 2**20
# What a response's X may lose in rank before it counts as dependent.
RANK_TOL = 1e-10


@dataclass(frozen=True, eq=False)
class MissingDesign:
    """A design as missing observations need it.

    Attributes
    ----------
    Q : ndarray, (n_obs, p)
        Orthonormal basis of X (in the weighted metric), less its group means.
    q_mean : ndarray, (G, p)
        Group means of the basis.
    to_coef : ndarray, (p, p)
        From coefficients on the basis to those of the user's X.
    weights : ndarray, (n_obs,)
    Z, ZQ : sparse array, (G, n_obs) and (G * p, n_obs)
        Sums by group, of one variable and of every column of Q times one.
    """

    reducer: Reducer
    Q: np.ndarray
    q_mean: np.ndarray
    to_coef: np.ndarray
    weights: np.ndarray
    Z: scipy.sparse.csr_array
    ZQ: scipy.sparse.csr_array

    @classmethod
    def make(cls, X: np.ndarray, reducer: Reducer) -> MissingDesign:
        projection = reducer.projection
        root = np.ones(len(X)) if projection.root_w is None else projection.root_w
        Q, R = np.linalg.qr(root[:, None] * projection.columns.unit)
        Q = Q / root[:, None]
        to_coef = Basis(projection.columns, R).coef(np.eye(len(R)))
        w, G = root**2, projection.n_groups
        rows = (projection.codes, np.arange(len(X)))
        Z = scipy.sparse.csr_array((np.ones(len(X)), rows), shape=(max(G, 1), len(X)))[:G]
        q_mean = (Z @ (w[:, None] * Q)) / projection.sizes[:, None]
        if not G:
            return cls(reducer, Q, q_mean, to_coef, w, Z, Z)
        Q = Q - q_mean[projection.codes]
        p = Q.shape[1]
        at = (np.repeat(projection.codes, p) * p + np.tile(np.arange(p), len(Q)), np.repeat(np.arange(len(Q)), p))
        ZQ = scipy.sparse.csr_array((Q.reshape(-1), at), shape=(G * p, len(Q)))
        return cls(reducer, Q, q_mean, to_coef, w, Z, ZQ)

    @property
    def width(self) -> int:
        """Responses in a block."""
        p, G = self.Q.shape[1], len(self.q_mean)
        return int(np.clip(2 ** int(np.log2(BLOCK_BYTES / (24 * (G + 1) * (p + 2)))), 8, 512))


@dataclass(frozen=True, eq=False)
class _Block:
    """Cross-products of c responses of (y - shift) / scale, and what is known of each before its fit."""

    N: np.ndarray
    b: np.ndarray
    W: np.ndarray
    n_used: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    finite: np.ndarray


def fit_incomplete(design: MissingDesign, Y: np.ndarray, where: np.ndarray, reml: bool) -> dict[str, np.ndarray]:
    """Fit the m columns ``where`` of Y (n_obs, any) to the rows where they are not NaN.

    Returns
    -------
    dict
        The arrays of ``Fit``, one row a column.
    """
    m, p = len(where), design.Q.shape[1]
    out: dict[str, np.ndarray] = {name: np.full((m, p), np.nan) for name in ("coef", "se_gls")}
    out |= {name: np.full(m, np.nan) for name in ("lam", "sigma2", "loglik", "curvature")}
    out |= {"status": np.full(m, Status.NONFINITE, dtype=np.int8), "n_used": np.zeros(m, dtype=np.int64)}
    with float64_scope():
        grid = _grid(design)
    waiting: list[tuple[slice, _Block, CrossFit]] = []
    for cols, block, data in _blocks(design, Y, where, reml):
        with float64_scope():
            waiting.append((cols, block, fit_cross_block(data, grid)))
        # JAX works on this block while the one before is stored.
        if len(waiting) > 1:
            _store(design, Y, where, reml, out, *waiting.pop(0))
    for entry in waiting:
        _store(design, Y, where, reml, out, *entry)
    return out


def _store(
    design: MissingDesign,
    Y: np.ndarray,
    where: np.ndarray,
    reml: bool,
    out: dict[str, np.ndarray],
    cols: slice,
    block: _Block,
    raw: CrossFit,
) -> None:
    """Back to the user's units; status; NaN where there is no fit."""
    p, c = design.Q.shape[1], cols.stop - cols.start
    projection, spectrum = design.reducer.projection, design.reducer.spectrum
    found = jax.tree.map(lambda a: np.asarray(a)[:c], raw)
    nu = block.n_used - p if reml else block.n_used
    status = _status(block, found.lam, found.converged, found.pwrss, p, len(design.q_mean))
    with np.errstate(all="ignore"):
        sigma2 = found.pwrss / nu * block.scale**2
        coef = (found.beta @ design.to_coef.T) * block.scale[:, None]
        if projection.columns.constant is not None:
            coef += (block.shift * block.scale)[:, None] * projection.columns.constant
        C = design.to_coef @ found.C @ design.to_coef.T
        logdet = spectrum.basis.logdet if reml else 0.0
        log_w = np.log(design.weights) @ ~np.isnan(Y[:, where[cols]]) if projection.root_w is not None else 0.0
        constant = nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(block.scale)) + logdet - log_w
        values = dict(
            coef=coef, se_gls=np.sqrt(np.diagonal(C, axis1=1, axis2=2) * sigma2[:, None]), lam=found.lam,
            sigma2=sigma2, loglik=-0.5 * (constant + found.deviance), curvature=found.curvature,
        )  # fmt: skip
    failed = status > Status.SINGULAR
    for name, value in values.items():
        out[name][cols] = value
        out[name][cols][failed] = np.nan
    out["status"][cols], out["n_used"][cols] = status, block.n_used


def cross_matrices(
    design: MissingDesign, Y: np.ndarray, where: np.ndarray, lam: np.ndarray, reml: bool
) -> tuple[np.ndarray, ...]:
    """C, C', K (m, p, p) in the user's units and T1, T2 (m,) of columns ``where``, fitted with ``lam`` (m,)."""
    m, p = len(where), design.Q.shape[1]
    out = (*(np.full((m, p, p), np.nan) for _ in range(3)), np.full(m, np.nan), np.full(m, np.nan))
    for cols, _, data in _blocks(design, Y, where, reml):
        at = np.zeros(design.width)
        at[: cols.stop - cols.start] = np.nan_to_num(lam[cols])
        with float64_scope():
            found = [np.asarray(a)[: cols.stop - cols.start] for a in cross_curves(data, jnp.asarray(at))]
        for array, value in zip(out, found, strict=True):
            array[cols] = design.to_coef @ value @ design.to_coef.T if value.ndim == 3 else value
    return out


def cross_modes(
    design: MissingDesign, Y: np.ndarray, where: np.ndarray, coef: np.ndarray, lam: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Conditional modes of the group intercepts and the groups' sizes (m, G); 0 and 0 without an observation."""
    modes = np.empty((len(where), len(design.q_mean)))
    sizes = np.empty_like(modes)
    projection = design.reducer.projection
    for cols, block, _ in _blocks(design, Y, where, True):
        c = cols.stop - cols.start
        with np.errstate(all="ignore"):
            b = block.b[:c] / np.where(block.N > 0, np.sqrt(block.N), 1.0)[:c, :, None]
            beta = coef[cols]
            if projection.columns.constant is not None:
                beta = beta - (block.shift * block.scale)[:c, None] * projection.columns.constant
            beta = np.linalg.solve(design.to_coef, beta.T).T
            left = b[:, :, -1] * block.scale[:c, None] - np.einsum("cgp,cp->cg", b[:, :, :-1], beta)
            weight = lam[cols, None] * block.N[:c]
            modes[cols] = left * weight / (1 + weight)
            sizes[cols] = block.N[:c]
    return modes, sizes


def _grid(design: MissingDesign) -> jax.Array:
    sizes = design.reducer.projection.sizes
    # One observation of a group may be all that a response has of it.
    smallest = np.min(design.weights)
    return jnp.asarray(make_grid(np.array([smallest, np.max(sizes)]) if len(sizes) else np.ones(1)))


def _blocks(
    design: MissingDesign, Y: np.ndarray, where: np.ndarray, reml: bool
) -> Iterator[tuple[slice, _Block, CrossProducts]]:
    width, m = design.width, len(where)
    columns = [slice(k, min(k + width, m)) for k in range(0, m, width)]
    with single_threaded_blas(), concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        # Threads reduce the next blocks while JAX computes this one.
        jobs = [pool.submit(_reduce, design, Y, where[cols]) for cols in columns[: N_THREADS + 1]]
        for k, cols in enumerate(columns):
            block = jobs.pop(0).result()
            if k + N_THREADS + 1 < len(columns):
                jobs.append(pool.submit(_reduce, design, Y, where[columns[k + N_THREADS + 1]]))
            yield cols, block, _to_jax(design, block, width, reml)


def _to_jax(design: MissingDesign, block: _Block, width: int, reml: bool) -> CrossProducts:
    """The block padded to ``width``, with harmless numbers where a response is bad."""
    p = design.Q.shape[1]
    bad = ~block.finite | (block.n_used <= p)
    N, b, W = block.N, block.b, block.W
    if bad.any():
        N, b, W = (np.where(bad.reshape(-1, *[1] * (a.ndim - 1)), 0.0, a) for a in (N, b, W))
        W[bad] = np.eye(p + 1)
    pad = width - len(N)
    if pad:
        N, b = np.pad(N, ((0, pad), (0, 0))), np.pad(b, ((0, pad), (0, 0), (0, 0)))
        W = np.concatenate([W, np.broadcast_to(np.eye(p + 1), (pad, p + 1, p + 1))])
    nu = np.maximum(block.n_used - p if reml else block.n_used, 1).astype(np.float64)
    nu = np.pad(nu, (0, pad), constant_values=1.0)
    d_max = np.max(design.reducer.projection.sizes, initial=0.0) or 1.0
    with float64_scope():
        return CrossProducts(*map(jnp.asarray, (N, b, W, nu, reml, d_max)))


def _reduce(design: MissingDesign, Y: np.ndarray, where: np.ndarray) -> _Block:
    """Cross-products of the columns ``where`` of Y; see the module's docstring."""
    projection, codes = design.reducer.projection, design.reducer.projection.codes
    rounding = max(0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0, NOISE)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        y = np.ascontiguousarray(Y[:, where]).astype(np.float64)
    missing = np.isnan(y)
    there = (~missing).astype(np.float64)
    n_used = len(y) - missing.sum(axis=0)
    y[missing] = 0.0
    finite = np.isfinite(y).all(axis=0) & (n_used > 0)
    y[:, ~finite] = 0.0
    largest = np.maximum(y.max(axis=0), -y.min(axis=0))
    scale = np.ones(y.shape[1])
    extreme = (largest > 1e100) | ((largest < 1e-100) & (largest > 1e-300))
    scale[extreme] = np.exp2(np.floor(np.log2(largest[extreme])))
    if extreme.any():
        y /= scale
    w = there if projection.root_w is None else there * design.weights[:, None]
    total_w = w.sum(axis=0)
    noise = total_w * (rounding * largest / scale) ** 2
    shift = np.zeros(y.shape[1])
    if projection.columns.constant is not None:
        shift = np.einsum("ij,ij->j", w, y) / np.maximum(total_w, 1e-300)
        y -= shift
        y *= there
    p, G, c = design.Q.shape[1], len(design.q_mean), y.shape[1]
    N = design.Z @ w
    safe = np.where(N > 0, N, 1.0)
    y_mean = (design.Z @ (y if w is there else w * y)) / safe
    if G:
        y -= y_mean[codes]
        y *= there
    wy = y if w is there else w * y
    W = np.empty((c, p + 1, p + 1))
    i, j = np.tril_indices(p)
    W[:, i, j] = W[:, j, i] = ((design.Q[:, i] * design.Q[:, j]).T @ w).T
    W[:, p, :p] = W[:, :p, p] = (design.Q.T @ wy).T
    W[:, p, p] = np.einsum("ij,ij->j", wy, y)
    b = np.empty((c, G, p + 1))
    if G:
        sums = (design.ZQ @ w).reshape(G, p, c)
        root = np.sqrt(N)
        half = (sums / np.sqrt(safe)[:, None, :]).transpose(2, 0, 1)
        W[:, :p, :p] -= half.transpose(0, 2, 1) @ half
        b[:, :, :p] = root.T[:, :, None] * design.q_mean + half
        b[:, :, p] = (root * y_mean).T
    return _Block(np.ascontiguousarray(N.T), b, W, n_used, shift, scale, noise, finite)


def _status(block: _Block, lam: np.ndarray, converged: np.ndarray, pwrss: np.ndarray, p: int, G: int) -> np.ndarray:
    """Status of each response of a block."""
    code = np.full(len(lam), Status.OK, dtype=np.int8)
    if G:
        code[lam == 0] = Status.SINGULAR
    code[~converged | ~np.isfinite(pwrss)] = Status.NOT_CONVERGED
    within, V = np.linalg.eigh(block.W[:, :p, :p])
    kept = within > RANK_TOL
    total = np.linalg.eigvalsh(block.W[:, :p, :p] + np.einsum("cgi,cgj->cij", block.b[..., :p], block.b[..., :p]))
    groups, pw = np.sum(block.N > 0, axis=1), kept.sum(axis=1)
    few = (block.n_used <= p) | (total[:, 0] <= RANK_TOL)
    if G:
        few |= (groups < 2) | (block.n_used - groups - pw < 1) | (groups + pw - p < 1)
    xy = np.einsum("cij,ci->cj", V, block.W[:, p, :p])
    rest = block.W[:, p, p] - np.sum(np.where(kept, xy**2 / np.where(kept, within, 1.0), 0.0), axis=1)
    if G:
        code[rest <= block.noise] = Status.NO_RESIDUAL
    M = block.W + np.einsum("cgi,cgj->cij", block.b, block.b)
    with np.errstate(all="ignore"):
        solved = np.einsum("ci,ci->c", M[:, p, :p], np.linalg.solve(
            np.where(few[:, None, None], np.eye(p), M[:, :p, :p]), M[:, :p, p, None])[..., 0])  # fmt: skip
    code[M[:, p, p] - solved <= block.noise] = Status.CONSTANT
    code[few] = Status.TOO_FEW
    code[~block.finite] = Status.NONFINITE
    return code
