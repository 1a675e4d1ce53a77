"""The order of rows: as given, or channels as they lie on the scalp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import shown

__all__ = ["row_order", "scalp_order"]

# Channels within this share of the head's half width are on the midline.
MIDLINE = 0.1


def row_order(names: Sequence[str], order: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Positions of rows in the order wanted, and before which of them parts begin.

    Parameters
    ----------
    names : sequence of str
        Of the rows.
    order : sequence of str, mne.Info, or mapping of name to (x, y, z)

    Raises
    ------
    ValueError
        A name that no row has, one twice, none at all; channels without a position.
    """
    if isinstance(order, str) or not hasattr(order, "__iter__"):
        raise ValueError(
            f"order must be a list of names, an mne.Info, or a dict of positions by names, found {shown(order)}."
        )
    if isinstance(order, Mapping):
        return scalp_order(names, _positions(order))
    wanted = [str(name) for name in order]
    for name in wanted:
        if name not in names:
            raise ValueError(f"order names {name!r}, which no row is called; the rows begin {_first(names)}.")
        if wanted.count(name) > 1:
            raise ValueError(f"order names {name!r} twice.")
    if not wanted:
        raise ValueError(f"order names no row; the rows begin {_first(names)}.")
    return np.array([list(names).index(name) for name in wanted], dtype=np.intp), ()


def scalp_order(names: Sequence[str], positions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Channels by hemisphere, left, midline, right, each from front to back; positions as MNE's, x to the right."""
    missing = [name for name in names if name not in positions]
    if missing:
        raise ValueError(
            f"order has no position of channel {missing[0]!r}; give the info of the data, with a montage."
        )
    place = np.array([positions[name] for name in names], dtype=np.float64)
    if place.ndim != 2 or place.shape[1] < 2 or not np.isfinite(place[:, :2]).all():
        raise ValueError("order must have positions of two or three finite numbers for each channel.")
    x, y = place[:, 0], place[:, 1]
    near = MIDLINE * (np.abs(x).max() or 1.0)
    side = np.where(np.abs(x) <= near, 0, np.sign(x))
    rows = np.lexsort((x, -y, side))
    return rows, tuple((np.flatnonzero(np.diff(side[rows])) + 1).tolist())


def _positions(order: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """By name, of an mne.Info or as given; channels whose place is unknown are left out."""
    if "chs" not in order:
        return {str(name): np.asarray(place, dtype=np.float64) for name, place in order.items()}
    found = {str(one["ch_name"]): np.asarray(one["loc"][:3], dtype=np.float64) for one in order["chs"]}
    return {name: place for name, place in found.items() if np.isfinite(place).all() and np.any(place)}


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, list(names)[:3]))
