"""prepare, fit_block, fit: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxlmm import inference
from jaxlmm._types import Status, float64_scope
from jaxlmm.crossprod import project_design
from jaxlmm.design import Design, make_design, response_matrix
from jaxlmm.objective import Terms, make_terms
from jaxlmm.reduce import Reducer, Stats, make_reducer, reduce_responses
from jaxlmm.results import Fit
from jaxlmm.solver import Optimum, make_grid, minimise
from jaxlmm.spectrum import make_spectrum

__all__ = ["Model", "enable_compile_cache", "fit", "fit_prepared", "prepare"]

# Blocks are padded up to one of these, so that a last or a small block compiles nothing new.
BLOCK_WIDTHS = (8, 128, 2048)


@dataclass(frozen=True)
class Model:
    """A design and what is computed from it once: refitting it to other responses is cheap."""

    design: Design
    reducer: Reducer


def prepare(X: Any, groups: Any = None, *, names: Sequence[str] | None = None) -> Model:
    """Do all the work that depends on X and groups only.

    Parameters, errors: as in :func:`fit`. Use with :func:`fit_prepared` to fit one design again
    and again (permutations, simulations) without paying for it each time.
    """
    design = make_design(X, groups, names)
    projection = project_design(design)
    return Model(design, make_reducer(projection, make_spectrum(projection)))


def fit(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    method: str = "REML",
    df: str = "residual",
    names: Sequence[str] | None = None,
    response_names: Sequence[str] | None = None,
) -> Fit:
    """Fit ``y = X b + group intercept + noise`` to every column of Y.

    Parameters
    ----------
    X : array-like, (n_obs, p)
        Fixed-effects matrix, used as given: no intercept is added.
    Y : array-like, (n_obs,) or (n_obs, m)
        Responses in columns. It is read in blocks, not copied, and the result keeps a
        reference to it for ``ranef``, ``fitted`` and ``resid``.
    groups : array-like, (n_obs,), optional
        Hashable labels. None: ordinary least squares, in the same result object.
    method : {"REML", "ML"}
    df : {"residual", "normal"}
        Degrees of freedom of tests and intervals: n - p, or infinity (z tests, as statsmodels).
    names, response_names : sequence of str, optional
        Names of the columns of X and Y. Default: a data frame's own; else x0, x1, ... and y0, ...

    Returns
    -------
    Fit
        One row a response. A response that cannot be fitted has NaN in its row and a ``status``
        that says why; it never stops the others.

    Raises
    ------
    ValueError
        See the table of bad inputs in docs/bad-input.md.

    Notes
    -----
    Same estimates as R's ``lme4::lmer(y ~ X + (1 | groups))``; computed in float64 whatever
    the type of Y, without changing the global JAX settings.
    """
    _check_option("method", method, ("REML", "ML"))
    _check_option("df", df, inference.DF_METHODS)
    _check_index(X, Y, groups)
    return fit_prepared(prepare(X, groups, names=names), Y, method=method, df=df, response_names=response_names)


def fit_prepared(
    model: Model,
    Y: Any,
    *,
    method: str = "REML",
    df: str = "residual",
    response_names: Sequence[str] | None = None,
) -> Fit:
    """Fit a prepared model to Y; parameters and result as in :func:`fit`."""
    _check_option("method", method, ("REML", "ML"))
    _check_option("df", df, inference.DF_METHODS)
    matrix, given_names = response_matrix(Y, model.design.n_obs, response_names)
    m, p = matrix.shape[1], model.design.n_fixef
    out = {name: np.empty((m, p)) for name in ("coef", "se")}
    out |= {name: np.empty(m) for name in ("lam", "sigma2", "loglik", "curvature")}
    out["status"] = np.empty(m, dtype=np.int8)
    with float64_scope():
        block_fitter = _BlockFitter.make(model, method, m)
        pending: list[tuple[slice, Stats, _Raw]] = []
        for start in range(0, m, block_fitter.width):
            cols = slice(start, min(start + block_fitter.width, m))
            stats = reduce_responses(model.reducer, matrix[:, cols])
            # JAX works on this block while numpy reads the next.
            pending.append((cols, stats, block_fitter.start(stats)))
            if len(pending) > 1:
                _store(block_fitter, pending.pop(0), out)
        for block in pending:
            _store(block_fitter, block, out)
    return Fit(
        design=model.design, method=method, df_method=df, **out,
        Y=matrix, reducer=model.reducer, given_names=given_names,
    )  # fmt: skip


def enable_compile_cache(path: str) -> None:
    """Keep compiled code in the folder ``path``, so that later processes need not compile.

    This sets JAX's own ``jax_compilation_cache_dir`` for the whole process, hence it is asked for.
    """
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Constants:
    """What the compiled code needs of a design."""

    terms: Terms
    grid: jax.Array
    f: jax.Array
    se2: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Raw:
    """What the compiled code returns of a block: the optimum, and in units of scaled data and
    unit columns the coefficients (p, c) and their variances / sigma2 (p, c)."""

    optimum: Optimum
    coef: jax.Array
    variance: jax.Array


@dataclass(frozen=True)
class _BlockFitter:
    """A model ready to take blocks of responses, for one method."""

    model: Model
    method: str
    width: int
    constants: _Constants

    @classmethod
    def make(cls, model: Model, method: str, m: int) -> _BlockFitter:
        spectrum = model.reducer.spectrum
        width = next((w for w in BLOCK_WIDTHS if m <= w), BLOCK_WIDTHS[-1])
        terms = make_terms(spectrum, model.design.n_obs, method)
        constants = _Constants(terms, make_grid(terms.d), spectrum.f, inference.se2_weights(spectrum))  # type: ignore[arg-type]
        return cls(model, method, width, jax.device_put(constants))

    def start(self, stats: Stats) -> _Raw:
        """Send a block on its way; the result is a promise."""
        arrays = [stats.ols, stats.u, stats.rest]
        bad = ~stats.finite | stats.constant | stats.exact_within
        if bad.any():
            # A bad response must not slow the loop that all share: it gets harmless numbers.
            arrays = [np.where(bad, fill, a) for a, fill in zip(arrays, (0.0, 0.0, 1.0), strict=True)]
        pad = self.width - len(stats.rest)
        if pad:
            ols, u, rest = arrays
            fill = ((0, 0), (0, pad))
            arrays = [np.pad(ols, fill), np.pad(u, fill), np.pad(rest, (0, pad), constant_values=1.0)]
        raw: _Raw = _fit_block(self.constants, *arrays)
        return raw


@jax.jit
def _fit_block(constants: _Constants, ols: jax.Array, u: jax.Array, rest: jax.Array) -> _Raw:
    terms = constants.terms
    optimum = minimise(terms, u * u, rest, constants.grid)
    w = inference.weights(optimum.lam, terms.d[: terms.n_spectrum])
    a, b, C = constants.se2
    variance = a[:, None] + optimum.lam * b[:, None] + C @ w
    return _Raw(optimum, inference.coef_unit(w, ols, u, constants.f), variance)


def _store(fitter: _BlockFitter, block: tuple[slice, Stats, _Raw], out: dict[str, np.ndarray]) -> None:
    """Undo scale, shift and unit columns; set the status; write NaN where there is no fit."""
    cols, stats, raw = block
    c = cols.stop - cols.start
    raw = jax.tree.map(lambda a: np.asarray(a)[..., :c], raw)
    projection, spectrum = fitter.model.reducer.projection, fitter.model.reducer.spectrum
    nu, x_scale, found = float(fitter.constants.terms.nu), projection.x_scale[:, None], raw.optimum
    with np.errstate(all="ignore"):
        sigma2 = found.pwrss / nu * stats.scale**2
        coef = raw.coef * stats.scale
        if projection.intercept is not None:
            coef += projection.intercept[:, None] * (stats.shift * stats.scale)
        logdet = spectrum.logdet_xtx if fitter.method == "REML" else 0.0
        loglik = -0.5 * (nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(stats.scale)) + found.deviance + logdet)
        values = dict(
            coef=(coef / x_scale).T, se=(np.sqrt(raw.variance * sigma2) / x_scale).T, lam=found.lam,
            sigma2=sigma2, loglik=loglik, curvature=found.curvature,
        )  # fmt: skip
    code = np.full(c, Status.OK, dtype=np.int8)
    if fitter.model.design.random:
        code[found.lam == 0] = Status.SINGULAR
    code[~found.converged] = Status.NOT_CONVERGED
    usable = (sigma2 > 0) & np.isfinite(loglik) & np.isfinite(coef).all(axis=0)
    code[~stats.finite | ~usable] = Status.NONFINITE
    code[stats.constant] = Status.CONSTANT
    code[stats.exact_within] = Status.NO_RESIDUAL
    failed = code > Status.SINGULAR
    for name, value in values.items():
        out[name][cols] = value
        out[name][cols][failed] = np.nan
    out["status"][cols] = code


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, found {value!r}.")


def _check_index(X: Any, Y: Any, groups: Any) -> None:
    """Data frames are matched by position; refuse where their indexes say otherwise."""
    labelled = [(k, v.index) for k, v in (("X", X), ("Y", Y), ("groups", groups)) if hasattr(v, "iloc")]
    for (name_a, a), (name_b, b) in zip(labelled, labelled[1:], strict=False):
        if len(a) == len(b) and not a.equals(b):
            raise ValueError(
                f"{name_a} and {name_b} have different indexes, so their rows may not match; "
                "align them, or call reset_index(drop=True) on both if they match by position."
            )
