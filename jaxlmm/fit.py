"""prepare, fit_block, fit: the rooms called in order, and the one float64 scope."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax

from jaxlmm._types import float64_scope
from jaxlmm.block import BlockFitter, Model, empty_results
from jaxlmm.crossprod import project_design
from jaxlmm.design import make_design, response_matrix
from jaxlmm.hypotheses import check_df_method
from jaxlmm.reduce import make_reducer
from jaxlmm.results import Fit
from jaxlmm.spectrum import make_spectrum
from jaxlmm.stream import stream_blocks

__all__ = ["check_index", "enable_compile_cache", "fit", "fit_prepared", "prepare"]


def prepare(
    X: Any, groups: Any = None, *, names: Sequence[str] | None = None, group_name: str | None = None
) -> Model:
    """Do all the work that depends on X and groups only.

    Parameters, errors: as in :func:`fit`. Use with :func:`fit_prepared` to fit one design again
    and again (permutations, simulations) without paying for it each time.
    """
    indexes = check_index(X=X, groups=groups)
    design = make_design(X, groups, names)
    if group_name is not None:
        design = dataclasses.replace(
            design, random=tuple(dataclasses.replace(g, name=str(group_name)) for g in design.random)
        )
    projection = project_design(design)
    return Model(design, make_reducer(projection, make_spectrum(projection)), indexes)


def fit(
    X: Any,
    Y: Any,
    groups: Any = None,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    names: Sequence[str] | None = None,
    response_names: Sequence[str] | None = None,
    group_name: str | None = None,
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
    df : {"satterthwaite", "kenward-roger", "residual", "normal"}
        Degrees of freedom of tests and intervals: as R's lmerTest; as pbkrtest, with its adjusted
        covariance (REML only); n - p; infinity (z tests, as statsmodels).
    names, response_names : sequence of str, optional
        Names of the columns of X and Y. Default: a data frame's own; else x0, x1, ... and y0, ...
    group_name : str, optional
        What a group is, for tables. Default: the name of ``groups`` if it has one, else "group".

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
    check_df_method(df, method)
    model = prepare(X, groups, names=names, group_name=group_name)
    return fit_prepared(model, Y, method=method, df=df, response_names=response_names)


def fit_prepared(
    model: Model,
    Y: Any,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    response_names: Sequence[str] | None = None,
) -> Fit:
    """Fit a prepared model to Y; parameters and result as in :func:`fit`."""
    _check_option("method", method, ("REML", "ML"))
    check_df_method(df, method)
    known = dict(model.indexes)
    check_index(X=known.get("X"), Y=Y, groups=known.get("groups"))
    matrix, given_names = response_matrix(Y, model.design.n_obs, response_names)
    m, p = matrix.shape[1], model.design.n_fixef
    out = empty_results(m, p)
    with float64_scope():
        fitter = BlockFitter.make(model, method, m)
    stream_blocks(model.reducer, matrix, fitter.width, fitter.start, functools.partial(fitter.store, out))
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


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, found {value!r}.")


def check_index(**data: Any) -> tuple[tuple[str, Any], ...]:
    """Indexes of the pandas objects among ``data``, by name; ValueError where two differ.

    Rows are matched by position; where the indexes say otherwise the data are not aligned.
    """
    labelled = tuple((name, getattr(v, "index", v)) for name, v in data.items() if _is_pandas(v))
    for (name_a, a), (name_b, b) in itertools.pairwise(labelled):
        if len(a) == len(b) and not a.equals(b):
            raise ValueError(
                f"{name_a} and {name_b} have different indexes, so their rows may not match; "
                "align them, or call reset_index(drop=True) on both if they match by position."
            )
    return labelled


def _is_pandas(value: Any) -> bool:
    """A frame, a series, or an index kept from one."""
    return hasattr(value, "iloc") or (hasattr(value, "equals") and hasattr(value, "get_indexer"))
