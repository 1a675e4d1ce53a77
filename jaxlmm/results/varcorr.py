"""Random effects' parameters as users read them: covariance matrices, standard deviations, correlations, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.design.random import RandomTerm
from jaxlmm.families.parameters import lower_triangle

__all__ = ["RandomEffects", "RandomParameters", "random_parameters"]


@dataclass(frozen=True, eq=False)
class RandomEffects:
    """Conditional modes of one random term for m responses.

    Attributes
    ----------
    name : str
        The grouping factor.
    levels : tuple
    columns : tuple of str, length r
    modes : ndarray, (m, levels, r)
    cov : ndarray, (m, levels, r, r)
        Conditional covariances of a level's effects.
    """

    name: str
    levels: tuple[Any, ...]
    columns: tuple[str, ...]
    modes: np.ndarray
    cov: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Conditional standard deviations, (m, levels, r)."""
        return np.sqrt(np.einsum("mlii->mli", self.cov))


@dataclass(frozen=True, eq=False)
class RandomParameters:
    """Standard deviations and correlations of all random effects; K of them, term by term, in theta's order.

    Named as broom.mixed's ``ran_pars``.

    Attributes
    ----------
    groups : tuple of str, length K
        The factor of each.
    terms : tuple of str, length K
        "sd__(Intercept)", "cor__(Intercept).days".
    values, se : ndarray, (m, K)
        Standard errors by the delta method; NaN where the term's covariance is singular.
    """

    groups: tuple[str, ...]
    terms: tuple[str, ...]
    values: np.ndarray
    se: np.ndarray


def random_parameters(
    random: Sequence[RandomTerm], varcorr: Sequence[np.ndarray], sampling: np.ndarray
) -> RandomParameters:
    """All standard deviations and correlations.

    Parameters
    ----------
    random : sequence of RandomTerm
    varcorr : sequence of ndarray, (m, r, r)
        Covariance matrix of each term.
    sampling : ndarray, (m, k, k)
        Sampling covariance of their lower triangles, by columns, term after term.
    """
    groups: list[str] = []
    terms: list[str] = []
    values: list[np.ndarray] = []
    gradients: list[np.ndarray] = []
    m, k, start = len(sampling), sampling.shape[1], 0
    for term, V in zip(random, varcorr, strict=True):
        rows, columns = lower_triangle(term.size)
        at = {pair: start + n for n, pair in enumerate(zip(rows.tolist(), columns.tolist(), strict=True))}
        start += len(rows)
        sd = np.sqrt(np.einsum("mii->mi", V))
        with np.errstate(divide="ignore", invalid="ignore"):
            for i, a in enumerate(term.columns):
                gradient = np.zeros((m, k))
                gradient[:, at[i, i]] = 1 / (2 * sd[:, i])
                _add(groups, terms, values, gradients, term.name, f"sd__{a}", sd[:, i], gradient)
                for j in range(i + 1, term.size):
                    cor = V[:, j, i] / (sd[:, i] * sd[:, j])
                    gradient = np.zeros((m, k))
                    gradient[:, at[j, i]] = 1 / (sd[:, i] * sd[:, j])
                    gradient[:, at[i, i]] = -cor / (2 * sd[:, i] ** 2)
                    gradient[:, at[j, j]] = -cor / (2 * sd[:, j] ** 2)
                    name = f"cor__{a}.{term.columns[j]}"
                    _add(groups, terms, values, gradients, term.name, name, cor, gradient)
    G = np.stack(gradients, axis=1) if gradients else np.zeros((m, 0, k))
    with np.errstate(invalid="ignore", over="ignore"):
        se = np.sqrt(np.einsum("mks,mst,mkt->mk", G, sampling, G))
    found = np.stack(values, axis=1) if values else np.zeros((m, 0))
    return RandomParameters(tuple(groups), tuple(terms), found, np.where(np.isfinite(se), se, np.nan))


def _add(
    groups: list[str],
    terms: list[str],
    values: list[np.ndarray],
    gradients: list[np.ndarray],
    group: str,
    term: str,
    value: np.ndarray,
    gradient: np.ndarray,
) -> None:
    groups.append(group)
    terms.append(term)
    values.append(value)
    gradients.append(gradient)
