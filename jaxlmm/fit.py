"""prepare, fit_block, fit: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.arrays import response_matrix
from jaxlmm.design.design import make_design
from jaxlmm.design.rows import check_rows
from jaxlmm.design.terms import make_terms_structure
from jaxlmm.engine.finish import empty_results
from jaxlmm.families.patterns import missing_mask
from jaxlmm.families.registry import Model, make_family
from jaxlmm.inference.hypotheses import check_df_method
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.tabular.labels import Labels

__all__ = ["check_options", "enable_compile_cache", "fit", "fit_prepared", "prepare"]


def prepare(
    X: Any,
    groups: Any = None,
    *,
    random: Sequence[Any] | None = None,
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
    design = make_design(X, groups, names, weights, random=random)
    if terms is not None:
        constant = np.flatnonzero((design.X == design.X[0]).all(axis=0)).tolist()
        design = dataclasses.replace(design, terms=make_terms_structure(terms, design.names, constant))
    if group_name is not None:
        design = dataclasses.replace(
            design, random=tuple(dataclasses.replace(g, name=str(group_name)) for g in design.random)
        )
    return Model(make_family(design), indexes)


def fit(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    random: Sequence[Any] | None = None,
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
        Hashable labels: a random intercept. None: ordinary least squares, in the same result object.
    random : sequence of random terms, optional
        Any random terms, instead of ``groups``: slopes, nested and crossed factors. Each is made by
        :func:`jaxlmm.random_term`; labels alone are a random intercept.
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
    model = prepare(X, groups, random=random, names=names, group_name=group_name, weights=weights, terms=terms)
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
        Y=matrix, model=model, labels=Labels.of_matrix(matrix.shape[1], given_names),
    )  # fmt: skip


def _fit_matrix(model: Model, Y: Any, method: str, missing: str) -> dict[str, np.ndarray]:
    """All columns of Y, wherever they are."""
    if isinstance(Y, LazyMatrix):
        out = empty_results(Y.shape[1], model.design.n_fixef, model.family.n_theta)

        def store(columns: np.ndarray, part: dict[str, np.ndarray]) -> None:
            for name, value in part.items():
                out[name][columns] = value

        Y.each_block(lambda block: _fit_matrix(model, block, method, missing), store)
        return out
    out = model.family.fit(Y, method)
    if missing == "drop" and Y.dtype.kind == "f":
        where = np.flatnonzero(out["status"] == Status.NONFINITE)
        where = where[missing_mask(Y, where).any(axis=0)] if len(where) else where
        if len(where):
            for name, value in model.family.fit_incomplete(Y, where, method).items():
                out[name][where] = value
    return out


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
