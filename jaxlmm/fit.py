"""prepare, fit_block, fit: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm import inference
from jaxlmm._types import Status, float64_scope
from jaxlmm.crossprod import Projection, Stats, project, project_design
from jaxlmm.design import Design, make_design, response_matrix
from jaxlmm.objective import Terms, make_terms
from jaxlmm.results import Fit
from jaxlmm.solver import minimise
from jaxlmm.spectrum import Spectrum, make_spectrum, reduce_stats

__all__ = ["Model", "enable_compile_cache", "fit", "fit_prepared", "prepare"]

# Blocks are padded up to one of these, so that a last or a small block compiles nothing new.
BLOCK_WIDTHS = (8, 128, 2048)


@dataclass(frozen=True)
class Model:
    """A design and what is computed from it once: refitting it to other responses is cheap."""

    design: Design
    projection: Projection
    spectrum: Spectrum


def prepare(X: Any, groups: Any = None, *, names: Sequence[str] | None = None) -> Model:
    """Do all the work that depends on X and groups only.

    Parameters, errors: as in :func:`fit`. Use with :func:`fit_prepared` to fit one design again
    and again (permutations, simulations) without paying for it each time.
    """
    design = make_design(X, groups, names)
    projection = project_design(design)
    return Model(design, projection, make_spectrum(projection))


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
    matrix, response_names = response_matrix(Y, model.design.n_obs, response_names)
    m, p = matrix.shape[1], model.design.n_fixef
    width = next((w for w in BLOCK_WIDTHS if m <= w), BLOCK_WIDTHS[-1])
    terms = make_terms(model.spectrum, model.design.n_obs, method)
    out = {name: np.empty((m, p)) for name in ("coef", "se")}
    out |= {name: np.empty(m) for name in ("lam", "sigma2", "loglik")}
    status = np.empty(m, dtype=np.int8)
    pending: list[tuple[slice, Stats, tuple[jax.Array, ...]]] = []
    with float64_scope():
        constants = (terms, jnp.asarray(model.spectrum.f), inference.se2_weights(model.spectrum))
        constants = jax.device_put(constants)
        for start in range(0, m, width):
            cols = slice(start, min(start + width, m))
            stats = project(model.projection, matrix[:, cols])
            # JAX works on this block while numpy reads the next.
            pending.append((cols, stats, _start_block(model.spectrum, stats, constants, width)))
            if len(pending) > 1:
                _store(model, method, terms, *pending.pop(0), out, status)
        for block in pending:
            _store(model, method, terms, *block, out, status)
    return Fit(
        design=model.design, method=method, df_method=df, status=status, **out,
        Y=matrix, projection=model.projection, spectrum=model.spectrum, given_names=response_names,
    )  # fmt: skip


def enable_compile_cache(path: str) -> None:
    """Keep compiled code in the folder ``path``, so that later processes need not compile.

    This sets JAX's own ``jax_compilation_cache_dir`` for the whole process, hence it is asked for.
    """
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _start_block(
    spectrum: Spectrum, stats: Stats, constants: tuple[Any, ...], width: int
) -> tuple[jax.Array, ...]:
    reduced = reduce_stats(spectrum, stats)
    # A bad response must not slow the loop that all share: it gets harmless numbers.
    bad = ~stats.finite | stats.constant | stats.exact_within
    rest = stats.rest
    if bad.any():
        for array in (reduced.ols, reduced.u, reduced.u2):
            array[:, bad] = 0.0
        rest = np.where(bad, 1.0, rest)
    pad = width - len(rest)
    if pad:
        fill = ((0, 0), (0, pad))
        reduced = type(reduced)(*(np.pad(a, fill) for a in (reduced.ols, reduced.u, reduced.u2)))
        rest = np.pad(rest, (0, pad), constant_values=1.0)
    return _fit_block(*constants, reduced.ols, reduced.u, reduced.u2, rest)


@functools.partial(jax.jit)
def _fit_block(
    terms: Terms, f: jax.Array, se2: tuple[jax.Array, ...], ols: jax.Array, u: jax.Array, u2: jax.Array, rest: jax.Array
) -> tuple[jax.Array, ...]:
    optimum = minimise(terms, u2, rest)
    w = inference.weights(optimum.lam, terms.d[: terms.n_spectrum])
    a, b, C = se2
    variance = a[:, None] + optimum.lam * b[:, None] + C @ w
    coef = inference.coef_unit(w, ols, u, f)
    return optimum.lam, optimum.pwrss, optimum.deviance, optimum.converged, coef, variance


def _store(
    model: Model,
    method: str,
    terms: Terms,
    cols: slice,
    stats: Stats,
    block: tuple[jax.Array, ...],
    out: dict[str, np.ndarray],
    status: np.ndarray,
) -> None:
    """Undo scale, shift and unit columns; set the status; write NaN where there is no fit."""
    c = cols.stop - cols.start
    lam, pwrss, deviance, converged, coef, variance = (np.asarray(a)[..., :c] for a in block)
    projection, nu = model.projection, float(terms.nu)
    x_scale = projection.x_scale[:, None]
    with np.errstate(all="ignore"):
        sigma2 = pwrss / nu * stats.scale**2
        coef = coef * stats.scale
        if projection.intercept is not None:
            coef += projection.intercept[:, None] * (stats.shift * stats.scale)
        logdet = model.spectrum.logdet_xtx if method == "REML" else 0.0
        loglik = -0.5 * (nu * (1 + np.log(2 * np.pi / nu) + 2 * np.log(stats.scale)) + deviance + logdet)
        values = dict(coef=(coef / x_scale).T, se=(np.sqrt(variance * sigma2) / x_scale).T,
                      lam=lam, sigma2=sigma2, loglik=loglik)  # fmt: skip
    code = np.full(c, Status.OK, dtype=np.int8)
    if model.design.random:
        code[lam == 0] = Status.SINGULAR
    code[~converged] = Status.NOT_CONVERGED
    usable = (sigma2 > 0) & np.isfinite(loglik) & np.isfinite(coef).all(axis=0)
    code[~stats.finite | ~usable] = Status.NONFINITE
    code[stats.constant] = Status.CONSTANT
    code[stats.exact_within] = Status.NO_RESIDUAL
    failed = code > Status.SINGULAR
    for name, value in values.items():
        out[name][cols] = value
        out[name][cols][failed] = np.nan
    status[cols] = code


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
