"""What a permutation test found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.resampling.corrections import SAME
from jaxlmm.resampling.schemes import Scheme
from jaxlmm.runtime.extras import extra
from jaxlmm.runtime.pictures import Pictured
from jaxlmm.tabular.labels import Labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PermutationTest"]

LARGEST = {"max": "statistic", "cluster": "cluster", "tfce": "enhanced statistic"}


@dataclass(frozen=True, eq=False, repr=False)
class PermutationTest(Tabular, Pictured):
    """Permutation test of one hypothesis for m responses; what :func:`permutation_test` returns.

    Attributes
    ----------
    name : str
        What is tested.
    kind : {"max", "cluster", "tfce"}
    tail : {"two-sided", "greater", "less"}
    statistic : ndarray, (m,)
        Of the data: t of one coefficient, F of several. NaN where the response has no fit.
    score : ndarray, (m,)
        What is compared with ``null``: the statistic (its size, if two-sided), the mass of the response's cluster (0
        outside), or the enhanced statistic.
    pvalue_corrected : ndarray, (m,)
        Corrected over all responses: the share of draws whose largest score is at least the response's.
    pvalue : ndarray, (m,)
        Of the response alone, not corrected.
    null : ndarray, (n,)
        The largest score of each draw.
    n : int
        Number of draws; where ``exhaustive`` all that there are, the data themselves among them.
    exhaustive, step_down : bool
    scheme : Scheme
        What was drawn: ``scheme.kind``, and ``scheme.text`` in words.
    neighbours : str
        Of clusters and enhancement: which responses are neighbours.
    cluster : ndarray of int, (m,)
        The number of the response's cluster, from 1; 0 outside.
    mass, size, cluster_pvalue : ndarray, (clusters,)
        Of each cluster: sum of statistics or number of responses (negative below), responses, corrected p-value.
    n_singular, n_failed : ndarray of int, (m,)
        Draws whose refit has a singular covariance (kept), and those without a fit (left out).
    """

    name: str
    kind: str
    tail: str
    statistic: np.ndarray
    score: np.ndarray
    pvalue_corrected: np.ndarray
    pvalue: np.ndarray
    null: np.ndarray
    n: int
    exhaustive: bool
    scheme: Scheme
    letter: str
    neighbours: str = ""
    cluster: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    mass: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cluster_pvalue: np.ndarray = field(default_factory=lambda: np.zeros(0))
    n_singular: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    n_failed: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    step_down: bool = False

    @property
    def size(self) -> np.ndarray:
        """Number of responses of each cluster."""
        return np.bincount(self.cluster, minlength=len(self.mass) + 1)[1:]

    def critical(self, alpha: float = 0.05) -> float:
        """The smallest score that is significant at ``alpha``, corrected over all responses.

        Infinity where no score can be, with fewer than 1 / alpha draws. Of ``step_down`` that of the first step:
        later ones may find smaller scores significant.
        """
        ordered = np.sort(self.null)[::-1]
        # With the data as one more draw, p = (1 + draws at least as large) / (n + 1).
        allowed = (
            int(np.floor(alpha * self.n + SAME))
            if self.exhaustive
            else int(np.floor(alpha * (self.n + 1) + SAME)) - 1
        )
        if allowed < (1 if self.exhaustive else 0):
            return np.inf
        if allowed == len(ordered):
            return -np.inf
        last = ordered[allowed]  # and scores that differ from it by rounding are not significant
        return float(np.nextafter(last / (1 - SAME * np.sign(last)), np.inf))

    def clusters(self) -> pd.DataFrame:
        """A row for each cluster, the largest first. Needs pandas.

        Columns ``cluster``, ``size`` (responses), ``mass``, ``p.corrected``, the statistic and the labels of its
        peak, and for each dimension its extent: first and last label, or how many labels where they have no order.
        """
        pd = extra("pandas", "tables")
        labels = self.responses or Labels.of_matrix(len(self.statistic))
        keys = {name: np.asarray(values) for name, values in labels.keys.items()}
        rows: list[dict[str, Any]] = []
        for number, (mass, p) in enumerate(zip(self.mass, self.cluster_pvalue, strict=True), start=1):
            at = np.flatnonzero(self.cluster == number)
            peak = at[np.argmax(np.abs(self.statistic[at]))]
            row = {"cluster": number, "size": len(at), "mass": mass, "p.corrected": p, "peak": self.statistic[peak]}
            for name, values in keys.items():
                row[f"peak {name}"] = values[peak]
            for name, values in keys.items():
                if values.dtype.kind in "iufmM":
                    row[f"{name} from"], row[f"{name} to"] = values[at].min(), values[at].max()
                else:
                    row[f"n {name}"] = len(set(values[at].tolist()))
            rows.append(row)
        columns = ["cluster", "size", "mass", "p.corrected", "peak"]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)

    def _table(self, level: float) -> Table:
        columns = {"statistic": self.statistic, "pvalue": self.pvalue}
        if self.kind != "max":
            columns["score"] = self.score
        columns["pvalue_corrected"] = self.pvalue_corrected
        if self.kind == "cluster":
            columns["cluster"] = self.cluster
        alpha = 1 - level
        count = int(np.sum(self.pvalue_corrected <= alpha + SAME))
        notes = [
            self.scheme.text[0].upper() + self.scheme.text[1:],
            f"{self.n} draws{', all there are' if self.exhaustive else ''}; the model was fitted to each.",
            f"P (corrected) is by the largest {LARGEST[self.kind]}: {count} responses at {alpha:.4g} or below"
            + (", step by step." if self.step_down else f", from a score of {self.critical(alpha):.4g} on."),
        ]
        if self.kind == "cluster":
            found = int(np.sum(self.cluster_pvalue <= alpha + SAME))
            notes.append(f"{len(self.mass)} clusters, {found} of them with P of {alpha:.4g} or below.")
        if self.neighbours:
            notes.append(f"Neighbours: {self.neighbours}.")
        absent = int(np.isnan(self.statistic).sum())
        if absent:
            notes.append(f"{absent} responses have no fit and were left out.")
        total = self.n * (len(self.n_singular) - absent)
        if self.n_singular.any() or self.n_failed.any():
            notes.append(
                f"Of {total} refits {self.n_singular.sum()} were singular (kept), {self.n_failed.sum()} failed (left "
                "out)."
            )
        return Table(
            f"Permutation test of {self.name}, {self.tail}", {}, columns, {"statistic": self.letter}, tuple(notes)
        )
