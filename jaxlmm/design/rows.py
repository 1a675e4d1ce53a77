"""Rows are matched by position; what their labels say otherwise is refused.

Labels are the index of a pandas object, and the coordinate of a DataArray along its observations.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

__all__ = ["RowLabels", "check_rows", "row_labels"]


@dataclass(frozen=True, eq=False)
class RowLabels:
    """Labels of rows.

    Attributes
    ----------
    index : pandas Index
    dim : hashable or None
        The dimension that they label, of a DataArray; None for a pandas object.
    """

    index: Any
    dim: Hashable = None


def row_labels(value: Any, dim: Hashable = None) -> RowLabels | None:
    """The labels of a value's rows; None if it has none.

    Parameters
    ----------
    value : pandas object, DataArray, RowLabels, or anything without labels
    dim : hashable, optional
        Of a DataArray's observations. Default: its first.
    """
    if isinstance(value, RowLabels):
        return value
    if hasattr(value, "iloc"):
        return RowLabels(value.index)
    if hasattr(value, "equals") and hasattr(value, "get_indexer"):
        return RowLabels(value)
    if hasattr(value, "indexes") and isinstance(getattr(value, "dims", None), tuple) and value.dims:
        dim = value.dims[0] if dim is None or dim not in value.dims else dim
        index = value.indexes.get(dim)
        return None if index is None else RowLabels(index, dim)
    return None


def check_rows(**data: Any) -> tuple[tuple[str, RowLabels], ...]:
    """Labels of the rows of those among ``data`` that have some, by name.

    Raises
    ------
    ValueError
        Two pandas objects with different indexes. A DataArray, beside an object whose labels are
        its own in another order, or some of which are its own: rows would be matched wrongly. An
        object with the default index (0, 1, 2, ...), or labels of which the DataArray has none, is
        matched by position.
    """
    found = [(name, row_labels(value)) for name, value in data.items()]
    labelled = tuple((name, labels) for name, labels in found if labels is not None)
    for (name_a, a), (name_b, b) in itertools.pairwise(labelled):
        if len(a.index) != len(b.index) or a.index.equals(b.index):
            continue
        if a.dim is None and b.dim is None:
            raise ValueError(
                f"{name_a} and {name_b} have different indexes, so their rows may not match; "
                "align them, or call reset_index(drop=True) on both if they match by position."
            )
        if b.dim is None:
            name_a, a, name_b, b = name_b, b, name_a, a
        _check_labels(name_a, a, name_b, b)
    return labelled


def _check_labels(name: str, labels: RowLabels, array: str, along: RowLabels) -> None:
    """Of an object beside a DataArray, whose rows are as many."""
    a, b, dim = labels.index, along.index, along.dim
    if a.nlevels != b.nlevels:
        return
    if a.isin(b).all() and b.isin(a).all():
        raise ValueError(
            f"the index of {name} holds the labels of {array} along {dim!r} in another order; give "
            f"{name}.loc[{array}.indexes[{dim!r}]], or {array}.drop_vars({dim!r}) if they match by position."
        )
    default = type(a).__name__ == "RangeIndex" and a.start == 0 and a.step == 1
    if not default and a.isin(b).any():
        raise ValueError(
            f"the index of {name} holds some of the labels of {array} along {dim!r}, not all, so their rows may not "
            f"match; align them, or call reset_index(drop=True) on {name} if they match by position."
        )
