"""Sums over groups of responses that have observations, or weights, of their own: two passes over a panel.

Rows are taken group by group, a few at a time, so that what is made of them stays in a cache: conversion, weights,
and the sums of a few groups as one product of small matrices. Groups of few rows are summed row by row.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["GroupSums", "Panel"]

# Rows that are taken together.
BLOCK_ROWS = 64
# Rows in which the first value is looked for at a time.
FIRST_ROWS = 16
# With fewer rows a group than this, on average, a product would mostly multiply zeros.
LEAST_DENSE = 8
# Missing values of such a share of all are no longer replaced one by one.
MANY = 0.04
# Weights within [1 / WIDE, WIDE] of which FACTORS are multiplied before a logarithm is taken.
WIDE, FACTORS = 1e35, 8


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows: where they are in Y, the groups that they belong to, and the columns B there.

    ``both`` (k + pw, rows) are the indicators of the k groups, and B. ``products``: these, the indicators times each
    column of B (column by column), and the products of pairs of columns. Where ``starts`` (of each group) are given,
    the parts of groups are left out of both.
    """

    at: slice | np.ndarray
    groups: slice
    both: np.ndarray
    products: np.ndarray
    starts: np.ndarray | None
    codes: np.ndarray

    @classmethod
    def make(cls, at: Any, codes: np.ndarray, B: np.ndarray, pairs: np.ndarray, dense: bool) -> _Rows:
        first = int(codes[0]) if len(codes) else 0
        k = int(codes[-1]) - first + 1 if len(codes) else 0
        within = codes - first
        groups = slice(first, first + k)
        if not dense:
            starts = np.searchsorted(within, np.arange(k))
            return cls(at, groups, np.ascontiguousarray(B.T), np.ascontiguousarray(pairs.T), starts, within)
        Z = np.zeros((k, len(B)))
        Z[within, np.arange(len(within))] = 1.0
        by_column = [Z * B[:, c] for c in range(B.shape[1])]
        return cls(at, groups, np.concatenate([Z, B.T]), np.concatenate([Z, *by_column, pairs.T]), None, within)

    def add_sums(self, y: np.ndarray, by_group: np.ndarray, onto: np.ndarray) -> None:
        """Add sums of y (rows, c): of the groups to (G, c), and its products with B to (pw, c)."""
        if self.starts is not None:
            by_group[self.groups] += np.add.reduceat(y, self.starts, axis=0)
            onto += self.both @ y
            return
        found, k = self.both @ y, self.groups.stop - self.groups.start
        by_group[self.groups] += found[:k]
        onto += found[k:]

    def add_weights(self, w: np.ndarray, N: np.ndarray, columns: np.ndarray, pairs: np.ndarray) -> None:
        """Add sums of weights w (rows, c) to N (G, c), times the columns of B (pw, G, c), times pairs of columns."""
        if self.starts is not None:
            N[self.groups] += np.add.reduceat(w, self.starts, axis=0)
            for column, values in zip(columns, self.both, strict=True):
                column[self.groups] += np.add.reduceat(values[:, None] * w, self.starts, axis=0)
            pairs += self.products @ w
            return
        found, k, pw = self.products @ w, self.groups.stop - self.groups.start, len(columns)
        N[self.groups] += found[:k]
        columns[:, self.groups] += found[k : k * (1 + pw)].reshape(pw, k, w.shape[1])
        pairs += found[k * (1 + pw) :]

    def fitted(self, level: np.ndarray, coef: np.ndarray) -> np.ndarray:
        """Levels of the groups (G, c) and B coef, (rows, c)."""
        if self.starts is not None:
            return np.asarray(level[self.groups][self.codes] + self.both.T @ coef)
        return np.asarray(self.both.T @ np.concatenate([level[self.groups], coef]))


@dataclass(frozen=True, eq=False)
class GroupSums:
    """Rows of a design group by group, and the columns B (n_obs, pw) on them; ``weights`` are those of the design."""

    blocks: tuple[_Rows, ...]
    n_obs: int
    n_groups: int
    n_columns: int
    weights: np.ndarray | None

    @classmethod
    def make(cls, codes: np.ndarray, n_groups: int, B: np.ndarray, weights: np.ndarray | None) -> GroupSums:
        """Of ``codes`` (n_obs,), which are of no matter without groups."""
        n, pw = B.shape
        order = np.argsort(codes, kind="stable")
        is_sorted = bool(np.all(order == np.arange(n)))
        dense, blocks = n >= LEAST_DENSE * n_groups, []
        i, j = np.tril_indices(pw)
        ordered = B[order]
        pairs = ordered[:, i] * ordered[:, j]
        for start in range(0, n, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, n))
            at = rows if is_sorted else order[rows]
            own = codes[order[rows]] if n_groups else np.zeros(0, dtype=np.intp)
            blocks.append(_Rows.make(at, own, ordered[rows], pairs[rows], dense or not n_groups))
        return cls(tuple(blocks), n, n_groups, pw, weights)

    def read(self, Y: np.ndarray, W: np.ndarray | None, *, shifted: bool) -> Panel:
        """The first pass over responses Y (n_obs, c), NaN where they are missing, with weights W of their own or not.

        ``shifted``: they are taken relative to their first value.
        """
        c, G, pw = Y.shape[1], self.n_groups, self.n_columns
        shift = _first_values(Y) if shifted else np.zeros(c)
        source = _Source(Y, W, shift, self.weights)
        panel = Panel(
            self, source, shift, np.zeros((G, c)), np.zeros((pw, G, c)), np.zeros((pw * (pw + 1) // 2, c)),
            np.zeros((G, c)), np.zeros((pw, c)), np.zeros(c), np.full(c, len(Y)), *np.zeros((3, c)),
        )  # fmt: skip
        low, high = np.zeros(c), np.zeros(c)
        for block in self.blocks:
            y, w, absent = source.rows(block)
            if absent is not None:
                panel.n_used[:] -= np.add.reduce(absent.view(np.uint8), axis=0, dtype=np.uint8)  # BLOCK_ROWS at most
            if W is not None:
                panel.log_w[:] += _log_sums(w, absent)
            elif self.weights is not None:
                there = 1.0 if absent is None else ~absent
                panel.log_w[:] += np.sum(np.log(self.weights[block.at])[:, None] * there, axis=0)
            np.minimum(low, y.min(axis=0), out=low)
            np.maximum(high, y.max(axis=0), out=high)
            block.add_weights(w, panel.N, panel.columns, panel.pairs)
            wy = source.times(w, y)
            panel.squares[:] += np.einsum("ij,ij->j", wy, y)
            block.add_sums(wy, panel.by_group, panel.onto)
            if not G:
                panel.weight[:] += w.sum(axis=0)
        # 0, where nothing is missing but the first value is taken off, stands for that value.
        panel.largest[:] = np.maximum(np.abs(high + panel.shift), np.abs(low + panel.shift))
        if G:
            panel.weight[:] = panel.N.sum(axis=0)
        return panel


@dataclass(frozen=True, eq=False)
class _Source:
    """Responses Y (n_obs, c) with weights W of their own, or ``weights`` (n_obs,) of the design, or none.

    A few rows at a time they are converted, once more for each pass: all rows would not stay in a cache.
    """

    Y: np.ndarray
    W: np.ndarray | None
    shift: np.ndarray
    weights: np.ndarray | None

    @property
    def plain(self) -> bool:
        """Whether the weights are all 0 or 1."""
        return self.W is None and self.weights is None

    @functools.cached_property
    def _room(self) -> tuple[np.ndarray, np.ndarray]:
        """Memory for a few rows, which stays in a cache."""
        shape = BLOCK_ROWS, self.Y.shape[1]
        return np.empty((3, *shape)), np.empty(shape, dtype=bool)

    def take(self, where: np.ndarray) -> _Source:
        """Some of the responses."""
        return _Source(
            self.Y[:, where], None if self.W is None else self.W[:, where], self.shift[where], self.weights
        )

    def rows(self, block: _Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Some rows of y less ``shift``, and their weights, both 0 where an observation is missing; where that is,
        or None. They hold until other rows are asked for."""
        numbers, flags = self._room
        n = block.both.shape[1]
        y, w = numbers[0, :n], numbers[1, :n]
        np.subtract(self.Y[block.at], self.shift, out=y)
        absent = np.isnan(y, out=flags[:n])
        share = np.count_nonzero(absent) / max(absent.size, 1)
        some = share > 0
        if share > MANY:
            # The larger and the smaller of y and 0 are numbers where y is not: no branch to be guessed wrong.
            np.add(np.fmax(y, 0.0, out=numbers[2, :n]), np.fmin(y, 0.0, out=y), out=y)
        elif some:
            np.copyto(y, 0.0, where=absent)
        if self.W is not None:
            w[...] = self.W[block.at]
            if some:
                np.copyto(w, 0.0, where=absent)
        else:
            np.logical_not(absent, out=w, casting="unsafe")
            if self.weights is not None:
                w *= self.weights[block.at][:, None]
        return y, w, absent if some else None

    def times(self, w: np.ndarray, y: np.ndarray) -> np.ndarray:
        """w y of :meth:`rows`; y itself, which is 0 where w is, if the weights are all 0 or 1."""
        return y if self.plain else np.multiply(w, y, out=self._room[0][2, : len(y)])


@dataclass(frozen=True, eq=False)
class Panel:
    """c responses as :meth:`GroupSums.read` finds them.

    Attributes
    ----------
    sums : GroupSums
    source : _Source
    shift : ndarray, (c,)
    N : ndarray, (G, c)
        Sums of the weights of each group.
    columns : ndarray, (pw, G, c)
        Sums of weights times each column of B.
    pairs : ndarray, (pw (pw + 1) / 2, c)
        Sums of weights times products of columns of B: the lower triangle, row by row.
    by_group, onto : ndarray, (G, c) and (pw, c)
        Weighted sums of y by group, and times the columns of B.
    squares : ndarray, (c,)
        Weighted sums of squares of y.
    n_used, largest, log_w, weight : ndarray, (c,)
        Numbers of observations, largest absolute values, sums of the logarithms of the weights, and of the weights.
    """

    sums: GroupSums
    source: _Source
    shift: np.ndarray
    N: np.ndarray
    columns: np.ndarray
    pairs: np.ndarray
    by_group: np.ndarray
    onto: np.ndarray
    squares: np.ndarray
    n_used: np.ndarray
    largest: np.ndarray
    log_w: np.ndarray
    weight: np.ndarray

    @property
    def own(self) -> bool:
        """Whether they have weights of their own."""
        return self.source.W is not None

    def leave(
        self, where: np.ndarray, level: np.ndarray, coef: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The second pass, of the responses ``where`` (k,): y less levels of the groups (G, k) and B coef; sums as
        before, of by_group, onto and squares."""
        by_group, onto, squares = (np.zeros_like(a[..., where]) for a in (self.by_group, self.onto, self.squares))
        source = self.source.take(where)
        for block in self.sums.blocks:
            y, w, _ = source.rows(block)
            y -= block.fitted(level, coef)
            if source.plain:
                y *= w  # 0 where it is missing
            wy = source.times(w, y)
            squares += np.einsum("ij,ij->j", wy, y)
            block.add_sums(wy, by_group, onto)
        return by_group, onto, squares


def _first_values(Y: np.ndarray) -> np.ndarray:
    """The first value of each column that is there, 0 where none is finite; the difference of close numbers is exact,
    so that it is as good as the mean."""
    first = np.array(Y[0], dtype=np.float64)
    left = np.flatnonzero(np.isnan(first))
    for start in range(0, len(Y), FIRST_ROWS):
        if not len(left):
            break
        some = np.asarray(Y[start : start + FIRST_ROWS, left], dtype=np.float64)
        first[left] = some[np.argmax(~np.isnan(some), axis=0), np.arange(len(left))]
        left = left[np.isnan(first[left])]
    first[~np.isfinite(first)] = 0.0
    return first


def _log_sums(w: np.ndarray, absent: np.ndarray | None) -> np.ndarray:
    """Sums of the logarithms of the columns of w (rows, c) but where they are absent."""
    if absent is not None:
        w = np.where(absent, 1.0, w)
    if w.min() > 1 / WIDE and w.max() < WIDE:
        rows = -(-len(w) // FACTORS)
        product = w[:rows].copy()
        for start in range(rows, len(w), rows):
            some = w[start : start + rows]
            product[: len(some)] *= some
        w = product
    return np.asarray(np.log(w).sum(axis=0))
