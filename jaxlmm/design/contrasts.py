"""Contrasts as users write them -> a checked matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlmm.runtime.arguments import check_concrete, shown

__all__ = ["contrast_matrix", "contrast_text"]

RANK_TOL = 1e-10


def contrast_matrix(L: Any, rhs: Any, names: Sequence[str], *, joint: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``L`` as a (q, p) matrix and ``rhs`` as (q,).

    Parameters
    ----------
    L : array-like, (p,) or (q, p); or mapping of names to weights, or a sequence of mappings
    rhs : float or array-like, (q,)
    names : sequence of str, length p
        Of the fixed effects.
    joint : bool
        The rows are to be tested together, so they must be linearly independent.

    Raises
    ------
    ValueError
        Wrong width, unknown name, non-finite weights, a row of zeros, wrong length of ``rhs``,
        dependent rows if ``joint``.
    """
    check_concrete(L, "L")
    check_concrete(rhs, "rhs")
    if isinstance(L, Mapping):
        L = [L]
    if isinstance(L, Sequence) and len(L) and all(isinstance(row, Mapping) for row in L):
        L = np.stack([_from_mapping(row, names) for row in L])
    p = len(names)
    if isinstance(L, str):
        named = next((name for name in sorted(names, key=len, reverse=True) if name in L), names[-1])
        raise ValueError(
            f"L is the text {L!r}; write the weights as a dict, {{'{named}': 1}}, and what they sum to as rhs=."
        )
    try:
        matrix = np.atleast_2d(np.asarray(L, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"L must hold numbers, or be a dict such as {{'{names[-1]}': 1}} that names effects; found {shown(L)}."
        ) from None
    if matrix.ndim != 2 or matrix.shape[1] != p or not len(matrix):
        raise ValueError(
            f"L must have shape ({p},) or (q, {p}), one weight for each of {', '.join(names)}; found "
            f"{np.shape(L)}. A dict such as {{'{names[-1]}': 1}} names the effects instead."
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"L holds NaN or infinity in row {np.argwhere(~np.isfinite(matrix))[0, 0]}.")
    zero = np.flatnonzero(~matrix.any(axis=1))
    if len(zero):
        raise ValueError(f"row {zero[0]} of L is all zero, which tests nothing; remove it.")
    try:
        values = np.asarray(rhs, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array(np.nan)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(matrix)) or not np.isfinite(values).all():
        raise ValueError(
            f"rhs must be one finite number, or one for each of the {len(matrix)} rows of L; found {shown(rhs)}."
        )
    if joint:
        singular = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), compute_uv=False)
        rank = int(np.sum(singular > RANK_TOL * singular[0]))
        if rank < len(matrix):
            raise ValueError(
                f"the {len(matrix)} rows of L are linearly dependent (rank {rank}), so they cannot be tested "
                "together; remove those that follow from the others."
            )
    return matrix, np.broadcast_to(values, len(matrix)).copy()


def _from_mapping(row: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    unknown = [str(name) for name in row if name not in names]
    if unknown:
        raise ValueError(f"L names {', '.join(map(repr, unknown))}, but the fixed effects are {', '.join(names)}.")
    weights = np.zeros(len(names))
    for name, weight in row.items():
        try:
            weights[list(names).index(name)] = weight
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"L gives {shown(weight)} for {name!r}; give a number.") from None
    return weights


def contrast_text(weights: np.ndarray, value: float, names: Sequence[str]) -> str:
    """A contrast as it is written by hand, "a - 0.5 b = 2"; without its value if that is 0."""
    parts = []
    for weight, name in zip(weights, names, strict=True):
        if weight:
            sign = "-" if weight < 0 else "+"
            parts.append(f"{sign} {name}" if abs(weight) == 1 else f"{sign} {abs(weight):.4g} {name}")
    text = " ".join(parts)
    text = text.removeprefix("+ ") if weights[weights != 0][0] > 0 else f"-{text[2:]}"
    return text if value == 0 else f"{text} = {value:.6g}"
