"""Which responses a user means: positions, slices, masks and names -> rows."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import check_concrete, shown

__all__ = ["position", "positions"]


def position(response: Any, names: Sequence[str]) -> int:
    """Row of one response, given by its position or its name."""
    m = len(names)
    if isinstance(response, str):
        if response not in names:
            raise ValueError(f"no response is named '{response}'; the names begin {', '.join(map(repr, names[:3]))}.")
        return names.index(response)
    if isinstance(response, bool) or not isinstance(response, numbers.Integral):
        raise ValueError(f"a response is given by an integer position or a name, found {shown(response)}.")
    row = int(response)
    if not -m <= row < m:
        raise ValueError(f"response {row} is out of range; there are {m}.")
    return row % m


def positions(responses: Any, names: Sequence[str]) -> np.ndarray:
    """Rows of responses, given by positions, a slice, a mask, or names."""
    m = len(names)
    check_concrete(responses, "responses")
    if isinstance(responses, slice):
        return np.arange(m)[responses]
    if isinstance(responses, (list, tuple)) and any(isinstance(v, str) for v in responses):
        return np.array([position(v, names) for v in responses], dtype=np.intp)  # an array would make all text
    try:
        array = np.atleast_1d(np.asarray(responses))
    except (TypeError, ValueError):
        raise ValueError(f"responses are positions, a slice, a mask or names, found {shown(responses)}.") from None
    if array.dtype == bool:
        if array.shape != (m,):
            raise ValueError(f"the mask has shape {array.shape}, but there are {m} responses.")
        return np.flatnonzero(array)
    if array.ndim != 1:
        raise ValueError(f"responses must be one list of positions or names, found shape {array.shape}.")
    if array.dtype.kind in "iu":
        bad = array[(array < -m) | (array >= m)]
        if len(bad):
            raise ValueError(f"response {bad[0]} is out of range; there are {m}.")
        return array % m
    return np.array([position(v, names) for v in array.tolist()], dtype=np.intp)
