"""Rows that are left out of a design because a covariate, a group or a weight is missing, as lme4 leaves them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.design.arrays import numeric
from jaxlmm.design.groups import labels_of, missing_labels
from jaxlmm.design.random import RandomTerm

__all__ = ["DroppedRows", "Matrices", "complete_matrices", "dropped_rows", "taken"]

# Columns that a message names.
NAMED = 4


@dataclass(frozen=True, eq=False)
class DroppedRows:
    """Which rows of what was given are not in the design.

    Attributes
    ----------
    rows : ndarray of int
        Their positions among those given, sorted.
    n_given : int
        How many were given.
    missing : tuple of (str, int)
        The columns that miss values, and in how many rows.
    """

    rows: np.ndarray
    n_given: int
    missing: tuple[tuple[str, int], ...]

    @property
    def kept(self) -> np.ndarray:
        """Positions of the rows of the design among those given."""
        return np.delete(np.arange(self.n_given), self.rows)

    @property
    def why(self) -> str:
        """What is missing, as "age in 2, subject in 1"."""
        listed = [f"{name} in {count}" for name, count in self.missing[:NAMED]]
        return ", ".join([*listed, *([f"{len(self.missing) - NAMED} more"] if len(self.missing) > NAMED else [])])

    @property
    def note(self) -> str:
        """A sentence for summaries."""
        return f"{len(self.rows)} of {self.n_given} rows dropped, in which values are missing ({self.why})"

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the rows of the design (n_obs, ...) at all rows given, NaN at those that were dropped."""
        found = np.full((self.n_given, *values.shape[1:]), np.nan)
        found[self.kept] = values
        return found


def dropped_rows(n: int, missing: Mapping[str, np.ndarray]) -> DroppedRows | None:
    """The rows in which any column is missing; None if there are none.

    Parameters
    ----------
    n : int
        Rows given.
    missing : mapping of str to ndarray of bool, (n,)

    Raises
    ------
    ValueError
        No row is left.
    """
    counts = {name: int(mask.sum()) for name, mask in missing.items()}
    if not any(counts.values()):
        return None
    rows = np.flatnonzero(np.logical_or.reduce(list(missing.values())))
    found = DroppedRows(rows, n, tuple((name, count) for name, count in counts.items() if count))
    if len(rows) == n:
        raise ValueError(
            f"all {n} rows miss a value ({found.why}), so there is nothing to fit; leave such a column out of the "
            "model, or fill it."
        )
    return found


@dataclass(frozen=True, eq=False)
class Matrices:
    """What a design is made of, without the rows ``dropped``."""

    X: Any
    groups: Any
    random: Any
    weights: Any
    dropped: DroppedRows | None = None


def complete_matrices(given: Matrices, names: Sequence[str] | None = None) -> Matrices:
    """The rows in which nothing is missing; what has another length or shape is left for others to refuse."""
    X = numeric(given.X, "X")
    if X.ndim != 2:
        return given
    n = len(X)
    missing: dict[str, np.ndarray] = {}
    called = names if names is not None else getattr(given.X, "columns", None)
    called = [str(c) for c in called] if called is not None else [f"x{j}" for j in range(X.shape[1])]
    if len(called) == X.shape[1]:
        missing |= {name: np.isnan(X[:, j].astype(np.float64)) for j, name in enumerate(called)}
    labels = {} if given.groups is None else {str(getattr(given.groups, "name", None) or "groups"): given.groups}
    random = given.random if isinstance(given.random, (list, tuple)) else ()
    labels |= {f"random[{k}]": one for k, one in enumerate(random) if not isinstance(one, RandomTerm)}
    missing |= {name: missing_labels(labels_of(one, "groups")) for name, one in labels.items()}
    if given.weights is not None:
        missing["weights"] = np.isnan(np.asarray(numeric(given.weights, "weights"), dtype=np.float64))
    if any(mask.shape != (n,) for mask in missing.values()):
        return given
    found = dropped_rows(n, missing)
    if found is None:
        return given
    kept = found.kept
    terms = [one.take(kept) if isinstance(one, RandomTerm) else taken(one, kept) for one in random]
    return dataclasses.replace(
        given, X=taken(given.X, kept), groups=taken(given.groups, kept),
        random=terms if random else given.random, weights=taken(given.weights, kept), dropped=found,
    )  # fmt: skip


def taken(values: Any, rows: np.ndarray) -> Any:
    """Some rows of an array, a data frame, a column or a list; None for None."""
    if values is None:
        return None
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if isinstance(values, (list, tuple)):
        return [values[i] for i in rows]
    return values[rows] if hasattr(values, "dtype") else np.asarray(values)[rows]
