"""Columns of a data frame as JSON and arrays, without loss: numbers, text, categories, times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxlmm.storage.codec import decode, encode

__all__ = ["decode_frame", "encode_frame"]


def encode_frame(frame: Any, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """A data frame as JSON; arrays go to ``arrays``, under ``name`` and the number of the column.

    The index is not kept.

    Raises
    ------
    ValueError
        A column of a type that cannot be stored without loss; it is named. ``arrays`` is not changed.
    """
    made: dict[str, np.ndarray] = {}
    columns = []
    for i, label in enumerate(frame.columns):
        column = frame[label].reset_index(drop=True)
        try:
            coded = _encode(column, made, f"{name}.{i}")
            same = _same(_decode(coded, made), column)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise ValueError(f"column '{label}' cannot be stored without loss: {error}") from error
        if not same:
            raise ValueError(f"column '{label}' holds {column.dtype}, which cannot be stored without loss.")
        columns.append([label, coded])
    arrays.update(made)
    return {"rows": len(frame), "columns": columns}


def decode_frame(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`encode_frame` was given; LookupError, TypeError or ValueError if it was not."""
    columns = {label: _decode(coded, arrays) for label, coded in value["columns"]}
    found = {len(column) for column in columns.values()}
    if found - {value["rows"]}:
        raise ValueError(f"columns of {value['rows']} rows have {sorted(found)}")
    return pd.DataFrame(columns, index=pd.RangeIndex(value["rows"]))


def _encode(column: Any, arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        categories = _encode(pd.Series(column.cat.categories), arrays, f"{name}.categories")
        arrays[f"{name}.codes"] = column.cat.codes.to_numpy()
        return {"category": {"categories": categories, "codes": f"{name}.codes", "ordered": bool(column.cat.ordered)}}
    if isinstance(dtype, pd.DatetimeTZDtype):
        arrays[name] = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return {"zoned": {"array": name, "zone": str(dtype.tz)}}
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        arrays[name] = column.to_numpy()
        return {"array": name}
    values, plain = column.tolist(), bool(pd.api.types.is_object_dtype(dtype))
    if all(type(v) is str for v in values):
        # Few levels, many rows.
        at = {value: i for i, value in enumerate(dict.fromkeys(values))}
        arrays[f"{name}.codes"] = np.array([at[v] for v in values], dtype=np.int32)
        return {"text": {"values": list(at), "codes": f"{name}.codes", "object": plain}}
    return {"values": {"values": encode(values, arrays, name), "object": plain}}


def _decode(coded: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ((kind, inner),) = coded.items()
    if kind == "array":
        return pd.Series(arrays[inner])
    if kind == "zoned":
        return pd.Series(arrays[inner["array"]]).dt.tz_localize("UTC").dt.tz_convert(inner["zone"])
    if kind == "category":
        categories = pd.Index(_decode(inner["categories"], arrays))
        codes = arrays[inner["codes"]]
        return pd.Series(pd.Categorical.from_codes(codes, categories, ordered=inner["ordered"]))
    values = inner["values"]
    if kind == "text":
        values = np.array(values, dtype=object)[arrays[inner["codes"]]].tolist()
    elif kind == "values":
        values = decode(values, arrays)
    else:
        raise ValueError(f"columns of kind {kind!r} are unknown")
    return pd.Series(values, dtype=object) if inner["object"] else pd.Series(pd.Index(values))


def _same(found: Any, column: Any) -> bool:
    """Whether values and types are the same; the storage of text may be another."""
    if pd.api.types.is_string_dtype(column.dtype):
        return found.tolist() == column.tolist()
    if isinstance(column.dtype, pd.CategoricalDtype):
        mine, theirs = (pd.Series(c.cat.categories) for c in (found, column))
        return (
            _same(mine, theirs)
            and found.cat.ordered == column.cat.ordered
            and found.cat.codes.equals(column.cat.codes)
        )
    types = [[type(v) for v in c] if c.dtype == object else c.dtype for c in (found, column)]
    return types[0] == types[1] and found.equals(column)
