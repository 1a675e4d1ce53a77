"""Responses with dimensions and coordinates: a labelled array in, a labelled fit out."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

try:
    import xarray as xr
except ImportError as error:
    raise ImportError('labelled responses need xarray: pip install "jaxlmm[xarray]"') from error

from jaxlmm.fit import fit as fit_matrix
from jaxlmm.labelled.data import labelled_problem
from jaxlmm.results.results import Fit
from jaxlmm.sources.lazy import lazy_matrix
from jaxlmm.sources.maps import in_memory

__all__ = ["fit_dataarray"]


def fit_dataarray(
    X: Any,
    Y: xr.DataArray,
    groups: Any = None,
    *,
    obs_dim: Hashable,
    weights: Any = None,
    group_name: str | None = None,
    random: Sequence[Any] | None = None,
    **options: Any,
) -> Fit:
    """Fit the same model to every cell of a labelled array; see :func:`jaxlmm.fit`.

    Parameters
    ----------
    X : array-like (n_obs, p), DataFrame, or function
        Fixed-effects matrix. A function is given a DataFrame of Y's coordinates along ``obs_dim``,
        one row an observation, and returns the matrix.
    Y : DataArray
        Dimensions other than ``obs_dim`` are responses, in Y's order. Not copied where the
        responses lie regularly in memory, as they do if ``obs_dim`` is the first or the last.
    groups, weights : str, array-like (n_obs,), or function, optional
        A text is the name of a coordinate of Y along ``obs_dim``; a function is as for X.
    obs_dim : hashable
        Dimension of the observations.
    group_name : str, optional
        Default: the name of the coordinate or of ``groups``, else "group".
    random : sequence of random terms, optional
        As in :func:`jaxlmm.fit`.
    **options
        Of :func:`jaxlmm.fit`: ``method``, ``df``, ``missing``, ``names``, ``terms``.

    Raises
    ------
    ValueError
        Y has no dimension ``obs_dim``; lengths differ; an unknown coordinate; a pandas index that
        holds the labels of Y in another order; a dimension or coordinate of the responses by a name
        that the results use; what :func:`jaxlmm.fit` raises.
    """
    problem = labelled_problem(X, Y, groups, obs_dim=obs_dim, weights=weights, group_name=group_name)
    matrix: Any = lazy_matrix(Y, obs_dim)
    if matrix is None:
        matrix = np.moveaxis(in_memory(Y.to_numpy()), problem.axis, 0).reshape(problem.n_obs, -1)
    found = fit_matrix(
        problem.X, matrix, problem.groups, random=random, weights=problem.weights,
        group_name=problem.group_name, **options,
    )  # fmt: skip
    return dataclasses.replace(found, labels=problem.labels)
