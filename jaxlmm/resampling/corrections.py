"""p-values corrected over all responses: by the largest statistic, cluster, or enhanced statistic of each draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.resampling.maps import Adjacency, enhance, find_clusters, largest_clusters
from jaxlmm.resampling.refit import Statistics

__all__ = ["SAME", "Clusters", "Enhanced", "Largest", "Orientation", "exceedances"]

# Statistics that differ by less are the same: refits of data that are alike agree to rounding, which large variance
# ratios make larger (2e-8 at a ratio of 1e6).
SAME = 1e-7


@dataclass(frozen=True)
class Orientation:
    """Statistics such that large values speak against the null hypothesis."""

    sign: int
    two_sided: bool

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.abs(values) if self.two_sided else self.sign * values


def exceedances(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of ``null`` (n,) are at least each of ``values``, up to rounding."""
    ordered = np.sort(null)
    bound = values - SAME * np.abs(values)
    return np.asarray(len(ordered) - np.searchsorted(ordered, bound, side="left"))


# -- the largest statistic ---------------------------------------------------------------------------


class _Maxima:
    """The largest statistic of each draw over all responses."""

    def __init__(self, n: int) -> None:
        self.null = np.full(n, -np.inf)

    def add(self, at: np.ndarray, found: Statistics, orient: Orientation) -> None:
        self.null = np.fmax(self.null, np.nanmax(orient(found.values), axis=1, initial=-np.inf))


class _Whole:
    """All statistics, (n, m)."""

    def __init__(self, n: int, m: int) -> None:
        self.values = np.full((n, m), np.nan)

    def add(self, at: np.ndarray, found: Statistics, orient: Orientation) -> None:
        self.values[:, at] = found.values


@dataclass(frozen=True)
class Largest:
    step_down: bool

    def collector(self, n: int, m: int) -> Any:
        return _Whole(n, m) if self.step_down else _Maxima(n)

    def result(self, observed: np.ndarray, collected: Any, orient: Orientation, again: int) -> dict[str, Any]:
        size = orient(observed)
        good = ~np.isnan(size)
        p = np.full(len(size), np.nan)
        if not self.step_down:
            null = collected.null
            p[good] = (exceedances(null, size[good]) + again) / (len(null) + again)
            return {"score": size, "pvalue": p, "null": null}
        values = orient(collected.values)
        null = np.nanmax(values, axis=1, initial=-np.inf)
        order = np.argsort(-np.where(good, size, -np.inf), kind="stable")[: good.sum()]
        left, count = np.full(len(null), -np.inf), np.empty(len(order))
        for k in range(len(order) - 1, -1, -1):
            left = np.fmax(left, values[:, order[k]])
            count[k] = np.sum(left >= size[order[k]] - SAME * abs(size[order[k]]))
        p[order] = np.maximum.accumulate((count + again) / (len(null) + again))
        return {"score": size, "pvalue": p, "null": null}


# -- clusters ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    adjacency: Adjacency
    cut: np.ndarray
    size: bool
    signs: tuple[int, ...]

    def collector(self, n: int, m: int) -> _Whole:
        return _Whole(n, m)

    def find(self, values: np.ndarray, orient: Orientation) -> tuple[np.ndarray, np.ndarray]:
        directed = values if orient.two_sided else orient(values)
        return find_clusters(directed, self.cut, self.adjacency, size=self.size, signs=self.signs)

    def largest(self, values: np.ndarray, orient: Orientation) -> np.ndarray:
        """Of each draw (n, m), (n,)."""
        directed = values if orient.two_sided else orient(values)
        return largest_clusters(directed, self.cut, self.adjacency, size=self.size, signs=self.signs)

    def result(self, observed: np.ndarray, collected: _Whole, orient: Orientation, again: int) -> dict[str, Any]:
        null = self.largest(collected.values, orient)
        label, mass = self.find(observed, orient)
        p = (exceedances(null, np.abs(mass)) + again) / (len(null) + again)
        order = np.lexsort((-np.abs(mass), p))
        number = np.empty(len(mass), dtype=int)
        number[order] = np.arange(1, len(mass) + 1)
        inside = label >= 0
        cluster, score = np.zeros(len(label), dtype=int), np.where(np.isnan(observed), np.nan, 0.0)
        whole = np.where(np.isnan(observed), np.nan, 1.0)
        cluster[inside], score[inside], whole[inside] = (
            number[label[inside]],
            np.abs(mass)[label[inside]],
            p[label[inside]],
        )
        mass = mass if orient.two_sided else orient.sign * mass
        return {
            "score": score, "pvalue": whole, "null": null, "cluster": cluster, "mass": mass[order],
            "cluster_pvalue": p[order], "neighbours": self.adjacency.text,
        }  # fmt: skip


@dataclass(frozen=True)
class Enhanced:
    adjacency: Adjacency
    E: float
    H: float
    start: float
    dh: float | None
    signs: tuple[int, ...]

    def collector(self, n: int, m: int) -> _Whole:
        return _Whole(n, m)

    def find(self, values: np.ndarray, orient: Orientation) -> np.ndarray:
        directed = values if orient.two_sided else orient(values)
        return enhance(directed, self.adjacency, E=self.E, H=self.H, start=self.start, dh=self.dh, signs=self.signs)

    def result(self, observed: np.ndarray, collected: _Whole, orient: Orientation, again: int) -> dict[str, Any]:
        null = np.array([np.nanmax(np.abs(self.find(v, orient)), initial=0.0) for v in collected.values])
        score = self.find(observed, orient)
        p = np.full(len(score), np.nan)
        good = ~np.isnan(score)
        p[good] = (exceedances(null, np.abs(score[good])) + again) / (len(null) + again)
        return {"score": score, "pvalue": p, "null": null, "neighbours": self.adjacency.text}
