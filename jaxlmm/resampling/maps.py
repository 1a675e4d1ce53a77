"""Maps of statistics: which responses are neighbours, clusters of them, threshold-free enhancement."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from jaxlmm.runtime.arguments import shown
from jaxlmm.tabular.labels import Labels

__all__ = ["Adjacency", "enhance", "find_clusters", "largest_clusters", "make_adjacency"]

# Neighbours of all maps that are searched together.
PAIRS = 2**22


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Pairs of neighbours among m responses.

    Attributes
    ----------
    m : int
    first, second : ndarray of int, (pairs,)
        Each pair once.
    text : str
        Which dimensions have neighbours, and how.
    """

    m: int
    first: np.ndarray
    second: np.ndarray
    text: str

    def labels(self, inside: np.ndarray) -> tuple[int, np.ndarray]:
        """Number of connected sets of responses ``inside``, (m,) or (maps, m), and the set of each response inside.

        Sets of several maps are apart, those of the first map first.
        """
        maps = np.atleast_2d(inside)
        number = (np.cumsum(maps) - 1).reshape(maps.shape)
        n = int(number[-1, -1]) + 1 if number.size else 0
        which, pair = np.nonzero(maps[:, self.first] & maps[:, self.second])
        ends = number[which, self.first[pair]], number[which, self.second[pair]]
        graph = scipy.sparse.coo_array((np.ones(len(pair), dtype=np.int8), ends), shape=(n, n))
        count, found = scipy.sparse.csgraph.connected_components(graph.tocsr(), directed=False)
        return int(count), found


def make_adjacency(labels: Labels, given: Mapping[Hashable, Any] | Any) -> Adjacency:
    """Neighbours along each dimension, combined: two responses are neighbours if they are so along one dimension
    and have the same label along all others (as MNE's ``combine_adjacency``).

    Parameters
    ----------
    labels : Labels
    given : mapping, matrix or None
        By dimension: a symmetric matrix, sparse or not, of which entries other than 0 are neighbours; "line" for
        the next and the one before; "none" for no neighbours. A matrix alone is that of the only dimension, or of
        all m responses. Dimensions not mentioned: "line" where the coordinate holds numbers or times, or is
        missing; "none" where it holds names.

    Raises
    ------
    ValueError
        Unknown dimension, a matrix of another size or not symmetric.
    """
    m, dims, shape = labels.size, labels.dims, labels.shape
    if given is not None and not isinstance(given, Mapping):
        if len(dims) == 1:
            given = {dims[0]: given}
        else:
            return Adjacency(m, *_pairs(given, m, "the responses"), "the given matrix of all responses")
    wanted = dict(given or {})
    unknown = [dim for dim in wanted if dim not in dims]
    if unknown:
        raise ValueError(
            f"adjacency names the dimension {unknown[0]!r}; the responses have {', '.join(map(str, dims)) or 'none'}."
        )
    at = np.arange(m).reshape(shape)
    first, second, texts = [], [], []
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        how = wanted.get(dim, None)
        if how is None:
            how = "line" if _ordered(labels, dim) else "none"
        if isinstance(how, str):
            if how not in ("line", "none"):
                raise ValueError(f"adjacency of {dim!r} must be a matrix, 'line' or 'none'; found {shown(how)}.")
            steps = np.arange(size - 1) if how == "line" else np.zeros(0, dtype=int)
            a, b = steps, steps + 1
            texts.append(f"{dim}: {'next to each other' if how == 'line' else 'no neighbours'}")
        else:
            a, b = _pairs(how, size, repr(dim))
            texts.append(f"{dim}: the given matrix, {len(a)} pairs")
        moved = np.moveaxis(at, axis, 0)
        first.append(moved[a].ravel())
        second.append(moved[b].ravel())
    none = [np.zeros(0, dtype=int)]
    return Adjacency(m, np.concatenate(first or none), np.concatenate(second or none), "; ".join(texts))


def _ordered(labels: Labels, dim: Hashable) -> bool:
    coord = labels.coords.get(dim)
    if coord is None:
        return dim != "response"
    return not coord.levels and np.asarray(coord.values).dtype.kind in "iufmM"


def _pairs(matrix: Any, size: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        made = scipy.sparse.coo_array(matrix)
    except (TypeError, ValueError):
        raise ValueError(f"the adjacency of {what} must be a matrix, found {shown(matrix)}.") from None
    if made.shape != (size, size):
        raise ValueError(f"the adjacency of {what} has shape {made.shape}, but there are {size} of them.")
    dense = made.tocsr()
    if abs(dense - dense.T).sum() != 0:
        raise ValueError(f"the adjacency of {what} is not symmetric: neighbours must be so both ways.")
    upper = (made.row < made.col) & (made.data != 0)
    return made.row[upper], made.col[upper]


def find_clusters(
    values: np.ndarray, threshold: np.ndarray, adjacency: Adjacency, *, size: bool, signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of responses above their threshold (sign 1), and of those below minus it (sign -1).

    Parameters
    ----------
    values : ndarray, (m,)
        Statistics; NaN belongs to no cluster.
    threshold : ndarray, (m,)
    adjacency : Adjacency
    size : bool
        Whether the mass of a cluster is its number of responses, not the sum of their statistics.
    signs : tuple of 1 and -1

    Returns
    -------
    label, mass : ndarray of int (m,), ndarray (clusters,)
        The cluster of each response, 0, 1, ... and -1 outside; masses, negative below.
    """
    label = np.full(len(values), -1)
    masses: list[np.ndarray] = []
    for sign in signs:
        inside = sign * values > threshold
        if not inside.any():
            continue
        count, found = adjacency.labels(inside)
        label[inside] = found + sum(len(mass) for mass in masses)
        weights = np.full(int(inside.sum()), float(sign)) if size else values[inside]
        masses.append(np.bincount(found, weights=weights, minlength=count))
    return label, np.concatenate(masses) if masses else np.zeros(0)


def largest_clusters(
    values: np.ndarray, threshold: np.ndarray, adjacency: Adjacency, *, size: bool, signs: tuple[int, ...]
) -> np.ndarray:
    """The largest absolute mass of a cluster in each map of ``values`` (n, m), 0 where there is none, (n,).

    As :func:`find_clusters` of each map, but many maps in one search: of small ones the set-up is most of the time.
    """
    out = np.zeros(len(values))
    together = max(1, PAIRS // max(len(adjacency.first), adjacency.m, 1))
    for start in range(0, len(values), together):
        some = values[start : start + together]
        for sign in signs:
            inside = sign * some > threshold
            count, found = adjacency.labels(inside)
            which = np.nonzero(inside)[0]
            mass = np.abs(np.bincount(found, weights=None if size else some[inside], minlength=count))
            of = np.zeros(count, dtype=int)
            of[found] = start + which
            np.maximum.at(out, of, mass)
    return out


def enhance(
    values: np.ndarray,
    adjacency: Adjacency,
    *,
    E: float,
    H: float,
    start: float,
    dh: float | None,
    signs: tuple[int, ...],
) -> np.ndarray:
    """Threshold-free cluster enhancement of statistics (m,), with their sign (Smith & Nichols 2009).

    The integral of extent^E h^H over the heights h from ``start`` to the response's own, extent being the number of
    responses in its cluster above h. With ``dh`` it is the sum over heights start, start + dh, ..., as MNE takes it
    (the first with the width ``start``); without, it is exact, between each two heights that occur.
    """
    out = np.zeros(len(values))
    for sign in signs:
        height = np.where(np.isnan(values), -np.inf, sign * values)
        out += sign * (
            _exact(height, adjacency, E, H, start)
            if dh is None
            else _summed(height, adjacency, E, H, start, dh, float(np.nanmax(np.abs(values), initial=0.0)))
        )
    return np.where(np.isnan(values), np.nan, out)


def _summed(
    height: np.ndarray, adjacency: Adjacency, E: float, H: float, start: float, dh: float, stop: float
) -> np.ndarray:
    out = np.zeros(len(height))
    for k, level in enumerate(np.arange(start, stop, dh)):
        inside = height > level
        if not inside.any():
            break
        _, found = adjacency.labels(inside)
        extent = np.bincount(found)[found].astype(float)
        out[inside] += level**H * (dh if k else start) * extent**E
    return out


def _exact(height: np.ndarray, adjacency: Adjacency, E: float, H: float, start: float) -> np.ndarray:
    """By joining clusters from the highest response down; each cluster adds to all that are in it."""
    order = np.argsort(-height, kind="stable")
    order = order[height[order] > start]
    out = np.zeros(len(height))
    if not len(order):
        return out
    rank = np.full(len(height), len(height))
    rank[order] = np.arange(len(order))
    a, b = rank[adjacency.first], rank[adjacency.second]
    later, earlier = np.maximum(a, b), np.minimum(a, b)
    there = later < len(order)
    by = np.argsort(later[there], kind="stable")
    later, earlier = later[there][by], earlier[there][by]
    bounds = np.searchsorted(later, np.arange(len(order) + 1))
    # A forest of clusters, each under the number of the response that made it: what it became part of, and the
    # integral over the heights at which it was one.
    n = len(order)
    power = np.concatenate([height[order], [start]]) ** (H + 1) / (H + 1)
    parent, gain, size, since = [-1] * n, [0.0] * n, [1.0] * n, [0.0] * n
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i in range(n):
        since[i] = power[i]
        merged = {find(int(j)) for j in earlier[bounds[i] : bounds[i + 1]]}
        for j in merged:
            gain[j] += size[j] ** E * (since[j] - power[i])
            parent[j] = i
            root[j] = i
            size[i] += size[j]
    for i in range(n):
        if parent[i] < 0:
            gain[i] += size[i] ** E * (since[i] - power[n])
    total = [0.0] * n
    for i in range(n - 1, -1, -1):
        total[i] = gain[i] + (total[parent[i]] if parent[i] >= 0 else 0.0)
    out[order] = total
    return out
