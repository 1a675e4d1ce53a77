"""A model written so that what is tested are its last coefficients."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from jaxlmm.design.contrasts import contrast_matrix, contrast_text
from jaxlmm.design.design import Design
from jaxlmm.design.terms import make_terms_structure, type3_contrasts

__all__ = ["Tested", "find_contrast", "make_tested"]


@dataclass(frozen=True, eq=False)
class Tested:
    """A hypothesis L coef = 0 of q rows, and the design in its coordinates.

    Attributes
    ----------
    name : str
    L : ndarray, (q, p)
    design : Design
        The same model, whose last q coefficients are L coef.
    X0 : ndarray, (n_obs, p - q)
        The reduced model: the columns before.
    """

    name: str
    L: np.ndarray
    design: Design
    X0: np.ndarray

    @property
    def q(self) -> int:
        """Number of rows of L."""
        return len(self.L)

    @property
    def X1(self) -> np.ndarray:
        """The tested columns, (n_obs, q)."""
        return self.design.X[:, self.X0.shape[1] :]


def find_contrast(design: Design, tested: Any) -> tuple[str, np.ndarray]:
    """Name and matrix (q, p) of a term, a coefficient, or a contrast as ``Fit.test`` takes it.

    Raises
    ------
    ValueError
        Unknown name, or what ``contrast_matrix`` refuses.
    """
    names = design.names
    if isinstance(tested, str):
        constant = np.flatnonzero((design.X == design.X[0]).all(axis=0)).tolist()
        structure = design.terms or make_terms_structure(None, names, constant)
        terms = type3_contrasts(structure, names)
        if tested in terms:
            return tested, terms[tested]
        if tested in names:
            return tested, np.eye(len(names))[[names.index(tested)]]
        raise ValueError(
            f"{tested!r} is no term and no coefficient of the model; it has the terms {', '.join(terms) or 'none'} "
            f"and the coefficients {', '.join(names)}. A contrast is written as a dict, {{'{names[-1]}': 1}}."
        )
    L, _ = contrast_matrix(tested, 0.0, names, joint=True)
    return " and ".join(contrast_text(row, 0.0, names) for row in L), L


def make_tested(design: Design, name: str, L: np.ndarray) -> Tested:
    """Change coordinates: coefficients q of which can be solved for give way to L coef.

    With J columns such that L_J is invertible, X coef = (X_-J - X_J L_J^-1 L_-J) coef_-J + X_J L_J^-1 (L coef).
    Where L picks coefficients, these are X's own columns.
    """
    q, p = L.shape
    # Pivots relative to the columns' sizes: those that matter most for the fitted values.
    size = np.linalg.norm(design.X, axis=0)
    _, _, order = scipy.linalg.qr(L / size, pivoting=True)
    solved = np.sort(order[:q])
    kept = np.setdiff1d(np.arange(p), solved)
    inverse = np.linalg.inv(L[:, solved])
    X1 = design.X[:, solved] @ inverse
    X0 = design.X[:, kept] - X1 @ L[:, kept]
    names = tuple(design.names[j] for j in kept) + tuple(f"tested {j}" for j in range(q))
    changed = dataclasses.replace(design, X=np.concatenate([X0, X1], axis=1), names=names, terms=None)
    return Tested(name, L, changed, X0)
