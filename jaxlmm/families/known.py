"""What fits on designs of their own keep for the tests that follow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

__all__ = ["KnownCurves"]


@dataclass(frozen=True, eq=False)
class KnownCurves:
    """What fits on designs of their own have computed for tests of the m responses' coefficients, one by one.

    It holds at ``phi`` (m, k), NaN where nothing is known. Of the coefficients' variances over sigma2 the derivatives
    ``first`` (m, k, p) and ``second`` (m, k, k, p; NaN where only these are not known), of the log-determinant ``l1``
    (m, k) and ``l2`` (m, k, k).
    """

    phi: np.ndarray
    first: np.ndarray
    second: np.ndarray
    l1: np.ndarray
    l2: np.ndarray

    @classmethod
    def empty(cls, m: int, p: int, k: int) -> KnownCurves:
        """Room for m responses, of which nothing is known."""
        shapes = (m, k), (m, k, p), (m, k, k, p), (m, k), (m, k, k)
        return cls(*(np.full(shape, np.nan) for shape in shapes))

    def at(self, where: Any) -> KnownCurves:
        """Those of some responses."""
        return KnownCurves(*(getattr(self, f.name)[where] for f in fields(self)))

    def put(self, where: np.ndarray, some: KnownCurves) -> None:
        """Write those of some responses."""
        for f in fields(self):
            getattr(self, f.name)[where] = getattr(some, f.name)
