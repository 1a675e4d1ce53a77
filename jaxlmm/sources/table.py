"""Tables of variables: whatever they came as, one data frame whose columns follow one rule of types.

Every way into the package reads its variables by these functions, so that the same data make the
same model: a frame, a dict, Arrow, polars, coordinates, MNE's metadata, a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxlmm.sources.levels import in_level_order

__all__ = ["as_frame", "is_table", "plain_column"]

# What pandas finds in a column of objects that are all numbers.
NUMBERS = ("decimal", "mixed-integer-float", "floating", "integer")


def is_table(data: Any) -> bool:
    """Whether :func:`as_frame` takes it: it has named columns, as a matrix of numbers has not."""
    if isinstance(data, (pd.DataFrame, Mapping, np.recarray)) or hasattr(data, "to_native"):
        return True
    if isinstance(data, np.ndarray):
        return data.dtype.names is not None
    if hasattr(data, "dims"):  # xarray
        return hasattr(data, "data_vars")
    return hasattr(data, "to_pandas") or (hasattr(data, "columns") and hasattr(data, "schema"))


def as_frame(data: Any) -> Any:
    """``data`` as a pandas data frame: one, what can turn into one, or a mapping of columns.

    Columns named by numbers are named by these as text: ``5`` in backticks is the column 5.

    polars' Categorical has no order of its own (rows, or what the process did before, decide it), so
    its levels are sorted like those of text; an Enum keeps its order.

    Raises
    ------
    ValueError
        No data frame, one that holds no values yet, or columns of several levels or of different lengths.
    ImportError
        A frame that cannot turn into pandas' without pyarrow.
    """
    frame = _as_frame(data)
    if frame.columns.nlevels > 1:
        raise ValueError(
            f"the columns of data have {frame.columns.nlevels} levels; give them one name each, as "
            "data.set_axis(['_'.join(map(str, c)) for c in data.columns], axis=1)."
        )
    if all(isinstance(name, str) for name in frame.columns):
        return frame
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def _as_frame(data: Any) -> Any:
    if isinstance(data, pd.DataFrame):
        return data
    if hasattr(data, "to_native"):  # narwhals
        return _as_frame(data.to_native())
    if hasattr(data, "to_pandas") and is_table(data):
        try:
            frame = data.to_pandas()
        except ImportError as error:
            raise ImportError(f"this {type(data).__name__} needs pyarrow ({error}): pip install pyarrow") from error
        except TypeError:  # pandas' notes in an Arrow table name a type that pandas cannot read
            frame = data.to_pandas(ignore_metadata=True)
        schema = getattr(data, "schema", None)
        types = schema.items() if isinstance(schema, Mapping) else ()
        free = [name for name, dtype in types if type(dtype).__name__ == "Categorical"]
        return frame.assign(
            **{name: frame[name].cat.reorder_categories(in_level_order(frame[name].cat.categories)) for name in free}
        )
    if isinstance(data, Mapping):
        try:
            return pd.DataFrame(dict(data))
        except ValueError as error:
            raise ValueError(f"the columns of data make no table: {error}.") from None
    if isinstance(data, np.ndarray) and data.dtype.names is not None:
        return pd.DataFrame(data)
    for method in ("collect", "compute"):
        if hasattr(data, method) and hasattr(type(data), "columns"):
            raise ValueError(f"data is a {type(data).__name__}, which holds no values yet; give data.{method}().")
    hint = "; give its table, .obs" if hasattr(data, "obs") and hasattr(data, "var_names") else ""
    raise ValueError(f"data must be a data frame with named columns, found {type(data).__name__}{hint}.")


def plain_column(column: Any) -> Any:
    """A column in one of few types, whatever held it.

    Parameters
    ----------
    column : Series

    Returns
    -------
    Series
        - categories (pandas', an Arrow dictionary): categorical, in their order;
        - integers of any size: int64, so that a formula's arithmetic does not wrap around;
        - other numbers (decimals, and objects that are all numbers, too): float64;
        - bools: bool. Text: object. Times stay as they are, and so do objects of other kinds.

        Where values are missing, integers become float64 and bools objects.
    """
    column = _without_arrow(column)
    dtype, types = column.dtype, pd.api.types
    if isinstance(dtype, pd.CategoricalDtype):
        return column
    if isinstance(dtype, pd.SparseDtype):
        return plain_column(column.sparse.to_dense())
    if types.is_object_dtype(dtype):
        kind = types.infer_dtype(column, skipna=True)
        if kind in NUMBERS:
            found = column.where(column.notna(), np.nan)
            column = found.astype("int64" if kind == "integer" and _fits(found) else "float64")
        else:
            found = column.infer_objects()
            column = column if types.is_string_dtype(found.dtype) else found
        dtype = column.dtype
        if types.is_object_dtype(dtype):
            return column
    if types.is_string_dtype(dtype):
        return column.astype(object)
    if types.is_bool_dtype(dtype):
        return column.astype(object if column.hasnans else bool)
    if types.is_integer_dtype(dtype):
        return column.astype("int64" if _fits(column) else "float64")
    return column.astype("float64") if types.is_float_dtype(dtype) else column


def _without_arrow(column: Any) -> Any:
    """Arrow's dictionaries as categories, its decimals as floats, its dates as pandas' times."""
    arrow = getattr(column.dtype, "pyarrow_dtype", None)
    if arrow is None:
        return column
    kind = str(arrow)
    if kind.startswith("dictionary"):
        values = column.array.__arrow_array__()
        values = values.unify_dictionaries() if hasattr(values, "unify_dictionaries") else values
        return pd.Series(values.to_pandas().array, index=column.index, name=column.name)
    if kind.startswith("decimal"):
        return column.astype("float64")
    if kind.startswith("date"):
        return pd.to_datetime(column.astype(object))
    return column


def _fits(column: Any) -> bool:
    """Whether int64 holds these integers."""
    return not column.hasnans and (not len(column) or (int(column.max()) < 2**63 and int(column.min()) >= -(2**63)))
