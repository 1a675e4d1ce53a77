"""What users hand over -> arrays and names: numbers from any container, distinct names, responses."""

from __future__ import annotations

import collections
import decimal
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from jaxlmm.runtime.arguments import check_concrete, shown
from jaxlmm.runtime.device import device_matrix
from jaxlmm.sources.lazy import lazy_matrix
from jaxlmm.sources.maps import in_memory

__all__ = ["distinct", "numeric", "response_matrix"]


def numeric(value: Any, what: str) -> np.ndarray:
    """``value`` as a real array, missing values as NaN.

    Parameters
    ----------
    value : array-like
        An array of real numbers is returned as it is, whatever their type; one on a memory map is
        read from its file. Text is refused, even where it reads as numbers.
    what : str
        What to call it in errors.
    """
    check_concrete(value, what)
    if scipy.sparse.issparse(value):
        raise ValueError(f"{what} is a scipy sparse matrix; give a dense array, {what}.toarray().")
    frame = hasattr(value, "columns") and hasattr(value, "iloc")
    for j, dtype in enumerate(value.dtypes if frame else [getattr(value, "dtype", None)]):
        if hasattr(dtype, "categories"):
            column = f" column '{value.columns[j]}'" if frame else ""
            raise ValueError(f"{what}{column} is categorical; make numbers of it, such as pandas.get_dummies.")
    if isinstance(value, np.ma.MaskedArray):
        real = value.dtype.kind in "biuf"
        array = np.array(in_memory(value.data), dtype=np.float64 if real else object)
        array[in_memory(np.ma.getmaskarray(value))] = np.nan
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} cannot be made into an array: {error}") from None
        array = in_memory(array)
    kind = array.dtype.kind
    if kind in "biuf":
        with np.errstate(over="ignore"):  # what float64 cannot hold of a long double becomes infinite
            return array if array.dtype.itemsize <= 8 else array.astype(np.float64)
    if kind == "V" and array.dtype.names is None and array.dtype.itemsize <= 2:
        return array.astype(np.float32)  # JAX's small floats; float32 holds them exactly
    if frame:
        columns = [numeric(value.iloc[:, j], f"{what} column '{c}'") for j, c in enumerate(value.columns)]
        return np.column_stack(columns) if columns else np.zeros(array.shape)
    if kind == "O" and array.ndim == 0:
        raise ValueError(f"{what} is one {type(value).__name__}; give an array or a data frame.")
    if kind == "O":
        return _objects_to_floats(array, what)
    raise ValueError(f"{what} must be numeric, found dtype {array.dtype}{_HINTS.get(kind, _HINTS['U'])}")


_HINTS = {
    "c": "; take its real part, modulus or phase.",
    "M": "; make numbers of the times, such as days since the first.",
    "m": "; divide by a unit, such as numpy.timedelta64(1, 's').",
    "U": "; convert it to floats, or make dummy columns of its categories.",
}


def _objects_to_floats(array: np.ndarray, what: str) -> np.ndarray:
    """Python numbers as float64; None and pandas.NA as NaN."""
    values = array.ravel().tolist()
    types = {type(v): type(v).__name__ in ("NAType", "NoneType") for v in values}
    allowed = (numbers.Real, decimal.Decimal, np.bool_)
    wrong = {t for t, missing in types.items() if not missing and not issubclass(t, allowed)}
    wrong |= {t for t in types if issubclass(t, np.timedelta64)}
    if wrong:
        at = next(i for i, v in enumerate(values) if type(v) in wrong)
        position = zip(("row", "column"), np.unravel_index(at, array.shape), strict=False)
        where = ", ".join(f"{axis} {i}" for axis, i in position)
        found = f"{values[at]!r:.60} ({type(values[at]).__name__})" + (f" in {where}" if where else "")
        raise ValueError(f"{what} must be numeric, found {found}{_HINTS['U']}")
    try:
        flat = np.array([np.nan if types[type(v)] else float(v) for v in values], dtype=np.float64)
    except OverflowError:
        raise ValueError(f"{what} holds integers too large for float64; rescale it.") from None
    return flat.reshape(array.shape)


def distinct(names: Any, n: int, what: str, of: str) -> tuple[str, ...]:
    """``names`` as n different strings."""
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        raise ValueError(
            f"{what} must be a sequence of {n} names, found {shown(names)}; write [{shown(names)}] for one name."
        )
    names = tuple(str(v) for v in (names.to_numpy() if hasattr(names, "to_numpy") else names))
    if len(names) != n:
        raise ValueError(f"{what} has {len(names)} entries, {of} has {n} columns; give one name per column.")
    if len(set(names)) < n:
        twice = [f"'{v}'" for v, count in collections.Counter(names).items() if count > 1]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ValueError(f"{what} must be distinct; found more than once: {', '.join(twice[:5])}{more}; rename them.")
    return names


def response_matrix(Y: Any, n_obs: int, names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Check Y against a design of ``n_obs`` rows.

    Parameters
    ----------
    Y : array-like, (n_obs,) or (n_obs, m)
        NaN, None, pandas.NA and masked values make a response that is not fitted.
    n_obs : int
    names : sequence of str, optional
        Names of the responses. Default: the data frame's or series' own.

    Returns
    -------
    matrix : ndarray, (n_obs, m)
        Real; not copied if Y is a real array already. What stands for it where a JAX array stays on
        its GPU (``device.DeviceMatrix``), or a large store where it is (``lazy.LazyMatrix``).
    names : tuple of str
        Empty if there are none.

    Raises
    ------
    ValueError
        Wrong shapes, non-numeric Y (a data frame's column is named), wrong or duplicate names.
    """
    matrix: Any = device_matrix(Y)
    if matrix is None:
        matrix = lazy_matrix(Y)
    if matrix is None:
        matrix = numeric(Y, "Y")
    if names is None:
        names = getattr(Y, "columns", None)
        # The name of an array with more dimensions (xarray, HDF5) is not that of a response.
        if names is None and matrix.ndim == 1 and getattr(Y, "name", None) is not None:
            names = [Y.name]
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ValueError(
            f"Y must have shape (n_obs,) or (n_obs, m), found {matrix.shape}; "
            "use Y.reshape(len(Y), -1) to make every other axis a response."
        )
    if matrix.shape[0] != n_obs:
        hint = "; it looks transposed, try Y.T" if matrix.shape[1] == n_obs else "; they must have the same rows"
        raise ValueError(f"Y has {matrix.shape[0]} rows, X has {n_obs}{hint}.")
    m = matrix.shape[1]
    if m == 0:
        raise ValueError("Y has no columns, so there is nothing to fit.")
    return matrix, () if names is None else distinct(names, m, "response_names", "Y")
