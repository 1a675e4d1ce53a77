"""Which columns of X make a term, how its factors are coded, and the hypotheses of type III tests.

The coefficients that multiply one product of covariates (none, ``age``, ...) form a table over the
levels of the factors they interact with. The type III hypothesis of a term T is about the table of
T's factors, averaged with equal weights over the levels of every factor that a term containing T
adds: there, the part that T itself codes is zero. A term S contains T if it has T's factors, the
same covariates, and at least one more factor. This is the definition of SAS (The GLM Procedure,
"The Four Types of Estimable Functions", for designs without empty cells) and of lmerTest's
``anova`` (Kuznetsova, Brockhoff & Christensen 2017, J Stat Softw 82(13)), whatever the coding.

Where lmerTest's answer depends on how a model is written (``a/b`` or ``0 + a*b``: it tests at the reference
level of b, or that all means are zero), the hypothesis is that of emmeans' ``joint_tests``: the means of a,
averaged over b, are equal. It is the same with the intercept and without. Covariates count from zero, as in
lmerTest: the test of a in ``a*x`` is about x = 0.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Factor", "Part", "Term", "TermStructure", "containing", "make_terms_structure", "type3_contrasts"]

# Columns by these names, in any case, are the intercept: not tested unless a user's term names them.
INTERCEPT_NAMES = {"(intercept)", "intercept", "const", "constant"}
# A function of the levels whose part outside the span of others is relatively smaller lies in it.
SPAN_TOL = 1e-8


@dataclass(frozen=True, eq=False)
class Factor:
    """A variable of a term; ``levels`` is None for a covariate (which may have several columns)."""

    name: str
    levels: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Columns of X that are products of the columns of some codings, the first varying fastest.

    ``codings`` pairs the name of a factor with its (n_levels, k) matrix. The columns of a covariate
    count as its levels: k columns have the identity, (k, k), or what is left of it where a basis
    that spans the constant gives one up.
    """

    columns: tuple[int, ...]
    codings: tuple[tuple[str, np.ndarray], ...]


@dataclass(frozen=True, eq=False)
class Term:
    """The columns that are tested together.

    ``parts`` is empty where the coding is not known. ``tested`` is False for the intercept.
    """

    name: str
    columns: tuple[int, ...]
    factors: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    tested: bool = True


@dataclass(frozen=True, eq=False)
class TermStructure:
    """All terms of a design, in order, and the factors they are made of.

    Raises
    ------
    ValueError
        The terms do not share out the columns 0 ... p - 1, or a part does not fit its codings.
    """

    terms: tuple[Term, ...]
    factors: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        columns = sorted(j for term in self.terms for j in term.columns)
        if columns != list(range(len(columns))):
            raise ValueError(f"the terms must share out the columns of X, each in one term; found columns {columns}.")
        for term in self.terms:
            fits = all(len(part.columns) == np.prod([c.shape[1] for _, c in part.codings]) for part in term.parts)
            own = sorted(j for part in term.parts for j in part.columns)
            if term.parts and not (fits and own == sorted(term.columns)):
                raise ValueError(f"the codings of term '{term.name}' do not make its columns {term.columns}.")

    @property
    def n_columns(self) -> int:
        """Number of columns of X."""
        return sum(len(term.columns) for term in self.terms)

    def keep(self, kept: Sequence[int]) -> TermStructure:
        """Of the columns ``kept`` alone; the coding of a term that loses columns is not known any more."""
        place = {j: i for i, j in enumerate(kept)}
        made = []
        for term in self.terms:
            whole = all(j in place for j in term.columns)
            parts = tuple(Part(tuple(place[j] for j in part.columns), part.codings) for part in term.parts if whole)
            columns = tuple(place[j] for j in term.columns if j in place)
            if columns:
                made.append(Term(term.name, columns, term.factors, parts, term.tested))
        return TermStructure(tuple(made), self.factors)


def make_terms_structure(terms: Any, names: Sequence[str], constant: Sequence[int] = ()) -> TermStructure:
    """Terms as a user writes them -> a checked structure, without coding of factors.

    Parameters
    ----------
    terms : mapping of str to column, or to sequence of columns; TermStructure; or None
        Columns are names or positions. Columns not mentioned are terms of their own. A
        TermStructure is checked against ``names`` and returned.
    names : sequence of str, length p
        Of the columns of X.
    constant : sequence of int
        Columns of X that are constant. They, and columns called ``(Intercept)``, ``Intercept``,
        ``const`` or ``constant``, are not tested unless ``terms`` mentions them.

    Raises
    ------
    ValueError
        Unknown columns, a column in two terms, a term without columns or with another column's
        name.
    """
    names = list(names)
    if isinstance(terms, TermStructure):
        if terms.n_columns != len(names):
            raise ValueError(f"terms describes {terms.n_columns} columns, X has {len(names)}.")
        return terms
    if terms is None:
        terms = {}
    if not isinstance(terms, Mapping):
        raise ValueError(
            f"terms must map names of terms to columns of X, such as {{'A': ['{names[0]}']}}; found {terms!r:.60}."
        )
    owner: dict[int, str] = {}
    made: list[Term] = []
    for key, value in terms.items():
        single = isinstance(value, (str, numbers.Integral)) or not hasattr(value, "__iter__")
        columns = tuple(_column(v, str(key), names) for v in ([value] if single else value))
        if not columns:
            raise ValueError(f"term {str(key)!r} has no columns; leave it out.")
        for j in columns:
            if j in owner:
                raise ValueError(f"column '{names[j]}' is in terms {owner[j]!r} and {str(key)!r}; put it in one.")
            owner[j] = str(key)
        made.append(Term(str(key), columns))
    rest = [j for j in range(len(names)) if j not in owner]
    for j in rest:
        if names[j] in owner.values():
            raise ValueError(f"term '{names[j]}' has the name of a column that is not in it; rename the term.")
        made.append(Term(names[j], (j,), tested=j not in constant and names[j].lower() not in INTERCEPT_NAMES))
    return TermStructure(tuple(sorted(made, key=lambda term: min(term.columns))))


def type3_contrasts(structure: TermStructure, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The hypothesis matrix of each tested term, (q, p), for ``F`` tests of L coef = 0.

    Terms whose coding is known get the type III hypothesis (see the module's docstring), whose rows
    are the term's coefficients in treatment coding, as lmerTest's; the others the identity rows of
    their columns.

    Raises
    ------
    ValueError
        ``names`` does not have one name per column; a term contains another and its coding is not
        known.
    """
    if len(names) != structure.n_columns:
        raise ValueError(f"the terms describe {structure.n_columns} columns, but there are {len(names)} names.")
    identity = np.eye(len(names))
    covariates = {factor.name for factor in structure.factors if factor.levels is None}
    out: dict[str, np.ndarray] = {}
    for term in structure.terms:
        if not term.tested or not term.columns:
            continue
        outer = containing(term, structure)
        if term.parts and all(s.parts for s in outer):
            out[term.name] = _hypothesis(term, outer, structure, covariates)
        elif outer:
            raise ValueError(
                f"term '{term.name}' is part of '{outer[0].name}', of which some combination of levels has no row "
                "(or whose coding is not known), so there is no type III test: what SAS and lmerTest call so does "
                "not compare means then, but mixtures of cells that depend on which are filled. Use joint_tests(), "
                "which tests what the data determine, anova(type=2), or contrasts of the means that there are."
            )
        else:
            out[term.name] = identity[list(term.columns)]
    return out


def containing(term: Term, structure: TermStructure) -> list[Term]:
    """The terms that contain a term: its factors and more, with the same covariates."""
    covariates = {factor.name for factor in structure.factors if factor.levels is None}
    own = set(term.factors)
    return [s for s in structure.terms if own < set(s.factors) and not (set(s.factors) - own) & covariates]


def _hypothesis(term: Term, containing: list[Term], structure: TermStructure, covariates: set[str]) -> np.ndarray:
    """Coefficients of ``term`` in the table of its factors, averaged over those that ``containing`` adds."""
    own, added = set(term.factors), {name for s in containing for name in s.factors}
    sizes = {name: len(coding) for part in term.parts for name, coding in part.codings}
    shape = [sizes[name] for name in term.factors]
    cells = dict(zip(term.factors, np.indices(shape).reshape(len(shape), -1), strict=True))
    n_cells = int(np.prod(shape))
    table = np.zeros((n_cells, structure.n_columns))
    others: list[Term] = []
    for s in structure.terms:
        inside = set(s.factors) <= own | added and set(s.factors) & covariates == own & covariates
        if not (inside and s.parts):
            continue
        for part in s.parts:
            table[:, list(part.columns)] = _cell_rows(part, cells, n_cells)
        if s is not term and s not in containing:
            others.append(s)
    coded = table[:, list(term.columns)]
    # Means are compared, whether the intercept is written or not: that all are alike is what is left.
    constant = not own & covariates and not any(not t.factors for t in structure.terms)
    # Take out what terms beside it say about the table, where that is not what the term itself says.
    basis, outside = np.linalg.qr(coded)[0], np.zeros((n_cells, 0))
    for column in table[:, [j for s in others for j in s.columns]].T:
        fresh = column - basis @ (basis.T @ column)
        if np.linalg.norm(fresh) > SPAN_TOL * np.linalg.norm(column):
            basis = np.column_stack([basis, fresh / np.linalg.norm(fresh)])
            outside = np.column_stack([outside, column])
    Q = np.linalg.qr(outside)[0]
    ones = np.ones(n_cells) - Q @ Q.sum(axis=0)
    if constant and np.linalg.norm(ones) > SPAN_TOL * np.sqrt(n_cells):
        Q = np.column_stack([Q, ones / np.linalg.norm(ones)])
    table -= Q @ (Q.T @ table)
    own_part = table[:, list(term.columns)]
    # Satterthwaite's df depend on the rows that span the hypothesis: take those of treatment coding.
    treatment = np.column_stack(
        [_cell_rows(Part(part.columns, _in_treatment_coding(part)), cells, n_cells) for part in term.parts]
    )
    treatment -= Q @ (Q.T @ treatment)
    treatment, own_part = (_independent(columns) if constant else columns for columns in (treatment, own_part))
    found = np.linalg.lstsq(treatment, own_part, rcond=None)[0] if treatment.shape == own_part.shape else None
    same = found is not None and np.allclose(treatment @ found, own_part, atol=SPAN_TOL * np.abs(own_part).max())
    L = np.asarray(np.linalg.lstsq(treatment if same else own_part, table, rcond=None)[0])
    nearest = np.round(L)
    return np.where(np.abs(L - nearest) < 1e-12 * np.abs(L).max(), nearest, L)


def _independent(columns: np.ndarray) -> np.ndarray:
    """The last of the columns that span the same space."""
    kept: list[np.ndarray] = []
    basis = np.zeros((len(columns), 0))
    for column in columns.T[::-1]:
        fresh = column - basis @ (basis.T @ column)
        if np.linalg.norm(fresh) > SPAN_TOL * max(float(np.linalg.norm(column)), SPAN_TOL):
            basis = np.column_stack([basis, fresh / np.linalg.norm(fresh)])
            kept.insert(0, column)
    return np.column_stack(kept) if kept else columns[:, :0]


def _in_treatment_coding(part: Part) -> tuple[tuple[str, np.ndarray], ...]:
    """Codings of the same functions of the levels, up to a constant; those of part of them as they are."""
    return tuple((name, _treatment(coding)) for name, coding in part.codings)


def _treatment(coding: np.ndarray) -> np.ndarray:
    n, k = coding.shape
    with_constant = coding if k == n else np.column_stack([np.ones(n), coding])
    whole = with_constant.shape == (n, n) and np.linalg.matrix_rank(with_constant) == n
    return np.eye(n)[:, n - k :] if whole else coding


def _cell_rows(part: Part, cells: Mapping[str, np.ndarray], n_cells: int) -> np.ndarray:
    """The part's columns at each cell, averaged over the factors that the cells do not tell, (n_cells, k)."""
    rows = np.ones((n_cells, 1))
    for name, coding in part.codings:
        own = (
            coding[cells[name]] if name in cells else np.broadcast_to(coding.mean(axis=0), (n_cells, coding.shape[1]))
        )
        rows = (own[:, :, None] * rows[:, None, :]).reshape(n_cells, -1)
    return rows


def _column(value: Any, term: str, names: list[str]) -> int:
    """Position of a column given by name or position."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if not -len(names) <= int(value) < len(names):
            raise ValueError(f"term {term!r} has column {value}, but X has {len(names)} columns.")
        return int(value) % len(names)
    if value not in names:
        raise ValueError(f"term {term!r} has column {value!r}, but the columns of X are {', '.join(names)}.")
    return names.index(value)
