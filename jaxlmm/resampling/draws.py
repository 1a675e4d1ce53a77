"""Draws of a scheme: at random from a seed, or all there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxlmm.resampling.contrast import Tested
from jaxlmm.resampling.schemes import Scheme, block_rows

__all__ = ["Draws", "make_draws"]


@dataclass(frozen=True, eq=False)
class Draws:
    """n draws.

    Attributes
    ----------
    values : ndarray, (n, n_blocks) of signs or (n, n_obs) of rows
        Draw j of an order of rows puts row ``values[j, i]`` in the place of row i.
    exhaustive : bool
        Whether these are all there are, the data themselves among them.
    """

    values: np.ndarray
    exhaustive: bool

    @property
    def n(self) -> int:
        """Number of draws."""
        return len(self.values)


def make_draws(scheme: Scheme, tested: Tested, n: int, seed: int, *, signed: bool) -> Draws:
    """n draws at random, or all where there are no more than n + 1."""
    if scheme.n_distinct <= n + 1:
        return Draws(np.array(list(_all_draws(scheme, tested, signed))), True)
    rng = np.random.default_rng(seed)
    if scheme.flips:
        return Draws(rng.integers(0, 2, (n, scheme.n_blocks), dtype=np.int8) * 2 - 1, False)
    rows = block_rows(scheme.blocks)
    out = np.empty((n, len(scheme.blocks)), dtype=np.int32)
    if scheme.kind == "whole":
        table = np.stack(rows)
        for j in range(n):
            out[j, table.ravel()] = table[rng.permutation(len(table))].ravel()
        return Draws(out, False)
    # Rows change places within cells: sort random numbers within each cell.
    order = np.concatenate(rows)
    cell = scheme.blocks[order]
    for j in range(n):
        out[j, order] = order[np.lexsort((rng.random(len(order)), cell))]
    return Draws(out, False)


def _all_draws(scheme: Scheme, tested: Tested, signed: bool) -> Iterator[np.ndarray]:
    """Every draw that gives another result, the data themselves first."""
    if scheme.flips:
        free = scheme.n_blocks - (not signed)
        for signs in itertools.product((1, -1), repeat=free):
            yield np.array(signs + (1,) * (scheme.n_blocks - free), dtype=np.int8)
        return
    X = tested.design.X
    rows = block_rows(scheme.blocks)
    if scheme.kind == "whole":
        table = np.stack(rows)
        kinds = _codes([X[at] for at in rows])
        for order in _orders(kinds):
            draw = np.empty(len(X), dtype=np.int32)
            draw[table.ravel()] = table[order].ravel()
            yield draw
        return
    labels = _codes(list(X))
    for orders in itertools.product(*(list(_orders([labels[i] for i in at])) for at in rows)):
        draw = np.empty(len(X), dtype=np.int32)
        for at, order in zip(rows, orders, strict=True):
            draw[at] = at[order]
        yield draw


def _codes(items: list[np.ndarray]) -> list[int]:
    known: dict[bytes, int] = {}
    return [known.setdefault(np.ascontiguousarray(item).tobytes(), len(known)) for item in items]


def _orders(labels: list[int]) -> Iterator[np.ndarray]:
    """For each way to share out labels among the positions: which position's value goes where; the identity first.

    Positions of one label get their values in order, so that each way comes once.
    """
    places = {label: [i for i, own in enumerate(labels) if own == label] for label in labels}
    for shared in _arrangements(sorted(labels), labels):
        taken = {label: iter(at) for label, at in places.items()}
        order = np.empty(len(labels), dtype=np.intp)
        for value, label in enumerate(shared):
            order[next(taken[label])] = value
        yield order


def _arrangements(labels: list[int], first: list[int]) -> Iterator[list[int]]:
    """All distinct orders of the labels, ``first`` before the others."""
    yield list(first)
    left = dict.fromkeys(labels, 0)
    for label in labels:
        left[label] += 1
    made: list[int] = []

    def rest() -> Iterator[list[int]]:
        if len(made) == len(labels):
            if made != first:
                yield list(made)
            return
        for label, n in left.items():
            if n:
                left[label] -= 1
                made.append(label)
                yield from rest()
                made.pop()
                left[label] += 1

    yield from rest()
