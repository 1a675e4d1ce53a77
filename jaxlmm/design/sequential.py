"""The hypotheses of type I and type II tables, from the columns of X.

With X = Q R, row i of R over its diagonal is the contrast of the coefficients whose sum of squares column i adds to
that of the columns before it (Doolittle's factor of X'X). A term's rows of it, with its columns last but for those of
the terms that contain it, are its type II hypothesis; with the columns in their order, type I (The GLM Procedure,
"The Four Types of Estimable Functions"). A term that no other contains has its own columns, as lmerTest has it;
weights and random effects play no part.

Where the intercept and one term are all there is, the three types are one hypothesis. Its rows are type I's then, as
lmerTest's: Satterthwaite's denominators depend on the rows that span a hypothesis.
"""

from __future__ import annotations

import numpy as np

from jaxlmm.design.terms import Term, TermStructure, containing

__all__ = ["is_alone", "type12_contrasts"]

# What rounding leaves of a zero.
ZERO = 1e-12


def is_alone(structure: TermStructure) -> bool:
    """Whether the design has the intercept and one term, and nothing else."""
    return [term.tested for term in structure.terms] == [False, True]


def type12_contrasts(structure: TermStructure, X: np.ndarray, kind: int) -> dict[str, np.ndarray]:
    """The hypothesis matrix of each tested term, (q, p), of type ``kind``, 1 or 2."""
    tested = [term for term in structure.terms if term.tested and term.columns]
    if kind == 1 or is_alone(structure):
        whole = _doolittle(X)
        return {term.name: whole[list(term.columns)] for term in tested}
    return {term.name: _type2(term, structure, X) for term in tested}


def _type2(term: Term, structure: TermStructure, X: np.ndarray) -> np.ndarray:
    outer = containing(term, structure)
    p, own = X.shape[1], list(term.columns)
    if not outer:
        return np.eye(p)[own]
    last = [j for other in outer for j in other.columns]
    order = [j for j in range(p) if j not in own and j not in last] + own + last
    L = np.zeros((len(own), p))
    L[:, order] = _doolittle(X[:, order])[[order.index(j) for j in own]]
    return L


def _doolittle(X: np.ndarray) -> np.ndarray:
    """Unit upper triangle of the columns of X."""
    scale = np.linalg.norm(X, axis=0)
    R = np.linalg.qr(X / scale, mode="r")
    R = R / np.diag(R)[:, None]
    return np.asarray(np.where(np.abs(R) < ZERO, 0.0, R) / scale[:, None] * scale)
