"""Columns split by group: their means, and what is left of them within groups."""

from __future__ import annotations

import numpy as np
import scipy.sparse

__all__ = ["centred_within"]


def centred_within(
    X: np.ndarray, codes: np.ndarray, n_groups: int, root_w: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted group means (G, p) of the columns of X (n_obs, p), and X less these, rows times ``root_w``.

    Differences to the group's first row are formed first: they are exactly 0 for a covariate that is
    constant within groups.
    """
    n = len(X)
    w = np.ones(n) if root_w is None else root_w**2
    first = np.empty(n_groups, dtype=np.intp)
    first[codes[::-1]] = np.arange(n)[::-1]  # the last one written stays: each group's first row
    delta = X - X[first[codes]]
    indicator = scipy.sparse.csr_array((w, (codes, np.arange(n))), shape=(n_groups, n))
    delta_mean = (indicator @ delta) / np.bincount(codes, weights=w, minlength=n_groups)[:, None]
    within = delta - delta_mean[codes]
    return X[first] + delta_mean, within if root_w is None else root_w[:, None] * within
