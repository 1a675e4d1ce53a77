"""prepare, fit_block, fit: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxlmm._types import Status, float64_scope
from jaxlmm.design.arrays import response_matrix
from jaxlmm.design.design import make_design
from jaxlmm.design.rows import check_rows
from jaxlmm.design.terms import make_terms_structure
from jaxlmm.engine.block import BlockFitter, Model, empty_results
from jaxlmm.engine.incomplete import fit_incomplete
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.engine.stream_device import fit_on_device
from jaxlmm.families.intercept.reduce import design_reducer
from jaxlmm.families.own.patterns import MIN_SHARED, missing_mask, patterns
from jaxlmm.families.own.reduce import OwnDesign
from jaxlmm.inference.hypotheses import check_df_method
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.tabular.labels import Labels

__all__ = ["check_options", "enable_compile_cache", "fit", "fit_prepared", "prepare"]

# Columns of one pattern that are copied together.
COLUMNS_AT_ONCE = 8192


def prepare(
    X: Any,
    groups: Any = None,
    *,
    names: Sequence[str] | None = None,
    group_name: str | None = None,
    weights: Any = None,
    terms: Any = None,
) -> Model:
    """Do all the work that depends on X, groups and weights only.

    Parameters, errors: as in :func:`fit`. Use with :func:`fit_prepared` to fit one design again
    and again (permutations, simulations) without paying for it each time.
    """
    indexes = check_rows(X=X, groups=groups, weights=weights)
    design = make_design(X, groups, names, weights)
    if terms is not None:
        constant = np.flatnonzero((design.X == design.X[0]).all(axis=0)).tolist()
        design = dataclasses.replace(design, terms=make_terms_structure(terms, design.names, constant))
    if group_name is not None:
        design = dataclasses.replace(
            design, random=tuple(dataclasses.replace(g, name=str(group_name)) for g in design.random)
        )
    return Model(design, design_reducer(design), indexes)


def fit(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    weights: Any = None,
    missing: str = "drop",
    names: Sequence[str] | None = None,
    response_names: Sequence[str] | None = None,
    group_name: str | None = None,
    terms: Any = None,
) -> Fit:
    """Fit ``y = X b + group intercept + noise`` to every column of Y.

    Parameters
    ----------
    X : array-like, (n_obs, p)
        Fixed-effects matrix, used as given: no intercept is added.
    Y : array-like, (n_obs,) or (n_obs, m)
        Responses in columns. It is read in blocks, not copied, and the result keeps a
        reference to it for ``ranef``, ``fitted`` and ``resid``. NaN is a missing observation.
        Memory maps, Zarr arrays, h5py datasets and dask arrays may be larger than memory; their
        results too: :func:`jaxlmm.fit_to_store`.
    groups : array-like, (n_obs,), optional
        Hashable labels. None: ordinary least squares, in the same result object.
    method : {"REML", "ML"}
    df : {"satterthwaite", "kenward-roger", "residual", "normal"}
        Degrees of freedom of tests and intervals: as R's lmerTest; as pbkrtest, with its adjusted
        covariance (REML only); n - p; infinity (z tests, as statsmodels).
    weights : array-like, (n_obs,), optional
        Known relative precisions: the residual variance of row i is sigma2 / weights[i], as in
        lme4. Shared by all responses.
    missing : {"drop", "refuse"}
        What NaN in a response means: these rows are dropped for that response alone, which is
        fitted exactly as if it had never had them (``n_used`` says how many are left); or the
        response is not fitted.
    names, response_names : sequence of str, optional
        Names of the columns of X and Y. Default: a data frame's own; else x0, x1, ... and y0, ...
    group_name : str, optional
        What a group is, for tables. Default: the name of ``groups`` if it has one, else "group".
    terms : mapping of str to sequence of str or int, optional
        Columns of X that make a term, for ``Fit.anova``: ``{"dose": ["dose_b", "dose_c"]}``.

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
    check_options(method, df, missing)
    model = prepare(X, groups, names=names, group_name=group_name, weights=weights, terms=terms)
    return fit_prepared(model, Y, method=method, df=df, missing=missing, response_names=response_names)


def fit_prepared(
    model: Model,
    Y: Any,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    missing: str = "drop",
    response_names: Sequence[str] | None = None,
) -> Fit:
    """Fit a prepared model to Y; parameters and result as in :func:`fit`."""
    check_options(method, df, missing)
    if not isinstance(model, Model):
        raise ValueError(f"model must be what jaxlmm.prepare returns, found a {type(model).__name__}.")
    known = dict(model.indexes)
    check_rows(X=known.get("X"), Y=Y, groups=known.get("groups"), weights=known.get("weights"))
    matrix, given_names = response_matrix(Y, model.design.n_obs, response_names)
    out = _fit_matrix(model, matrix, method, missing)
    return Fit(
        design=model.design, method=method, df_method=df, **out,
        Y=matrix, reducer=model.reducer, labels=Labels.of_matrix(matrix.shape[1], given_names),
    )  # fmt: skip


def _fit_matrix(model: Model, Y: Any, method: str, missing: str) -> dict[str, np.ndarray]:
    """All columns of Y, wherever they are."""
    if isinstance(Y, LazyMatrix):
        m = Y.shape[1]
        out = empty_results(m, model.design.n_fixef) | {"n_used": np.empty(m, dtype=int)}

        def store(columns: np.ndarray, part: dict[str, np.ndarray]) -> None:
            for name, value in part.items():
                out[name][columns] = value

        Y.each_block(lambda block: _fit_matrix(model, block, method, missing), store)
        return out
    out = _fit_columns(model, Y, method)
    out["n_used"] = np.full(Y.shape[1], model.design.n_obs)
    if missing == "drop":
        _fit_incomplete(model, Y, method, out)
    return out


def _fit_columns(model: Model, Y: np.ndarray | DeviceMatrix, method: str) -> dict[str, np.ndarray]:
    """All columns of Y on one design; a column with NaN is not fitted."""
    out = empty_results(Y.shape[1], model.design.n_fixef)
    if isinstance(Y, DeviceMatrix):
        left = np.flatnonzero(fit_on_device(model, Y, method, out))
        for at, columns in Y.fetch(left):
            for name, value in _fit_columns(model, columns, method).items():
                out[name][left[at]] = value
        return out
    with float64_scope():
        fitter = BlockFitter.make(model, method, Y.shape[1])
    stream_blocks(model.reducer, Y, fitter.width, fitter.start, functools.partial(fitter.store, out))
    return out


def _fit_incomplete(model: Model, Y: np.ndarray, method: str, out: dict[str, np.ndarray]) -> None:
    """Fit the columns that hold NaN, each to the rows it has, into ``out``."""
    where = np.flatnonzero(out["status"] == Status.NONFINITE) if Y.dtype.kind == "f" else np.zeros(0, dtype=int)
    if not len(where):
        return
    absent = missing_mask(Y, where)
    some = absent.any(axis=0)
    if not some.any():
        return
    if not some.all():
        where, absent = where[some], absent[:, some]
    alone = np.ones(len(where), dtype=bool)
    for rows, columns in patterns(absent, MIN_SHARED):
        if not rows.any():
            continue
        alone[columns] = False
        try:
            design = model.design.take(rows)
            shared = Model(design, design_reducer(design))
        except ValueError:
            out["status"][where[columns]] = Status.TOO_FEW
        else:
            for start in range(0, len(columns), COLUMNS_AT_ONCE):
                at = where[columns[start : start + COLUMNS_AT_ONCE]]
                part = _fit_columns(shared, Y[np.ix_(rows, at)], method)
                for name, value in part.items():
                    out[name][at] = value
        out["n_used"][where[columns]] = rows.sum()
    rest = where[alone]
    if len(rest):
        found = fit_incomplete(OwnDesign.make(model.design, model.reducer), Y, rest, method == "REML")
        for name, value in found.items():
            out[name][rest] = value


def enable_compile_cache(path: str) -> None:
    """Keep compiled code in the folder ``path``, so that later processes need not compile.

    This sets JAX's own ``jax_compilation_cache_dir`` for the whole process, hence it is asked for.
    """
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def check_options(method: str, df: str, missing: str) -> None:
    """ValueError unless these are options of :func:`fit`."""
    check_option("method", method, ("REML", "ML"))
    check_option("missing", missing, ("drop", "refuse"))
    check_df_method(df, method)
