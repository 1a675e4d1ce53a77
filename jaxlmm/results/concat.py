"""Fits of one design, put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from jaxlmm.results.results import Fit
from jaxlmm.tabular.dataset import ROWS
from jaxlmm.tabular.labels import RESPONSE, concat_labels

__all__ = ["concat"]


def concat(fits: Iterable[Fit], dim: Hashable = RESPONSE) -> Fit:
    """One fit of the responses of several, which are of the same design.

    Parameters
    ----------
    fits : sequence of Fit
    dim : hashable, optional
        The dimension along which they follow each other: one of theirs, or a new one. Default: that
        of the columns of a matrix.

    Returns
    -------
    Fit
        Of all responses, in order; dimensions and coordinates as ``xarray.concat`` gives them.

    Raises
    ------
    ValueError
        No fits; fits of another design, method or way to find degrees of freedom; dimensions or
        coordinates that do not match; a label twice; responses on a device or in a store.
    """
    listed = list(fits) if not isinstance(fits, Fit) else [fits]
    for k, fit in enumerate(listed):
        if not isinstance(fit, Fit):
            raise ValueError(f"concat takes what jaxlmm.fit returns; argument {k} is a {type(fit).__name__}.")
    if not listed:
        raise ValueError("concat needs at least one fit, found none.")
    first = listed[0]
    for k, fit in enumerate(listed[1:], start=1):
        _check_alike(first, fit, k)
    rows, labels = concat_labels([fit.labels for fit in listed], dim)
    arrays = {name: np.concatenate([getattr(fit, name) for fit in listed])[rows] for name in ROWS}
    Y = _joined([fit.Y for fit in listed])[:, rows]
    weights = None if first.weights is None else _joined([fit.weights for fit in listed])[:, rows]
    return dataclasses.replace(first, **arrays, Y=Y, labels=labels, weights=weights, known=None)


def _check_alike(a: Fit, b: Fit, k: int) -> None:
    """Refuse fit k if it is not of the model of fit 0."""
    for name in ("method", "df_method"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(
                f"fit 0 has {name}={getattr(a, name)!r}, fit {k} has {getattr(b, name)!r}; only fits of one model "
                "are put together."
            )
    for field in dataclasses.fields(a.design):
        if not _same(getattr(a.design, field.name), getattr(b.design, field.name)):
            raise ValueError(
                f"fit 0 and fit {k} have different designs ({field.name}); only fits of one design are put together."
            )
    if (a.weights is None) != (b.weights is None):
        raise ValueError(
            f"only one of fit 0 and fit {k} has weights of each response's own; only fits of one model are put "
            "together."
        )
    formulas = [None if fit.source is None else fit.source.formula for fit in (a, b)]
    if formulas[0] != formulas[1]:
        raise ValueError(f"fit 0 is of the formula {formulas[0]!r}, fit {k} of {formulas[1]!r}; fit both by one.")
    if a.labels.units != b.labels.units:
        raise ValueError(f"fit 0 is in units {a.labels.units!r}, fit {k} in {b.labels.units!r}; convert one of them.")
    if type(a) is not type(b):
        raise ValueError(f"fit 0 and fit {k} have and lack their responses; load both with Y=, or neither.")


def _same(a: Any, b: Any) -> bool:
    """Whether two parts of a design are equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a is b or np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _joined(parts: list[Any]) -> Any:
    """Responses beside each other, (n_obs, sum of m)."""
    if all(isinstance(Y, np.ndarray) for Y in parts):
        return np.concatenate(parts, axis=1)
    if hasattr(type(parts[0]), "join") and all(type(Y) is type(parts[0]) for Y in parts):
        return parts[0].join(parts[1:])
    kinds = ", ".join(sorted({type(Y).__name__ for Y in parts}))
    raise ValueError(
        f"the responses are kept as {kinds}, which are not put together; fit them at once, or give arrays in memory."
    )
